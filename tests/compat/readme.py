"""Runs every command of the README, verbatim and in order, and compares the answers with ones computed from the input file.

Works in a fresh copy of the checkout whose `target` is the checkout's own, so that no dependency is built twice. The
first command starts the server; it is stopped by SIGTERM at the end, started again, and must still hold the same records. Any other
command that starts a server is left running to the end, too.
A command for which no check is written here is a failure: the README promises nothing untested. With `--input` the same commands
run over another file of flights, which is to be the year: its row of the README's table holds then. What the README does with the
year itself is done without it with the week, and again a week later, and so on, until there are flights in February.
"""

import argparse
import contextlib
import csv
import dataclasses
import datetime
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path

import flights
import record_batch
from server import CHECKOUT, Server, by_partition, objects, target_dir
from suite import Suite, equal

READY_LINE = "ready grpc=127.0.0.1:9095 http=127.0.0.1:9644 data=./siltstone-data"
SERVE = "siltstone serve "
INPUT = "examples/data/flights-2013-week1.jsonl"
YEAR = "flights-2013.jsonl"
WEEKS = 6
COMMAND_WITHIN_S = 7200
RETAINED_WITHIN_S = 300
YEAR_SCRIPT = "examples/data/year.py"
# The size of a log depends on how records fell into batches, somewhat.
SIZES_DIFFER_BY = 0.05
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}


@dataclasses.dataclass(frozen=True)
class Command:
    """One command line of the README, and the programs that its section says it needs."""

    text: str
    needs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command printed."""

    stdout: str
    stderr: str


def commands(readme: str) -> Iterator[Command]:
    """Every line of every ```sh block. `<!-- needs: PROGRAM ... -->` holds to the end of its section."""
    needs: tuple[str, ...] = ()
    inside, pending = False, ""
    for line in readme.splitlines():
        if inside:
            if line.startswith("```"):
                inside = False
            elif line.endswith("\\"):
                pending += line + "\n"
            elif line.strip() and not line.startswith("#"):
                yield Command(pending + line, needs)
                pending = ""
        elif line == "```sh":
            inside = True
        elif line.startswith("## "):
            needs = ()
        elif marker := re.fullmatch(r"<!-- needs: (.+) -->", line):
            needs = tuple(marker[1].split())


class Walk:
    """A reader of the README who types what it says, in a directory of his own."""

    def __init__(self, root: Path, input_file: Path | None) -> None:
        self.root = root
        self.copy_checkout()
        if input_file is not None:
            opener = gzip.open if input_file.suffix == ".gz" else open
            with opener(input_file, "rb") as source, (root / INPUT).open("wb") as copy:
                shutil.copyfileobj(source, copy)
            shutil.copy2(root / INPUT, root / YEAR)
        else:
            (root / YEAR).write_text("".join(later_weeks((root / INPUT).read_text())))
        self.flights = flights.load(root / INPUT)
        self.year = flights.load(root / YEAR)
        self.environment = {name: value for name, value in os.environ.items() if name not in ("CARGO_TARGET_DIR", "SILTSTONE_SERVER")}
        self.exports = root.with_name(root.name + ".exports")
        self.exports.touch()
        self.started: list[str] = []
        self.beside: list[Server] = []
        self.row = "the week" if input_file is None else "the year"
        self.partitions: dict[int, list[dict]] = {}
        self.year_partitions: dict[int, list[dict]] = {}
        self.recent_start = 0
        self.planes_bytes = 0
        self.verified = (0, 0)

    def copy_checkout(self) -> None:
        """Copies the files that a clone would have; times too, so that cargo sees no change."""
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
        for name in filter(None, names):
            if (CHECKOUT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, self.root / name)
        target_dir().mkdir(parents=True, exist_ok=True)
        (self.root / "target").symlink_to(target_dir())

    def start(self, command: str, ready_line: str = READY_LINE) -> Server:
        """Runs a serve command in the background; its ready line must be the one that the README shows, or that its flags make."""
        stderr = self.root.with_name(f"{self.root.name}.{len(self.started)}.stderr")
        script = f'. "{self.exports}"\nexec {command}'
        server = Server.from_command(["bash", "-c", script], self.root, self.environment, stderr, COMMAND_WITHIN_S)
        self.started.append(command)
        if server.ready_line != ready_line:
            server.kill()
        equal(server.ready_line, ready_line, "the ready line")
        return server

    def run(self, command: str) -> Answer:
        """Runs one command as typed into a shell that remembers what was exported before; it must exit 0."""
        script = f'. "{self.exports}"\n{command}\nstatus=$?\nexport -p >"{self.exports}"\nexit $status\n'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"exited {done.returncode}; stdout: {done.stdout[-1500:]}; stderr: {done.stderr[-3000:]}")
        return Answer(done.stdout, done.stderr)

    def check(self, command: str) -> None:
        """Runs `command` and compares its answer."""
        checks = [check for start, check in CHECKS.items() if command.startswith(start)]
        if len(checks) != 1:
            raise AssertionError(f"{len(checks)} checks are written for this command, expected one")
        checks[0](self, command, self.run(command))

    def read_year(self, command: str) -> dict[int, list[dict]]:
        """The whole topic of the year, by partition, from the server that `command` names."""
        return by_partition(objects(self.run(f"siltstone read year --json {server_of(command)}").stdout))

    def read_everything(self) -> dict[int, list[dict]]:
        """The whole topic, by partition."""
        return by_partition(objects(self.run("siltstone read flights --json").stdout))


