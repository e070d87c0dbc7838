#!/usr/bin/env python3
"""Makes the year's lines from the `flights.csv` of nycflights13, as the week beside this file was made.

    Rscript -e 'write.csv(nycflights13::flights, "flights.csv", row.names = FALSE)'
    examples/data/year.py flights.csv > flights-2013.jsonl

Any CSV file with the columns of that data set will do; an unknown value is empty or NA. Lines come out in the order in which planes
really left, those of one minute in the order of the file.
"""

import csv
import datetime
import json
import sys
import zoneinfo
from collections.abc import Iterable, Iterator

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")


def number(text: str) -> int | None:
    """A whole number, or None where it is unknown; R writes some with a fraction of zero."""
    return None if text in ("", "NA") else int(float(text))


def lines(rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """One JSON object for each row."""
    flights = []
    for row in rows:
        hour, minute = divmod(int(float(row["sched_dep_time"])), 100)
        local = datetime.datetime(int(row["year"]), int(row["month"]), int(row["day"]), hour, minute, tzinfo=NEW_YORK)
        time = local.astimezone(datetime.UTC)
        flight = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tailnum": None if row["tailnum"] in ("", "NA") else row["tailnum"],
            "carrier": row["carrier"],
            "flight": number(row["flight"]),
            "origin": row["origin"],
            "dest": row["dest"],
            "dep_delay": number(row["dep_delay"]),
            "arr_delay": number(row["arr_delay"]),
            "air_time": number(row["air_time"]),
            "distance": number(row["distance"]),
        }
        flights.append((time + datetime.timedelta(minutes=flight["dep_delay"] or 0), flight))
    # Stable: what left in one minute keeps its order.
    for _, flight in sorted(flights, key=lambda left: left[0]):
        yield json.dumps(flight, separators=(",", ":"))


def main() -> int:
    """Reads the file named and writes lines to standard output."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], newline="") as file:
        for line in lines(csv.DictReader(file)):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
