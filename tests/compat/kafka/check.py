"""Siltstone and Apache Kafka read each other's files.

1. What Siltstone wrote, cleaned and shortened: Kafka's dump tool reads every file and finds no fault; the records are those of the
   input, or what must be left of them.
2. What a Kafka broker wrote with Kafka's clients: adopted, and read as a Kafka consumer read it; the original is untouched.
3. What Siltstone wrote, served by a Kafka broker: it believes the directory that was closed, and where nobody vouches for it
   recovers it; a Kafka consumer reads it as `siltstone read` did.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cleaned  # noqa: E402
import dump  # noqa: E402
import flights  # noqa: E402
from kafka_broker import KafkaBroker, fetch_jars  # noqa: E402
from server import CHECKOUT, Server, by_partition, objects  # noqa: E402
from suite import Suite, equal  # noqa: E402

WEEK = CHECKOUT / "examples" / "data" / "flights-2013-week1.jsonl"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
LOAD = ("--format", "json", "--key-field", "tailnum", "--timestamp-field", "time")
SMALL_SEGMENTS = ("--config", "segment.bytes=1048576")
KAFKA_TOPICS = ("shapes", "codecs", "keyed", "late", "transactions", "open-transaction", "append-time", "compacted")
ADOPTED_AND_COMPACTED = ("transactions", "compacted")
ISOLATIONS = ("read_uncommitted", "read_committed")
LATE_ROUNDS = 4
A_MOMENT = "2013-01-03T12:00:00Z"
KAFKAS_OWN = "__cluster_metadata-0"  # recovered at each start of a broker, whatever the marker says
CLEAN_MARKER = ".kafka_cleanshutdown"
BELIEVED = "since clean shutdown file was found"
RECOVERED = re.compile(r"since no clean shutdown file was found|[Rr]ecovering (unflushed )?segment|[Rr]ebuilding index|[Cc]orrupt|Found invalid")


def write_with_siltstone(server: Server) -> dict[str, dict[int, list[dict]]]:
    """Loads a topic of every codec, a keyed topic and one of several segments; returns what was read back."""
    lines = WEEK.read_bytes().splitlines(keepends=True)
    server.cli("topic", "create", "codecs", "--partitions", "1")
    for number, codec in enumerate(CODECS):
        part = b"".join(lines[number * 1000 : number * 1000 + 1000])
        server.cli("produce", "codecs", *LOAD, "--compression", codec, stdin=part)
    server.cli("topic", "create", "flights", "--partitions", "4")
    server.cli("produce", "flights", "--input", WEEK, *LOAD)
    server.cli("topic", "create", "late", "--partitions", "1", *SMALL_SEGMENTS)
    for _ in range(LATE_ROUNDS):
        server.cli("produce", "late", "--input", WEEK, *LOAD)
    server.cli("topic", "create", "cleaned", "--partitions", "1", "--config", "cleanup.policy=compact", *SMALL_SEGMENTS)
    for codec in CODECS:
        server.cli("produce", "cleaned", "--input", WEEK, *LOAD, "--on-missing-key", "skip", "--compression", codec)
        # Planes of other rounds are dropped out of the middle of batches of every codec.
        part = b"".join(lines[len(codec) :: 7])
        server.cli("produce", "cleaned", *LOAD, "--on-missing-key", "skip", "--compression", codec, stdin=part)
    server.cli("topic", "compact", "cleaned")
    return {topic: by_partition(server.read(topic)) for topic in ("codecs", "flights", "late", "cleaned")}


def check_input(read: dict[str, dict[int, list[dict]]], week: list[flights.Flight]) -> None:
    """What was read back is the input."""
    flights.check_loaded(read["flights"], week, 4)
    flights.check_loaded(read["codecs"], week[: 1000 * len(CODECS)], 1)
    equal([r["value"] for r in read["late"][0]], [f.value for f in week] * LATE_ROUNDS, "values of late")
    planes = [record["key"] for record in read["cleaned"][0]]
    equal(sorted(planes), sorted({flight.key for flight in week if flight.key is not None}), "keys of cleaned, each once")


def check_dumps(data: Path, read: dict[str, dict[int, list[dict]]]) -> None:
    """The dump tool's records are those that were read back."""
    for topic, partitions in read.items():
        for partition, records in partitions.items():
            dumped = cleaned.check_dumped(data / f"{topic}-{partition}", records)
            if topic == "codecs":
                equal(list(dict.fromkeys(dumped.codecs)), list(CODECS), "codecs in the order of writing")