def later_weeks(week: str) -> Iterator[str]:
    """The lines of the week, and of weeks like it, up to and with one in February."""
    for number in range(WEEKS):
        for line in week.splitlines(keepends=True):
            at = json.loads(line)["time"]
            later = datetime.datetime.fromisoformat(at) + datetime.timedelta(weeks=number)
            yield line.replace(at, later.strftime("%Y-%m-%dT%H:%M:%SZ"))


def server_of(command: str) -> str:
    """The flag that says which server a command speaks to."""
    return re.search(r"--server \S+", command)[0]


def ready_line_of(command: str) -> str:
    """The ready line that the flags of a serve command make."""
    grpc, http, data = (re.search(rf"--{flag} (\S+)", command)[1] for flag in ("grpc-listen", "http-listen", "data-dir"))
    return f"ready grpc={grpc} http={http} data={data}"


def nothing_to_compare(_walk: Walk, _command: str, _answer: Answer) -> None:
    """The exit code is the answer."""


def check_tests(_walk: Walk, _command: str, answer: Answer) -> None:
    """Every test binary ends with `test result: ok`, and some test ran."""
    results = re.findall(r"test result: (\w+)\. (\d+) passed", answer.stdout)
    if {word for word, _ in results} != {"ok"} or sum(int(passed) for _, passed in results) == 0:
        raise AssertionError(f"test results: {results}")


def check_path(walk: Walk, _command: str, _answer: Answer) -> None:
    """The command is found, and it is the one just built."""
    found = walk.run("command -v siltstone").stdout.strip()
    equal(Path(found).resolve(), target_dir() / "release" / "siltstone", "the command on the path")


def check_create(walk: Walk, _command: str, answer: Answer) -> None:
    """It names the topic; four empty partitions are there."""
    if "flights" not in answer.stdout:
        raise AssertionError(f"the topic is not named: {answer.stdout!r}")
    listed = objects(walk.run("siltstone offsets flights --at 1970-01-01T00:00:00Z --json").stdout)
    expected = [{"topic": "flights", "partition": p, "offset": None, "timestamp_ms": None} for p in range(flights.PARTITIONS)]
    equal(listed, expected, "offsets of an empty topic")


def check_produce(walk: Walk, _command: str, answer: Answer) -> None:
    """Every line is acknowledged, and the whole topic is the whole input."""
    if not re.search(rf"(?<![\d,]){len(walk.flights)} records acknowledged", answer.stdout + answer.stderr):
        raise AssertionError(f"expected {len(walk.flights)} records acknowledged: {answer}")
    walk.partitions = walk.read_everything()
    flights.check_loaded(walk.partitions, walk.flights, flights.PARTITIONS)


def check_read(walk: Walk, command: str, answer: Answer) -> None:
    """Exactly the records whose time lies in the half-open range, in the order of the log."""
    check_range(command, answer, walk.partitions, walk.flights)


