"""Writers and readers beside passes of the cleaner: nothing is lost, and memory stays flat.

Writers give every key rising numbers, with tombstones between; readers replay the whole topic again and again, and what they
see of a key never goes back. At the end the table of a replay is the one that was written, in this run and after a restart.

    tests/compat/mixed.py --seconds 900        a quarter of an hour instead of two minutes
"""

import argparse
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from server import Server
from suite import Suite, equal

KEYS = 500
WRITERS = 2
ROUND_RECORDS = 2000
TOMBSTONE_EVERY = 13
VALUE_BYTES = 200
TOPIC = "mixed"
SETTINGS = {
    "cleanup.policy": "compact",
    "segment.bytes": "262144",
    "max.message.bytes": "65536",
    "min.cleanable.dirty.ratio": "0.1",
    "delete.retention.ms": "3600000",
    "max.compaction.lag.ms": "20000",
}
# What a run may have more at its end than after its first third, in KiB: caches of files and mappings that still fill.
GROWTH_KIB = 32 * 1024


class Traffic:
    """What was written, and the first thing that went wrong."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.newest: dict[str, int] = {}
        self.over = threading.Event()
        self.failure: Exception | None = None
        self.rounds = 0

    def guarded(self, work: Callable[..., None], *arguments: int) -> None:
        """Runs `work` again and again until the end or the first failure."""
        try:
            while not self.over.is_set():
                work(*arguments)
        except Exception as failure:
            self.failure = self.failure or failure
            self.over.set()

    def write(self, writer: int) -> None:
        """One round of one writer: its own keys, each number once, the values first and then some tombstones."""
        start = self.newest.get(f"round-{writer}", 0)
        values, tombstones, newest = [], [], {}
        for number in range(start, start + ROUND_RECORDS):
            key = f"{writer}-{number % KEYS}"
            values.append(f"{key}\t{number}:{'x' * VALUE_BYTES}\n")
            newest[key] = number
            if number % TOMBSTONE_EVERY == 0 and number >= start + ROUND_RECORDS - KEYS:
                tombstones.append(f"{key}\tgone\n")
                newest[key] = -1
        self.server.cli("produce", TOPIC, "--key-separator", "\\t", stdin="".join(values).encode())
        if tombstones:
            written = ("produce", TOPIC, "--key-separator", "\\t", "--null-value", "gone")
            self.server.cli(*written, stdin="".join(tombstones).encode())
        # Acknowledged: from here on it must be there.
        self.newest.update(newest)
        self.newest[f"round-{writer}"] = start + ROUND_RECORDS
        self.rounds += 1

    def replay(self) -> None:
        """One whole read: of each key, numbers rise from record to record."""
        seen: dict[str, int] = {}
        for record in self.server.read(TOPIC):
            if record["value"] is None:
                continue
            number = int(record["value"].split(":")[0])
            if number <= seen.get(record["key"], -1):
                raise AssertionError(f"{record['key']} has {number} after {seen[record['key']]}")
            seen[record["key"]] = number

    def expected(self) -> dict[str, int]:
        """The table that was written."""
        return {key: number for key, number in self.newest.items() if number >= 0 and not key.startswith("round-")}


def table(server: Server) -> dict[str, int]:
    """The table that a replay ends with."""
    values: dict[str, int] = {}
    for record in server.read(TOPIC):
        if record["value"] is None:
            values.pop(record["key"], None)
        else:
            values[record["key"]] = int(record["value"].split(":")[0])
    return values


def rss_kib(server: Server) -> int:
    """Memory of the server that is not pages of its files."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])


def metric(server: Server, name: str) -> int:
    """The value of a metric without labels."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return int(re.search(rf"^{name} (\d+)$", text, re.MULTILINE)[1])


def run(server: Server, seconds: float) -> Traffic:
    """Lets writers and readers run beside the cleaner; memory is looked at after a third and at the end."""
    traffic = Traffic(server)
    threads = [threading.Thread(target=traffic.guarded, args=(traffic.write, writer)) for writer in range(WRITERS)]
    threads.append(threading.Thread(target=traffic.guarded, args=(traffic.replay,)))
    for thread in threads:
        thread.start()
    traffic.over.wait(seconds / 3)
    early: list[int] = []
    late: list[int] = []
    end = time.monotonic() + seconds * 2 / 3
    while time.monotonic() < end and not traffic.over.wait(0.5):
        (early if time.monotonic() < end - seconds / 3 else late).append(rss_kib(server))
    traffic.over.set()
    for thread in threads:
        thread.join()
    if traffic.failure:
        raise traffic.failure
    print(f"       {traffic.rounds} rounds of {ROUND_RECORDS} records; memory at most {max(early)} KiB, later {max(late)} KiB")
    if max(late) > max(early) + GROWTH_KIB:
        raise AssertionError(f"memory grew from {max(early)} to {max(late)} KiB")
    return traffic


def main() -> int:
    """Runs the traffic, then compares tables before and after a restart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long; default 120")
    arguments = parser.parse_args()
    suite = Suite("mixed")
    with tempfile.TemporaryDirectory(prefix="siltstone-mixed-") as folder:
        data = Path(folder) / "data"
        traffic = None
        with Server(data, "--set", "cleaner.backoff_ms=200") as server:
            settings = [part for name, value in SETTINGS.items() for part in ("--config", f"{name}={value}")]
            server.cli("topic", "create", TOPIC, "--partitions", "1", *settings)
            with suite.case("writers, readers and passes run beside each other, and memory stays flat"):
                traffic = run(server, arguments.seconds)
            if traffic:
                with suite.case("passes ran by themselves, and none failed"):
                    if metric(server, "siltstone_cleaner_passes_total") < 2:
                        raise AssertionError("there was no pass to speak of")
                    equal(metric(server, "siltstone_cleaner_failures_total"), 0, "passes that failed")
                with suite.case("a replay ends with the table that was written"):
                    equal(table(server), traffic.expected(), "the table")
                with suite.case("compacted to its end it is the same table, one record a key"):
                    server.cli("topic", "compact", TOPIC)
                    values = [record["key"] for record in server.read(TOPIC) if record["value"] is not None]
                    equal(sorted(values), sorted(traffic.expected()), "keys with a value")
                    equal(table(server), traffic.expected(), "the table")
            server.stop()
        if traffic:
            with suite.case("and after a restart"), Server(data) as server:
                equal(table(server), traffic.expected(), "the table")
                server.stop()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