def partition_directories(data: Path) -> list[Path]:
    """Every partition directory that holds a log, the store's own topics too."""
    return sorted({log.parent for log in data.glob("*/*.log")})


def check_every_file(data: Path, aborted_at_least: int) -> None:
    """No file of any partition displeases the dump tool; some have producers, and so many transactions were aborted."""
    directories = partition_directories(data)
    batches, indexes = dump.verify_logs(directories), dump.verify_indexes(directories)
    producers, aborted = dump.verify_states(directories)
    print(f"       {len(directories)} partitions: {batches} batches, {indexes} indexes, {producers} producers, {aborted} aborted")
    if producers == 0 or aborted < aborted_at_least:
        raise AssertionError(f"{producers} producers and {aborted} aborted transactions, expected some and {aborted_at_least}")


def siltstone_writes(suite: Suite, work: Path) -> tuple[Path, dict[str, dict[int, list[dict]]]]:
    """Part 1. Returns the data directory, its server stopped, and what was read back."""
    data = work / "siltstone-data"
    read: dict[str, dict[int, list[dict]]] = {}
    with suite.case("Siltstone writes every codec, keys and several segments, and reads them back"), Server(data) as server:
        read = write_with_siltstone(server)
        check_input(read, flights.load(WEEK))
        server.stop()
        if len(list((data / "late-0").glob("*.log"))) < LATE_ROUNDS:
            raise AssertionError("the late topic has too few segments to show anything")
    with suite.case("Kafka's dump tool reads the same records from the files"):
        check_dumps(data, read)
    left = cleaned.clean(suite, data)
    with suite.case("Kafka's dump tool finds no fault in any log, index or snapshot"):
        check_every_file(data, 0)
    return data, read | left