def check_range(command: str, answer: Answer, partitions: dict[int, list[dict]], lines: list[flights.Flight]) -> None:
    """As told by `check_read`, of what a topic holds and of the lines that were loaded."""
    start, end = (flights.epoch_ms(re.search(rf"--{bound} (\S+)", command)[1]) for bound in ("from", "to"))
    got = by_partition(objects(answer.stdout))
    expected = {
        partition: [record for record in records if start <= record["timestamp_ms"] < end]
        for partition, records in partitions.items()
    }
    equal(got, {partition: records for partition, records in expected.items() if records}, "records in the range")
    values = sorted(record["value"] for records in got.values() for record in records)
    from_input = sorted(flight.value for flight in lines if start <= flight.timestamp_ms < end)
    equal(values, from_input, "lines of the input in the range")
    if not values:
        raise AssertionError("the range is empty: it shows nothing")


def check_offsets(walk: Walk, command: str, answer: Answer) -> None:
    """Per partition the first record that is late enough, in the text and in JSON."""
    check_first(walk, command, answer, ("flights", walk.partitions))


def check_first(walk: Walk, command: str, answer: Answer, topic: tuple[str, dict[int, list[dict]]]) -> None:
    """As told by `check_offsets`, of a topic and what it holds."""
    name, partitions = topic
    expected = flights.first_at(partitions, flights.epoch_ms(re.search(r"--at (\S+)", command)[1]))
    in_json = objects(walk.run(command + " --json").stdout)
    equal(
        in_json,
        [{"topic": name, "partition": p, "offset": o, "timestamp_ms": t} for p, (o, t) in sorted(expected.items())],
        "offsets in JSON",
    )
    for partition, (offset, _) in expected.items():
        require_line(answer.stdout, partition, offset)


def check_describe(walk: Walk, command: str, answer: Answer) -> None:
    """Each partition ends where its records end."""
    ends = {partition: len(walk.partitions.get(partition, [])) for partition in range(flights.PARTITIONS)}
    in_json = [entry for line in objects(walk.run(command + " --json").stdout) for entry in members_with(line, "partition")]
    equal({entry["partition"]: entry["high_watermark"] for entry in in_json}, ends, "high watermarks in JSON")
    for partition, end in ends.items():
        require_line(answer.stdout, partition, end)


def check_hold(walk: Walk, _command: str, _answer: Answer) -> None:
    """The hold is listed as it was asked for."""
    listed = objects(walk.run("siltstone topic hold list recent --json").stdout)
    equal(listed, [{"hold": "case-7", "partition": None, "offsets": [5000, 5001], "times_ms": None}], "holds")


def check_retention(walk: Walk, command: str, answer: Answer) -> None:
    """What goes ends before the held record, in the text and in JSON."""
    (preview,) = objects(walk.run(command + " --json").stdout)
    equal(preview["stay"], {"reason": "held", "hold": "case-7"}, "why the rest stays")
    if not 0 < preview["log_start_offset"] <= 5000:
        raise AssertionError(f"the log would start at {preview['log_start_offset']}")
    walk.recent_start = preview["log_start_offset"]
    require_line(answer.stdout, walk.recent_start)


def check_retained(walk: Walk, command: str, _answer: Answer) -> None:
    """Soon the log starts where the preview said, and the held record is there."""
    deadline = time.monotonic() + RETAINED_WITHIN_S
    start = None
    while start != walk.recent_start and time.monotonic() < deadline:
        time.sleep(0.5)
        (topic,) = objects(walk.run(command + " --json").stdout)
        start = topic["partitions"][0]["log_start_offset"]
    equal(start, walk.recent_start, "log start after the look")
    offsets = [record["offset"] for record in objects(walk.run("siltstone read recent --json").stdout)]
    equal(offsets, list(range(walk.recent_start, len(walk.flights))), "offsets that are left")


def check_no_hold(walk: Walk, _command: str, _answer: Answer) -> None:
    """None is listed any more."""
    equal(objects(walk.run("siltstone topic hold list recent --json").stdout), [], "holds")


def newest_planes(walk: Walk) -> dict[str, tuple[int, str]]:
    """The last record of each plane and its offset, from the input alone: lines with a key, in the order of the file."""
    keyed = (flight for flight in walk.flights if flight.key is not None)
    return {flight.key: (offset, flight.value) for offset, flight in enumerate(keyed)}


def check_planes_produced(walk: Walk, _command: str, answer: Answer) -> None:
    """Lines without a key are left out and counted; all others are there."""
    skipped = sum(flight.key is None for flight in walk.flights)
    said = answer.stdout + answer.stderr
    require_line(said, len(walk.flights) - skipped)
    require_line(said, skipped)
    equal(len(objects(walk.run("siltstone read planes --json").stdout)), len(walk.flights) - skipped, "records before")
    walk.planes_bytes = planes_log_bytes(walk)


