"""Lets Kafka's own dump tool read every file of a partition directory, and finds fault with what it says.

The tool exits 0 even when a batch is invalid or an index disagrees with its log, so each line of its output must be one of
those that a sound file gives; any other line is a fault.
"""

import dataclasses
import re
import subprocess
from pathlib import Path

import record_batch
from kafka_broker import java_command

BATCH = re.compile(
    r"baseOffset: (?P<base>\d+) lastOffset: (?P<last>\d+) count: (?P<count>\d+) .* deleteHorizonMs: (?P<horizon>\S+) .*"
    r"magic: 2 compresscodec: (?P<codec>\w+) .* isvalid: true"
)
RECORD = re.compile(
    r"\| offset: (?P<offset>\d+) (?:CreateTime|LogAppendTime): (?P<timestamp>\d+) keySize: -?\d+ valueSize: -?\d+ "
    r"sequence: -?\d+ headerKeys: \[.*?\](?: key: (?P<key>.*?))?(?: payload: (?P<value>.*))?"
)
NEUTRAL = re.compile(r"Dumping .*|Log starting offset: \d+|Snapshot end offset: .*")
INDEX_ENTRY = re.compile(r"offset: \d+ position: \d+|timestamp: \d+ offset: \d+")
PRODUCER_ENTRY = re.compile(r"producerId: (?P<producer>\d+) producerEpoch: \d+ coordinatorEpoch: -?\d+ currentTxnFirstOffset: .*")
ABORTED_ENTRY = re.compile(
    r"version: 0 producerId: (?P<producer>\d+) firstOffset: (?P<first>\d+) lastOffset: (?P<last>\d+) lastStableOffset: \d+"
)
GAPS = re.compile(r"Non-consecutive offsets in .*")
GAP = re.compile(r" *(?P<before>\d+) is followed by (?P<after>\d+)")
INDEX_INTERVAL_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the tool says of one batch."""

    count: int
    span: int  # how many offsets it covers
    has_horizon: bool


@dataclasses.dataclass
class Dump:
    """What the tool read from the `.log` files of one partition, in the order of offsets."""

    records: list[tuple[int, int, str | None, str | None]]
    codecs: list[str]
    batches: list[Batch]
    gaps: list[tuple[int, int]]  # offsets before and after a place where some are left out, within one file


def tool(files: list[Path], *flags: str) -> list[str]:
    """The lines that the tool prints for `files`; mismatches come on stderr, so both streams count."""
    command = java_command("kafka.tools.DumpLogSegments", "--files", ",".join(map(str, files)), *flags)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800, check=False)
    # Not splitlines: a value may hold any of the characters that it takes for an end of line.
    lines = done.stdout.decode(errors="replace").rstrip("\n").split("\n")
    if done.returncode != 0:
        raise AssertionError(f"the dump tool exited {done.returncode}: {lines[-20:]}")
    return lines


def dump_logs(directory: Path) -> Dump:
    """Dumps every `.log` of a partition whose keys and values are lines of text; each batch must be valid."""
    dump = Dump([], [], [], [])
    for line in tool(sorted(directory.glob("*.log")), "--deep-iteration", "--print-data-log"):
        if batch := BATCH.fullmatch(line):
            dump.codecs.append(batch["codec"])
            span = int(batch["last"]) - int(batch["base"]) + 1
            dump.batches.append(Batch(int(batch["count"]), span, batch["horizon"] != "OptionalLong.empty"))
        elif record := RECORD.fullmatch(line):
            dump.records.append((int(record["offset"]), int(record["timestamp"]), record["key"], record["value"]))
        elif gap := GAP.fullmatch(line):
            dump.gaps.append((int(gap["before"]), int(gap["after"])))
        elif not (NEUTRAL.fullmatch(line) or GAPS.fullmatch(line)):
            raise AssertionError(f"{directory.name}: the dump tool says: {line[:500]}")
    counted = sum(batch.count for batch in dump.batches)
    if counted != len(dump.records):
        raise AssertionError(f"{directory.name}: batches count {counted} records, {len(dump.records)} are there")
    return dump


def verify_logs(directories: list[Path]) -> int:
    """Dumps every `.log` of any partitions, whatever they hold, and returns the number of batches; each must be valid."""
    batches, file = 0, "no file"
    for line in tool(files_of(directories, "log"), "--deep-iteration"):
        if line.startswith("Dumping "):
            file = line
        elif line.startswith("baseOffset:"):
            batches += 1
            if not line.endswith("isvalid: true"):
                raise AssertionError(f"{file}: the dump tool says: {line[:500]}")
    return batches


def verify_indexes(directories: list[Path]) -> int:
    """Checks every index alone and against its log; returns how many files there were."""
    files = files_of(directories, "index", "timeindex")
    for directory in directories:
        if not any(file.parent == directory for file in files):
            raise AssertionError(f"{directory}: no index")
    sane = tool(files, "--index-sanity-check")
    compared = tool(files)
    for file in files:
        empty = f"{file} is empty."
        if empty in sane:
            verify_may_be_empty(file)
        elif f"{file} passed sanity check." not in sane:
            raise AssertionError(f"{file}: no sanity line in {[line for line in sane if str(file) in line]}")
        if f"Dumping {file}" not in compared:
            raise AssertionError(f"{file}: was not compared with its log")
    for line in compared:
        if not (NEUTRAL.fullmatch(line) or INDEX_ENTRY.fullmatch(line) or line.endswith("index is empty.")):
            raise AssertionError(f"the dump tool says: {line[:500]}")
    return len(files)


def verify_may_be_empty(index: Path) -> None:
    """Raises unless the log is so short that no entry was due: one is, at the first batch after `index.interval.bytes`."""
    batches = record_batch.headers(index.with_suffix(".log").read_bytes())
    before_the_last = sum(batch.size_bytes for batch in batches[:-1])
    if before_the_last > INDEX_INTERVAL_BYTES:
        raise AssertionError(f"{index} is empty beside {before_the_last} bytes of batches before the last")


@dataclasses.dataclass
class State:
    """What the batches of a partition say of its producers, or what the tool reads from the files that keep it."""

    producers: set[int] = dataclasses.field(default_factory=set)
    aborted: set[tuple[int, int, int]] = dataclasses.field(default_factory=set)  # producer, first offset, offset of the marker


def state_of_log(directory: Path) -> tuple[State, int, bool]:
    """What the batches say, the offset after the last, and whether none is missing since offset 0."""
    state, end, whole = State(), 0, True
    open_since: dict[int, int] = {}
    for log in sorted(directory.glob("*.log")):
        for batch in record_batch.walk(log.read_bytes()):
            whole = whole and batch.base_offset == end and batch.records == batch.last_offset - batch.base_offset + 1
            end = batch.last_offset + 1
            if batch.producer_id < 0:
                continue
            state.producers.add(batch.producer_id)
            if batch.marker is None and batch.is_transactional:
                open_since.setdefault(batch.producer_id, batch.base_offset)
            elif batch.marker is not None:
                first = open_since.pop(batch.producer_id, None)
                if first is not None and batch.marker == record_batch.ABORT:
                    state.aborted.add((batch.producer_id, first, batch.base_offset))
    return state, end, whole


def state_of_files(directory: Path, end: int) -> State:
    """What the tool reads from the snapshot of the log end and from every `.txnindex`; files and lines of another kind are a fault."""
    state = State()
    snapshots = [file for file in files_of([directory], "snapshot") if int(file.stem) >= end]
    files = [*snapshots, *files_of([directory], "txnindex")]
    for line in tool(files) if files else []:
        if entry := PRODUCER_ENTRY.fullmatch(line):
            state.producers.add(int(entry["producer"]))
        elif entry := ABORTED_ENTRY.fullmatch(line):
            state.aborted.add((int(entry["producer"]), int(entry["first"]), int(entry["last"])))
        elif line and not NEUTRAL.fullmatch(line):
            raise AssertionError(f"the dump tool says: {line[:500]}")
    return state


def verify_states(directories: list[Path]) -> tuple[int, int]:
    """Holds `.snapshot` and `.txnindex` against the batches of each partition; returns how many producers and aborted transactions.

    Every producer of the log is in the snapshot of its end. Of a log from which nothing was cleaned away nobody else is, and its
    aborted transactions are those of the index, one by one.
    """
    producers = aborted = 0
    for directory in directories:
        told, end, whole = state_of_log(directory)
        kept = state_of_files(directory, end)
        if not told.producers <= kept.producers or (whole and told.producers != kept.producers):
            raise AssertionError(f"{directory}: the snapshot of {end} has producers {kept.producers}, the log {told.producers}")
        if whole and told.aborted != kept.aborted:
            raise AssertionError(f"{directory}: aborted by the index {kept.aborted}, by the log {told.aborted}")
        producers += len(kept.producers)
        aborted += len(kept.aborted)
    return producers, aborted


def files_of(directories: list[Path], *suffixes: str) -> list[Path]:
    """Every file of the directories that ends in one of the suffixes."""
    return sorted(file for directory in directories for suffix in suffixes for file in directory.glob(f"*.{suffix}"))
