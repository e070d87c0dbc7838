"""Kafka's record batch, version 2: enough of it to write one and to walk a file of them.

    base offset i64 | length i32 | leader epoch i32 | magic i8 = 2 | crc u32 | attributes i16 | last offset delta i32 |
    base timestamp i64 | max timestamp i64 | producer id i64 | producer epoch i16 | base sequence i32 | records i32 | ...

Length counts what follows it; the checksum (CRC-32C) covers what follows it.
"""

import dataclasses
import gzip
import struct
from collections.abc import Iterator

HEADER = struct.Struct(">qiibIhiqqqhii")
CHECKED_FROM = 21
LENGTH_ENDS = 12
PREFIX = 16
GZIP = 1
TRANSACTIONAL = 1 << 4
CONTROL = 1 << 5
# A marker's record: length, attributes, two deltas, the length of its key; then the key: version i16, type i16.
MARKER_TYPE = struct.Struct(">5xhh")
ABORT = 0


@dataclasses.dataclass(frozen=True)
class BatchHeader:
    """Where a batch lies and what it spans."""

    position: int
    size_bytes: int
    base_offset: int
    last_offset: int
    leader_epoch: int
    records: int
    producer_id: int = -1
    is_transactional: bool = False
    marker: int | None = None  # what a control batch says; `ABORT` or another


def walk(log: bytes) -> Iterator[BatchHeader]:
    """Yields the header of each whole batch from the start; stops at the first that is not whole. Checks no checksum."""
    position = 0
    while position + HEADER.size <= len(log):
        base, length, epoch, magic, _crc, attributes, last_delta, _, _, producer, _, _, records = HEADER.unpack_from(log, position)
        size = LENGTH_ENDS + length
        if magic != 2 or size < HEADER.size or position + size > len(log):
            return
        marker = None
        if attributes & CONTROL:
            _version, marker = MARKER_TYPE.unpack_from(log, position + HEADER.size)
        yield BatchHeader(
            position, size, base, base + last_delta, epoch, records, producer, bool(attributes & TRANSACTIONAL), marker
        )
        position += size


def headers(log: bytes) -> list[BatchHeader]:
    """Every batch of a `.log` file; every checksum must hold and no byte may be left over."""
    found = list(walk(log))
    end = found[-1].position + found[-1].size_bytes if found else 0
    if end != len(log):
        raise AssertionError(f"no whole batch at position {end} of {len(log)} bytes")
    for batch in found:
        checked = log[batch.position + CHECKED_FROM : batch.position + batch.size_bytes]
        (crc,) = struct.unpack_from(">I", log, batch.position + CHECKED_FROM - 4)
        if crc32c(checked) != crc:
            raise AssertionError(f"the batch at position {batch.position} has a wrong checksum")
    return found


def encode(values: list[bytes], timestamp_ms: int, *, codec: int = 0) -> bytes:
    """A batch of records without key and headers, as a client sends it. `codec`: 0 or GZIP."""
    records = b"".join(_record(number, value) for number, value in enumerate(values))
    payload = gzip.compress(records) if codec == GZIP else records
    size = HEADER.size + len(payload)
    fields = (codec, len(values) - 1, timestamp_ms, timestamp_ms, -1, -1, -1, len(values))
    unchecked = HEADER.pack(0, size - LENGTH_ENDS, -1, 2, 0, *fields) + payload
    crc = struct.pack(">I", crc32c(unchecked[CHECKED_FROM:]))
    return unchecked[: CHECKED_FROM - 4] + crc + unchecked[CHECKED_FROM:]


def _record(delta: int, value: bytes) -> bytes:
    body = b"\0" + _varint(0) + _varint(delta) + _varint(-1) + _varint(len(value)) + value + _varint(0)
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    zigzag = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`."""
    table, state = _CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ 0xFFFFFFFF


def check_known_answers() -> None:
    """Raises unless the checksum gives the answer of its specification."""
    if crc32c(b"123456789") != 0xE3069283:
        raise AssertionError("crc32c is wrong")