def planes_log_bytes(walk: Walk) -> int:
    """What the log of the planes takes on disk."""
    return sum(file.stat().st_size for file in (walk.root / "siltstone-data" / "planes-0").glob("*.log"))


def check_table(walk: Walk) -> None:
    """The README's row for this input says what came out: counts to the last, sizes within a little."""
    text = (CHECKOUT / "README.md").read_text()
    (row,) = re.findall(rf"^\| {walk.row} \| (.+) \|$", text, re.MULTILINE)
    *counts, before, after = row.split(" | ")
    keyed = sum(flight.key is not None for flight in walk.flights)
    expected = [keyed, len(walk.flights) - keyed, len(newest_planes(walk))]
    equal([int(count.replace(",", "")) for count in counts], expected, f"records, left out and planes of {walk.row}")
    for told, measured in ((before, walk.planes_bytes), (after, planes_log_bytes(walk))):
        size, unit = told.split()
        if abs(float(size) * UNITS[unit] - measured) > SIZES_DIFFER_BY * measured:
            raise AssertionError(f"the README says {told} for {walk.row}, here it is {measured} bytes")


def check_compact(walk: Walk, command: str, answer: Answer) -> None:
    """The log became smaller, as the README's table says, and holds as many values as there are planes; again changes nothing."""
    planes = newest_planes(walk)
    require_line(answer.stdout, 0, len(planes))
    check_table(walk)
    (again,) = objects(walk.run(command + " --json").stdout)
    equal((again["state"], again["values_kept"], again["records_dropped"]), ("done", len(planes), 0), "compacted again")
    files = planes_log_bytes(walk)
    equal(files, again["after_bytes"], "bytes of the log files")
    values = sum(len(value.encode()) for _, value in planes.values())
    everything = sum(len(flight.value.encode()) for flight in walk.flights if flight.key is not None)
    if not values < files < everything:
        raise AssertionError(f"{files} bytes for {values} bytes of values, of {everything} before")


def check_explain(walk: Walk, command: str, _answer: Answer) -> None:
    """All is clean, and the live keys are known exactly."""
    (told,) = objects(walk.run(command + " --json").stdout)
    equal(told["keys"], {"live": len(newest_planes(walk)), "tombstones": 0, "exact": True}, "keys")
    equal(told["cleaner_point"], told["log_end_offset"], "the cleaner point")
    equal((told["dirty_bytes"], told["why_not_now"]), (0, "nothing is dirty"), "why there is no pass")


def check_planes(walk: Walk, _command: str, answer: Answer) -> None:
    """Exactly one record for each plane, the last one, at its offset."""
    got = [(record["key"], record["offset"], record["value"]) for record in objects(answer.stdout)]
    expected = [(key, offset, value) for key, (offset, value) in newest_planes(walk).items()]
    equal(got, sorted(expected, key=lambda plane: plane[1]), "the planes")


def check_dump(walk: Walk, command: str, answer: Answer) -> None:
    """The batches that the tool names are those in the file, and they cover every offset up to the next file, or the end."""
    file = walk.root / command.split()[-1]
    batches = record_batch.headers(file.read_bytes())
    next_offset = 0
    for batch in batches:
        equal(batch.base_offset, next_offset, f"first offset of the batch at {batch.position}")
        equal(batch.records, batch.last_offset - batch.base_offset + 1, f"records of the batch at {batch.position}")
        next_offset = batch.last_offset + 1
    begins = sorted(int(log.stem) for log in file.parent.glob("*.log"))
    end = next((begin for begin in begins if begin > int(file.stem)), len(walk.partitions[0]))
    equal(next_offset, end, "offset after the last batch")
    in_json = [entry for line in objects(walk.run(command + " --json").stdout) for entry in members_with(line, "base_offset")]
    places = [(entry["position"], entry["base_offset"], entry["last_offset"]) for entry in in_json]
    equal(places, [(batch.position, batch.base_offset, batch.last_offset) for batch in batches], "batches in JSON")
    for batch in batches:
        require_line(answer.stdout, batch.base_offset, batch.last_offset)


