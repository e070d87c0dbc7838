"""Partitions that Siltstone has cleaned or shortened, for Kafka's dump tool.

What must be left is computed here from what was written: of each key the last record, and of a shortened log everything from its
start on. The shapes that only a cleaner makes must be there too, or the comparison shows nothing: batches with records gone from
their middle, tombstones under a delete horizon, the emptied last batch of a producer.
"""

import itertools
import time
from pathlib import Path

import dump
import flights
from server import CHECKOUT, Server, by_partition, objects
from suite import Suite, equal

WEEK = CHECKOUT / "examples" / "data" / "flights-2013-week1.jsonl"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
KEYED = ("--format", "json", "--key-field", "tailnum", "--timestamp-field", "time", "--on-missing-key", "skip")
SEGMENTS = ("--config", "segment.bytes=262144", "--config", "max.message.bytes=65536")
DELETED_EVERY = 7
SHORTENED_ROUNDS = 3
RETAINED_BYTES = 100_000
RETAINED_WITHIN_S = 300

Partitions = dict[int, list[dict]]


def last_of_each_key(records: list[dict]) -> list[dict]:
    """The records that no later one of their key shadows, in the order of the log; tombstones among them."""
    last = {record["key"]: record["offset"] for record in records}
    return [record for record in records if last[record["key"]] == record["offset"]]


def compact(server: Server, topic: str) -> None:
    """Compacts a topic that was written without a policy, so that nothing was cleaned before."""
    server.cli("topic", "alter", topic, "--config", "cleanup.policy=compact")
    server.cli("topic", "compact", topic)


def write_table(server: Server, topic: str, codec: str) -> list[dict]:
    """Writes the week twice and then deletes some planes, each by a producer of its own; returns what was read back."""
    server.cli("topic", "create", topic, "--partitions", "1", *SEGMENTS)
    for _ in range(2):
        server.cli("produce", topic, "--input", WEEK, *KEYED, "--compression", codec)
    planes = sorted({flight.key for flight in flights.load(WEEK) if flight.key is not None})
    gone = "".join(f"{plane}=gone\n" for plane in planes[::DELETED_EVERY])
    as_keys = ("--key-separator", "=", "--null-value", "gone", "--compression", codec)
    server.cli("produce", topic, *as_keys, stdin=gone.encode())
    written = server.read(topic)
    week = [(flight.key, flight.value) for flight in flights.load(WEEK) if flight.key is not None]
    deleted = [(plane, None) for plane in planes[::DELETED_EVERY]]
    equal([(record["key"], record["value"]) for record in written], week * 2 + deleted, f"what was written to {topic}")
    return written


def clean_tables(server: Server) -> dict[str, Partitions]:
    """Compacts a table of each codec; returns what is left, which is the last record of each key where it was."""
    left = {}
    for codec in CODECS:
        topic = f"table-{codec}"
        written = write_table(server, topic, codec)
        compact(server, topic)
        expected = last_of_each_key(written)
        equal(server.read(topic), expected, f"what is left of {topic}")
        left[topic] = {0: expected}
    return left


def clean_tombstones_away(server: Server) -> dict[str, Partitions]:
    """A table whose tombstones may go at once: a pass after the one that dated them leaves none, whoever began it."""
    topic = "table-forgotten"
    table = last_of_each_key(write_table(server, topic, "lz4"))
    kept = [record for record in table if record["value"] is not None]
    if len(kept) == len(table):
        raise AssertionError("there was no tombstone to forget")
    server.cli("topic", "alter", topic, "--config", "delete.retention.ms=0")
    compact(server, topic)
    one_more = ("--key-separator", "=", "--partition", "0")
    server.cli("produce", topic, *one_more, stdin=b"a plane=a flight\n")
    server.cli("topic", "compact", topic)
    left = server.read(topic)
    equal(left[:-1], kept, "what is left without tombstones")
    equal((left[-1]["key"], left[-1]["value"]), ("a plane", "a flight"), "what was written last")
    return {topic: {0: left}}