def fingerprint(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Length, time of change and hash of every file below `directory`."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def kafka_writes(broker: KafkaBroker, printed: Path) -> None:
    """Lets Kafka's clients write and read; the broker is stopped afterwards."""
    broker.start()
    broker.clients("write", WEEK)
    broker.clients("print", printed, *KAFKA_TOPICS)
    broker.stop()


def printed_by_kafka(printed: Path, topic: str, isolation: str) -> dict[int, list[dict]]:
    """What the Kafka consumer read."""
    return by_partition(objects((printed / f"{topic}.{isolation}.jsonl").read_text()))


def adopt(server: Server, logs: Path, topic: str) -> None:
    """Brings in every partition of a topic, the last first: a topic is created with just enough partitions."""
    for directory in sorted(logs.glob(f"{topic}-[0-9]*"), reverse=True):
        partition = directory.name.rpartition("-")[2]
        server.cli("topic", "adopt", directory, "--topic", topic, "--partition", partition)


def check_adopted(server: Server, printed: Path, topic: str) -> None:
    """Siltstone reads what the Kafka consumer read, at both isolations."""
    for isolation in ISOLATIONS:
        expected = printed_by_kafka(printed, topic, isolation)
        got = by_partition(server.read(topic, "--isolation", isolation))
        equal(sorted(got), sorted(expected), f"partitions of {topic}, {isolation}")
        for partition, records in expected.items():
            equal(len(got[partition]), len(records), f"records of {topic}-{partition}, {isolation}")
            for mine, theirs in zip(got[partition], records, strict=True):
                equal(mine, theirs, f"a record of {topic}-{partition}, {isolation}")


def check_same_partitions(kafka: dict[int, list[dict]], siltstone: dict[int, list[dict]]) -> None:
    """The Java client and Siltstone send each key to the same partition."""
    mine, theirs = (
        {record["key"]: partition for partition, records in side.items() for record in records if record["key"] is not None}
        for side in (siltstone, kafka)
    )
    equal(mine, theirs, "partitions by key")
    if len(theirs) < 1000:
        raise AssertionError(f"only {len(theirs)} keys: it shows little")


def check_goes_on(server: Server, printed: Path) -> None:
    """An adopted partition answers by time, and takes new records after the old ones."""
    before = printed_by_kafka(printed, "late", "read_uncommitted")
    offset, timestamp = flights.first_at(before, flights.epoch_ms(A_MOMENT))[0]
    found = objects(server.cli("offsets", "late", "--at", A_MOMENT, "--json"))
    equal(found, [{"topic": "late", "partition": 0, "offset": offset, "timestamp_ms": timestamp}], "offset by time")
    server.cli("produce", "late", "--input", WEEK, *LOAD)
    check_went_on(server, printed)


def check_went_on(server: Server, printed: Path) -> None:
    """The adopted partition that took new records has the old ones and the new ones."""
    before = printed_by_kafka(printed, "late", "read_uncommitted")
    after = by_partition(server.read("late"))[0]
    equal(after[: len(before[0])], before[0], "the old records")
    new = [(record["offset"], record["value"]) for record in after[len(before[0]) :]]
    start = before[0][-1]["offset"] + 1
    equal(new, [(start + number, flight.value) for number, flight in enumerate(flights.load(WEEK))], "the new records")


def check_damage_is_refused(server: Server, logs: Path, work: Path) -> None:
    """One flipped bit in a sealed segment: nothing is brought in."""
    damaged = work / "damaged-0"
    shutil.copytree(logs / "late-0", damaged)
    first = min(damaged.glob("*.log"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    try:
        server.cli("topic", "adopt", damaged, "--topic", "damaged", "--partition", "0")
    except AssertionError as refused:
        print(f"       {str(refused).strip()[-300:]}")
    else:
        raise AssertionError("a damaged partition was adopted")
    if "damaged" in server.cli("topic", "list"):
        raise AssertionError("the refused topic is there")


def siltstone_adopts(suite: Suite, work: Path, read: dict[str, dict[int, list[dict]]]) -> None:
    """Part 2."""
    printed, data = work / "printed", work / "adopted-data"
    printed.mkdir()
    with KafkaBroker(work / "kafka") as broker:
        logs = broker.logs
        with suite.case("a Kafka broker writes: codecs, headers, transactions, late records, cleaned segments"):
            kafka_writes(broker, printed)
            committed, everything = (len(printed_by_kafka(printed, "transactions", i)[0]) for i in reversed(ISOLATIONS))
            if not 0 < committed < everything:
                raise AssertionError(f"{committed} committed of {everything}: no transaction was aborted")
            unfinished = [len(printed_by_kafka(printed, "open-transaction", i)[0]) for i in ISOLATIONS]
            equal(unfinished, [400, 100], "records of the topic with an open transaction, all and committed")
    before = fingerprint(logs)
    with suite.case("the Java client and Siltstone choose the same partition for every key"):
        check_same_partitions(printed_by_kafka(printed, "keyed", "read_uncommitted"), read["flights"])
    with Server(data) as server:
        for topic in KAFKA_TOPICS:
            with suite.case(f"adopted, {topic} reads as a Kafka consumer reads it"):
                adopt(server, logs, topic)
                check_adopted(server, printed, topic)
        with suite.case("an adopted partition answers by time and takes new records"):
            check_goes_on(server, printed)
        with suite.case("a damaged partition is refused"):
            check_damage_is_refused(server, logs, work)
        with suite.case("the server that adopted stops cleanly"):
            server.stop()
    with suite.case("the broker's directory is unchanged"):
        equal(fingerprint(logs), before, "files of the broker")
    with suite.case("Kafka's dump tool finds no fault in any adopted log, index or snapshot"):
        check_every_file(data, 1)
    with suite.case("adopted topics read the same after a restart"), Server(data) as server:
        for topic in KAFKA_TOPICS:
            if topic == "late":
                check_went_on(server, printed)
            else:
                check_adopted(server, printed, topic)
        server.stop()
    for topic in ADOPTED_AND_COMPACTED:
        with suite.case(f"adopted and then compacted, {topic} holds the last record of each key"):
            check_adopted_and_compacted(data, printed, topic)
    with suite.case("Kafka's dump tool finds no fault in what was adopted and then compacted"):
        check_every_file(data, 0)


def check_adopted_and_compacted(data: Path, printed: Path, topic: str) -> None:
    """Of what the Kafka consumer was shown the last record of each key is left; what was aborted or has no key is gone for everybody."""
    shown = printed_by_kafka(printed, topic, "read_committed")[0]
    expected = cleaned.last_of_each_key([record for record in shown if record["key"] is not None])
    if len(expected) == len(shown):
        raise AssertionError("there is nothing to clean")
    with Server(data) as server:
        cleaned.compact(server, topic)
        for isolation in ISOLATIONS:
            equal(server.read(topic, "--isolation", isolation), expected, f"what is left of {topic}, {isolation}")
        server.stop()


def replace_partition(source: Path, target: Path) -> None:
    """Puts one partition's files in the place of another's, whose `partition.metadata` stays."""
    for file in target.iterdir():
        if file.name != "partition.metadata":
            file.unlink()
    for file in source.iterdir():
        if file.name != "partition.metadata":
            shutil.copy2(file, target / file.name)


def bring_in(broker: KafkaBroker, data: Path, read: dict[str, dict[int, list[dict]]]) -> None:
    """Puts Siltstone's partitions, its checkpoints and its marker of a clean stop in the place of the stopped broker's.

    What stays Kafka's: `meta.properties` and `__cluster_metadata-0`, for a cluster's id and its topics are not in a data directory
    of ours as Kafka keeps them, and `partition.metadata`, since a topic that Kafka has created has an id of its own. What is not
    brought in: `__siltstone_topics-0`, a topic that this Kafka does not know; it would set it aside. All else lies there as it was
    written, our own files (`siltstone.manifest`, `compacted-offset-checkpoint`) too.
    """
    for topic, partitions in read.items():
        for partition in partitions:
            replace_partition(data / f"{topic}-{partition}", broker.logs / f"{topic}-{partition}")
    for checkpoint in broker.logs.glob("*-checkpoint"):
        checkpoint.unlink()
    for file in (data / CLEAN_MARKER, *data.glob("*-checkpoint")):
        shutil.copy2(file, broker.logs / file.name)


def check_served(broker: KafkaBroker, printed: Path, read: dict[str, dict[int, list[dict]]]) -> None:
    """A Kafka consumer reads what `siltstone read` did."""
    printed.mkdir()
    broker.clients("print", printed, *read)
    for topic, partitions in read.items():
        equal(printed_by_kafka(printed, topic, "read_committed"), partitions, topic)


def check_nothing_recovered(broker: KafkaBroker) -> None:
    """The broker's log says that it believed the directory, and of no segment or index that it made anew, but of its own metadata."""
    log = broker.log.read_text(errors="replace")
    if BELIEVED not in log:
        raise AssertionError(f"the broker does not say {BELIEVED!r}: {log[:3000]}")
    for line in log.splitlines():
        if RECOVERED.search(line) and KAFKAS_OWN not in line:
            raise AssertionError(f"the broker recovered: {line[:500]}")


def kafka_serves(suite: Suite, work: Path, data: Path, read: dict[str, dict[int, list[dict]]]) -> None:
    """Part 3."""
    with KafkaBroker(work / "kafka-serves") as broker:
        with suite.case("a Kafka broker believes the directory that Siltstone closed, and serves it as it is"):
            broker.start()
            for topic, partitions in read.items():
                broker.clients("create", topic, str(len(partitions)))
            broker.stop()
            bring_in(broker, data, read)
            broker.start()
            check_nothing_recovered(broker)
            check_served(broker, work / "printed-as-it-is", read)
            broker.stop()
        with suite.case("a Kafka broker recovers and serves what Siltstone wrote"):
            broker.kill()
            bring_in(broker, data, read)
            for name in (CLEAN_MARKER, *(checkpoint.name for checkpoint in broker.logs.glob("*-checkpoint"))):
                (broker.logs / name).unlink()
            broker.start()
            if BELIEVED in broker.log.read_text(errors="replace"):
                raise AssertionError("nothing was recovered")
            check_served(broker, work / "printed-after-recovery", read)
            broker.stop()


def main() -> int:
    """Runs the three parts."""
    suite = Suite("kafka")
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        suite.missing("everything with Kafka's own programs", f"{', '.join(missing)} is not installed")
        suite.close()
        return 1 if suite.failed else 0
    try:
        fetch_jars()
    except subprocess.SubprocessError as failure:
        with suite.case("Maven fetches Kafka's programs"):
            raise AssertionError(str(failure)) from failure
        return suite.close()
    with tempfile.TemporaryDirectory(prefix="siltstone-kafka-") as folder:
        work = Path(folder)
        data, read = siltstone_writes(suite, work)
        siltstone_adopts(suite, work, read)
        kafka_serves(suite, work, data, read)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