def check_adopt(walk: Walk, _command: str, _answer: Answer) -> None:
    """What was adopted has the records of the partition that was copied, at their offsets."""
    adopted = by_partition(objects(walk.run("siltstone read orders --json").stdout))
    expected = [{**record, "topic": "orders"} for record in walk.partitions[0]]
    equal(adopted, {0: expected}, "the adopted partition")


def check_list(walk: Walk, command: str, answer: Answer) -> None:
    """The topic is listed to who shows a certificate, and nothing to who does not."""
    require_line(answer.stdout, 1)
    if "safe" not in answer.stdout:
        raise AssertionError(f"the topic is not listed: {answer.stdout!r}")
    nameless = re.sub(r" --tls-certificate \S+ --tls-key \S+", "", command)
    try:
        walk.run(nameless)
    except AssertionError as refused:
        if "certificate" not in str(refused):
            raise
    else:
        raise AssertionError("a client without a certificate was let in")


def check_grpc_client(_walk: Walk, _command: str, answer: Answer) -> None:
    """What was written comes back."""
    for name in ("Ada", "Grace", "Barbara"):
        if f" {name}: hello, {name}\n" not in answer.stdout:
            raise AssertionError(f"{name} is not greeted: {answer.stdout!r}")


def check_year_produced(walk: Walk, command: str, answer: Answer) -> None:
    """Every line is acknowledged and there, each in its place."""
    if not re.search(rf"(?<![\d,]){len(walk.year)} records acknowledged", answer.stdout + answer.stderr):
        raise AssertionError(f"expected {len(walk.year)} records acknowledged: {answer}")
    walk.year_partitions = walk.read_year(command)
    flights.check_loaded(walk.year_partitions, walk.year, flights.PARTITIONS)


def check_archived(walk: Walk, command: str, answer: Answer) -> None:
    """All of it is archived, in many segments; soon nothing of it is on the local disk, and all can be read still."""
    ends = {partition: len(records) for partition, records in walk.year_partitions.items()}
    again = command.replace(" --wait-s 600", "") + " --json"
    rows = objects(walk.run(again).stdout)
    equal({row["partition"]: row["end_offset"] for row in rows}, ends, "where the archive ends")
    equal({row["partition"]: row["log_end_offset"] for row in rows}, ends, "where the log ends")
    if sum(row["segments"] for row in rows) < 4 * flights.PARTITIONS:
        raise AssertionError(f"few segments: {rows}")
    for partition, end in ends.items():
        require_line(answer.stdout, partition, 0, end)
    deadline = time.monotonic() + RETAINED_WITHIN_S
    while any(row["local_start_offset"] != row["log_end_offset"] for row in rows) and time.monotonic() < deadline:
        time.sleep(0.5)
        rows = objects(walk.run(again).stdout)
    equal({row["partition"]: row["local_start_offset"] for row in rows}, ends, "where the local part begins")
    data = [walk.root / "year" / folder / f"year-{partition}" for partition in ends for folder in ("data", "restored")]
    logs = [file for folder in data for file in folder.glob("*.log")]
    equal(sum(file.stat().st_size for file in logs), 0, "bytes of the log on the local disk")
    equal(walk.read_year(command), walk.year_partitions, "the topic from the archive")
    # The server's own topics, too: what counts the archive from now on finds nothing new.
    walk.run(f"siltstone tier status --wait-s 600 {server_of(command)}")


def check_read_year(walk: Walk, command: str, answer: Answer) -> None:
    """Exactly the records of that day."""
    check_range(command, answer, walk.year_partitions, walk.year)


def check_offsets_year(walk: Walk, command: str, answer: Answer) -> None:
    """As of a topic whose log is local."""
    check_first(walk, command, answer, ("year", walk.year_partitions))


def check_verify(walk: Walk, command: str, answer: Answer) -> None:
    """Nothing is wrong; every record was looked at; the root hash is told."""
    (told,) = objects(walk.run(command + " --json").stdout)
    equal((told["findings"], re.fullmatch("[0-9a-f]{64}", told["root"]) is not None), (0, True), f"findings and root of {told}")
    if told["records"] < len(walk.year) or told["read_bytes"] < told["object_bytes"]:
        raise AssertionError(f"not all was read: {told}")
    require_line(answer.stdout, told["segments"], told["records"])
    if f"root {told['root']}" not in answer.stdout:
        raise AssertionError(f"another root than {told['root']}: {answer.stdout}")
    walk.verified = (told["segments"], told["records"])