def shorten(server: Server) -> dict[str, Partitions]:
    """A log of each codec that retention cuts: what is left is the end of what was written, from where the preview said."""
    written, starts = {}, {}
    for codec in CODECS:
        topic = f"shortened-{codec}"
        server.cli("topic", "create", topic, "--partitions", "1", *SEGMENTS)
        for _ in range(SHORTENED_ROUNDS):
            server.cli("produce", topic, "--input", WEEK, *KEYED, "--compression", codec)
        written[topic] = server.read(topic)
        server.cli("topic", "alter", topic, "--config", f"retention.bytes={RETAINED_BYTES}")
        (preview,) = objects(server.cli("topic", "retention", topic, "--json"))
        starts[topic] = preview["log_start_offset"]
    deadline = time.monotonic() + RETAINED_WITHIN_S
    left = {}
    for topic, start in starts.items():
        while (records := server.read(topic))[0]["offset"] == 0 and time.monotonic() < deadline:
            time.sleep(0.5)
        if not 0 < start < len(written[topic]):
            raise AssertionError(f"{topic} would start at {start} of {len(written[topic])}")
        equal(records, written[topic][start:], f"what is left of {topic}")
        left[topic] = {0: records}
    return left


def check_dumped(directory: Path, records: list[dict]) -> dump.Dump:
    """The tool's records of a partition are `records`, and it names the places where offsets are left out."""
    dumped = dump.dump_logs(directory)
    expected = [(r["offset"], r["timestamp_ms"], r["key"], r["value"]) for r in records]
    equal(len(dumped.records), len(expected), f"records of {directory.name}")
    for got, wanted in zip(dumped.records, expected, strict=True):
        equal(got, wanted, f"a record of {directory.name}")
    check_gaps(directory, dumped, [record["offset"] for record in records])
    return dumped


def check_gaps(directory: Path, dumped: dump.Dump, offsets: list[int]) -> None:
    """The tool names every place where offsets are left out and no other; between two files it does not look."""
    left_out = {(one, other) for one, other in itertools.pairwise(offsets) if other != one + 1}
    if not set(dumped.gaps) <= left_out:
        raise AssertionError(f"{directory.name}: the tool says that offsets are left out: {sorted(set(dumped.gaps) - left_out)[:5]}")
    between_files = len(list(directory.glob("*.log"))) - 1
    if len(left_out) - len(dumped.gaps) > between_files:
        raise AssertionError(f"{directory.name}: the tool names {len(dumped.gaps)} of {len(left_out)} places, in {between_files + 1} files")


def check_shapes(dumped: dump.Dump, codec: str) -> None:
    """The log has every shape that a cleaner makes."""
    full = {name for name, batch in zip(dumped.codecs, dumped.batches, strict=True) if batch.count > 0}
    equal(full, {codec}, "codecs of batches that have records")
    shapes = {
        "with records gone from their middle": sum(0 < batch.count < batch.span for batch in dumped.batches),
        "emptied": sum(batch.count == 0 for batch in dumped.batches),
        "with a delete horizon": sum(batch.has_horizon for batch in dumped.batches),
    }
    print(f"       {codec}: {len(dumped.batches)} batches; " + ", ".join(f"{count} {what}" for what, count in shapes.items()))
    for what, count in shapes.items():
        if count == 0:
            raise AssertionError(f"no batch {what}")


def clean(suite: Suite, data: Path) -> dict[str, Partitions]:
    """Makes the topics in `data`, whose server is stopped before and after, and lets the tool read them; returns what is left."""
    left: dict[str, Partitions] = {}
    with Server(data) as server:
        for title, make in (
            ("compaction leaves the last record of each key, in every codec", clean_tables),
            ("tombstones go once their time is over", clean_tombstones_away),
            ("retention leaves the end of the log", shorten),
        ):
            with suite.case(title):
                left |= make(server)
        with suite.case("the server that cleaned stops cleanly"):
            server.stop()
    for topic, partitions in left.items():
        with suite.case(f"Kafka's dump tool reads what is left of {topic}"):
            dumped = check_dumped(data / f"{topic}-0", partitions[0])
            codec = topic.removeprefix("table-")
            if codec in CODECS:
                check_shapes(dumped, codec)
    with suite.case("cleaned and shortened topics read the same after a restart"), Server(data) as server:
        for topic, partitions in left.items():
            equal(by_partition(server.read(topic)), partitions, topic)
        server.stop()
    return left
