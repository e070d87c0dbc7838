"""What must come out when a file of flights is loaded, computed from the file alone and by nothing of Siltstone's.

Kafka's rules as they are written down: the partition of a key is murmur2 of its bytes, made positive, modulo the number of
partitions; the log keeps the order in which one producer sent.
"""

import dataclasses
import datetime
import json
import struct
from pathlib import Path

PARTITIONS = 4


@dataclasses.dataclass(frozen=True)
class Flight:
    """One line of the input as a record."""

    key: str | None
    value: str
    timestamp_ms: int


def load(path: Path) -> list[Flight]:
    """Reads every line of `path` as a record keyed by `tailnum` and stamped with `time`."""
    flights = []
    for line in path.read_bytes().decode().split("\n"):
        if line:
            fields = json.loads(line)
            flights.append(Flight(fields["tailnum"], line, epoch_ms(fields["time"])))
    return flights


def epoch_ms(time: str) -> int:
    """Milliseconds since the Unix epoch of an RFC 3339 time."""
    moment = datetime.datetime.fromisoformat(time)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(milliseconds=1)


def murmur2(data: bytes) -> int:
    """The 32-bit hash of Kafka's default partitioner, as an unsigned number."""
    mask, multiplier, length = 0xFFFFFFFF, 0x5BD1E995, len(data)
    state = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        word = word * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        state = state * multiplier & mask ^ word
    if length % 4:
        state = (state ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    state = (state ^ state >> 13) * multiplier & mask
    return state ^ state >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's default partitioner puts a record with this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def check_known_answers() -> None:
    """Raises unless murmur2 gives the answers that the Java client gives."""
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    for text, expected in known.items():
        if murmur2(text) != expected & 0xFFFFFFFF:
            raise AssertionError(f"murmur2({text!r}) is {murmur2(text)}")


def check_loaded(partitions: dict[int, list[dict]], flights: list[Flight], count: int) -> None:
    """Raises unless `partitions`, as read back, holds exactly `flights`: contents, places, order, contiguous offsets."""
    lines: dict[str, list[int]] = {}
    for number, flight in enumerate(flights):
        lines.setdefault(flight.value, []).append(number)
    unseen = {value: list(numbers) for value, numbers in lines.items()}
    for partition, records in sorted(partitions.items()):
        if partition not in range(count):
            raise AssertionError(f"partition {partition} of {count}")
        last_line = -1
        for expected_offset, record in enumerate(records):
            where = f"partition {partition} offset {record['offset']}"
            if record["offset"] != expected_offset:
                raise AssertionError(f"{where}: expected offset {expected_offset}")
            candidates = [number for number in unseen.get(record["value"], []) if number > last_line]
            if not candidates:
                raise AssertionError(f"{where}: not a line of the input, or out of its order: {record}")
            last_line = candidates[0]
            unseen[record["value"]].remove(last_line)
            check_record(record, flights[last_line], count, where)
    missing = [value for value, numbers in unseen.items() if numbers]
    if missing:
        raise AssertionError(f"{len(missing)} lines of the input are not there, the first: {missing[0]}")


def check_record(record: dict, flight: Flight, partitions: int, where: str) -> None:
    """Raises unless `record` is `flight`, in the right partition."""
    if set(record) != {"topic", "partition", "offset", "timestamp_ms", "key", "value", "headers"}:
        raise AssertionError(f"{where}: members {sorted(record)}")
    if (record["key"], record["timestamp_ms"], record["headers"]) != (flight.key, flight.timestamp_ms, []):
        raise AssertionError(f"{where}: got {record}, expected {flight}")
    if flight.key is not None and record["partition"] != partition_of(flight.key.encode(), partitions):
        raise AssertionError(f"{where}: the key {flight.key} belongs to {partition_of(flight.key.encode(), partitions)}")


def first_at(partitions: dict[int, list[dict]], timestamp_ms: int) -> dict[int, tuple[int | None, int | None]]:
    """Per partition the first offset whose timestamp is `timestamp_ms` or later, with that timestamp."""
    found: dict[int, tuple[int | None, int | None]] = {}
    for partition in range(PARTITIONS):
        later = (r for r in partitions.get(partition, []) if r["timestamp_ms"] >= timestamp_ms)
        first = next(later, None)
        found[partition] = (first["offset"], first["timestamp_ms"]) if first else (None, None)
    return found