def check_stopped(walk: Walk, _command: str, _answer: Answer) -> None:
    """The server beside the first ends by itself, exit 0."""
    walk.beside.pop().ended()


def check_restored(walk: Walk, command: str, answer: Answer) -> None:
    """What `tier verify` counted is there, and the records of the topic; nothing of it was copied; a second time is refused."""
    segments, records = walk.verified
    require_line(answer.stdout, segments)
    require_line(answer.stdout, flights.PARTITIONS, len(walk.year))
    told = objects(walk.run(command.replace("year/restored", "year/planned") + " --dry-run --json").stdout)
    equal(sum(topic.get("records", 0) for topic in told), records, "records that would come back")
    if (walk.root / "year" / "planned").exists():
        raise AssertionError("a dry run made a directory")
    try:
        walk.run(command)
    except AssertionError as refused:
        if "it is a data directory already" not in str(refused):
            raise
    else:
        raise AssertionError("a directory was restored over another")


def check_script(walk: Walk, command: str, answer: Answer) -> None:
    """The script finds what `tier verify` counted, and in it the records that were read, each with all that it has."""
    listed = re.findall(r"^\S+ \d+ to -?\d+: (\d+) records, \d+ bytes$", answer.stdout, re.MULTILINE)
    equal(len(listed), len(answer.stdout.splitlines()), f"lines of segments in {answer.stdout[:500]}")
    equal((len(listed), sum(map(int, listed))), walk.verified, "segments and records")
    found = objects(walk.run(command + " year").stdout)
    for record in found:
        record["timestamp_ms"] = record.pop("timestamp")
    equal(by_partition(found), walk.year_partitions, "records that the script reads")


def check_bench_run(walk: Walk, command: str, _answer: Answer) -> None:
    """One object, whose last read found what was written; the page, where one was asked for, has charts and needs nothing from outside."""
    (record,) = objects((walk.root / command.split("> ")[1]).read_text())
    told = record["verification"]
    equal(told["found_records"], told["written_records"], "records found")
    if told["written_records"] < 50_000:
        raise AssertionError(f"few records: {told}")
    if page := re.search(r"--report (\S+)", command):
        text = (walk.root / page[1]).read_text()
        if text.count("<svg") < 4 or re.search(r"https?:|src=|href=", text):
            raise AssertionError(f"{page[1]} has {text.count('<svg')} charts, or an address")


def check_bench_compare(_walk: Walk, _command: str, answer: Answer) -> None:
    """The figures of both, and what differs: the seed alone."""
    for name in ("produce.records", "end_to_end.p99", "workload.seed"):
        if name not in answer.stdout:
            raise AssertionError(f"no {name} in {answer.stdout}")


CHECKS: dict[str, Callable[[Walk, str, Answer], None]] = {
    "cargo test": check_tests,
    "export PATH=": check_path,
    "siltstone topic create flights": check_create,
    "siltstone produce flights": check_produce,
    "siltstone read flights": check_read,
    "siltstone offsets flights": check_offsets,
    "siltstone topic describe flights": check_describe,
    "siltstone topic create recent": nothing_to_compare,
    "siltstone produce recent": nothing_to_compare,
    "siltstone topic hold add": check_hold,
    "siltstone topic alter": nothing_to_compare,
    "siltstone topic retention": check_retention,
    "siltstone topic describe recent": check_retained,
    "siltstone topic hold remove": check_no_hold,
    "siltstone topic create planes": nothing_to_compare,
    "siltstone produce planes": check_planes_produced,
    "siltstone topic compact planes": check_compact,
    "siltstone topic explain planes": check_explain,
    "siltstone read planes": check_planes,
    "siltstone segment dump": check_dump,
    "cp -r siltstone-data/": nothing_to_compare,
    "siltstone topic adopt": check_adopt,
    "mkdir year": nothing_to_compare,
    "siltstone topic create year": nothing_to_compare,
    "siltstone produce year": check_year_produced,
    "siltstone tier status": check_archived,
    "siltstone read year": check_read_year,
    "siltstone offsets year": check_offsets_year,
    "siltstone tier verify": check_verify,
    "pkill -f ": check_stopped,
    "while pgrep -f ": nothing_to_compare,
    "rm -r year/data": nothing_to_compare,
    "siltstone tier restore": check_restored,
    "python3 examples/read_archive.py": check_script,
    "siltstone bench run": check_bench_run,
    "siltstone bench compare": check_bench_compare,
    "mkdir tls": nothing_to_compare,
    "openssl req": nothing_to_compare,
    "siltstone topic create safe": nothing_to_compare,
    "siltstone topic list": check_list,
    "python3 -m venv": nothing_to_compare,
    ".venv/bin/pip install": nothing_to_compare,
    ".venv/bin/python -m grpc_tools.protoc": nothing_to_compare,
    "PYTHONPATH=.venv .venv/bin/python": check_grpc_client,
}


def require_line(text: str, *numbers: int | None) -> None:
    """Raises unless one line of `text` holds these numbers in this order, whatever stands between them."""
    wanted = [str(number) for number in numbers if number is not None]
    pattern = re.compile(".*".join(rf"(?<!\d){number}(?!\d)" for number in wanted))
    if any(pattern.search(re.sub(r"(?<=\d),(?=\d{3})", "", line)) for line in text.splitlines()):
        return
    raise AssertionError(f"no line with {wanted} in: {text[:1500]}")


def members_with(value: object, name: str) -> Iterator[dict]:
    """Every object inside `value`, at any depth, that has a member called `name`."""
    if isinstance(value, dict):
        if name in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from members_with(member, name)


def check_year_script(walk: Walk) -> None:
    """From the data set's columns the script makes these very lines; the columns are made here, from the lines."""
    rows = [json.loads(flight.value) for flight in walk.flights]
    table = io.StringIO()
    names = ["year", "month", "day", "sched_dep_time", *list(rows[0])[1:]]
    writer = csv.DictWriter(table, names, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        local = datetime.datetime.fromisoformat(row["time"]).astimezone(zoneinfo.ZoneInfo("America/New_York"))
        known = {name: "NA" if value is None else value for name, value in row.items()}
        when = {"year": local.year, "month": local.month, "day": local.day, "sched_dep_time": local.hour * 100 + local.minute}
        writer.writerow({**known, **when})
    file = walk.root.with_name(walk.root.name + ".csv")
    file.write_text(table.getvalue())
    made = subprocess.run([sys.executable, walk.root / YEAR_SCRIPT, file], capture_output=True, text=True, check=True).stdout
    equal(made.splitlines(), [flight.value for flight in walk.flights], f"the lines that {YEAR_SCRIPT} makes")


def walk_through(suite: Suite, walk: Walk, already_run: list[str]) -> None:
    """Types every command, then stops the server, starts it again and looks whether all is still there."""
    serve, *rest = commands((CHECKOUT / "README.md").read_text())
    with contextlib.ExitStack() as servers:
        with suite.case(serve.text):
            server = servers.enter_context(walk.start(serve.text))
        if suite.failed:
            return
        for command in rest:
            missing = [program for program in command.needs if shutil.which(program) is None]
            if command.text in already_run:
                suite.skip(command.text, "ran before, as a step of its own")
            elif missing:
                suite.missing(command.text, f"{', '.join(missing)} is not installed")
            elif command.text.startswith(SERVE):
                with suite.case(command.text):
                    walk.beside.append(servers.enter_context(walk.start(command.text, ready_line_of(command.text))))
            else:
                with suite.case(command.text):
                    walk.check(command.text)
        with suite.case("SIGTERM stops the server, and any beside it, exit 0"):
            for running in (*walk.beside, server):
                running.stop()
        with suite.case("the same records are there after a restart"):
            server = servers.enter_context(walk.start(serve.text))
            equal(walk.read_everything(), walk.partitions, "the topic after a restart")
            flights.check_loaded(walk.partitions, walk.flights, flights.PARTITIONS)
            server.stop()


def main() -> int:
    """Runs the README; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="the year, to load in place of the committed week; may be .gz")
    parser.add_argument("--already-run", action="append", default=[], metavar="COMMAND", help="a command to leave out, counted as skipped")
    arguments = parser.parse_args()
    suite = Suite("readme")
    with tempfile.TemporaryDirectory(prefix="siltstone-readme-") as folder:
        root = Path(folder) / "checkout"
        root.mkdir()
        with suite.case("the hashes used here give known answers"):
            flights.check_known_answers()
            record_batch.check_known_answers()
        walk = Walk(root, arguments.input)
        with suite.case(f"{YEAR_SCRIPT} makes the lines of the input from the columns of its data set"):
            check_year_script(walk)
        walk_through(suite, walk, arguments.already_run)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
