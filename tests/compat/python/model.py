"""What mixed traffic writes, and what of it must be left: the model beside the log.

A record is told by its writer and its number; key, value and time follow from these, so that a reader can judge every record alone.
The model of a partition knows which record stands at which offset from the acknowledgements, and of each key the last offset.
"""

import array
import bisect
import dataclasses
import functools
import hashlib
import threading

from siltstone.v1 import common_pb2

KEYS = 4_000
BASE_TIME_MS = 1_700_000_000_000
LATE_BY_MS = 5_000
NUMBER_BITS = 40
NOT_WRITTEN = -1


@dataclasses.dataclass(frozen=True)
class Content:
    """A record as it follows from its name; `value` is None for a tombstone."""

    key: bytes
    value: bytes | None
    timestamp_ms: int


@functools.lru_cache(maxsize=100_000)
def content(code: int, tombstones: bool) -> Content:
    """The record that a code (writer and number) stands for. Times rise with the numbers, but for some that are late."""
    digest = hashlib.sha256(b"%d" % code).digest()
    number = code & ((1 << NUMBER_BITS) - 1)
    # The smaller of two draws: some keys are written far more often than others.
    draws = int.from_bytes(digest[0:4], "big") % KEYS, int.from_bytes(digest[4:8], "big") % KEYS
    late = int.from_bytes(digest[8:10], "big") % LATE_BY_MS if digest[10] < 64 else 0
    gone = tombstones and digest[11] < 25
    return Content(
        key=b"key-%06d" % min(draws),
        value=None if gone else b"%d:" % code + digest * (1 + digest[12] // 16),
        timestamp_ms=BASE_TIME_MS + number * 3 - late,
    )


def code_of(record: common_pb2.StoredRecord) -> int | None:
    """Which record this is by its value; None for a tombstone, whose place alone can tell."""
    return int(record.value.split(b":", 1)[0]) if record.HasField("value") else None


class PartitionModel:
    """One partition: what was acknowledged."""

    def __init__(self, topic: str, partition: int, compacted: bool) -> None:
        self.topic, self.partition, self.compacted = topic, partition, compacted
        self.name = f"{topic}-{partition}"
        self.lock = threading.Lock()
        # Guarded by `lock`: the code at each offset, and the last offset of each key.
        self.codes = array.array("q")
        self.last: dict[bytes, int] = {}
        # Guarded by `lock`: all offsets of each key, and when each offset was acknowledged, by this process's clock.
        self.versions: dict[bytes, array.array[int]] = {}
        self.acknowledged_at = array.array("d")
        # Tombstones seen where no acknowledgement had come yet are judged when it comes: offset to key.
        self.early: dict[int, tuple[bytes, int | None]] = {}

    def content(self, code: int) -> Content:
        """The record of a code, as it stands in this partition."""
        return content(code, self.compacted)

    def acknowledged(self, base_offset: int, codes: list[int], at_s: float = 0.0) -> None:
        """Notes that consecutive offsets from `base_offset` on hold these records, as was known at `at_s`."""
        with self.lock:
            missing = base_offset + len(codes) - len(self.codes)
            self.codes.extend([NOT_WRITTEN] * max(0, missing))
            self.acknowledged_at.extend([0.0] * max(0, missing))
            for offset, code in enumerate(codes, base_offset):
                if self.codes[offset] not in (NOT_WRITTEN, code):
                    raise AssertionError(f"{self.name}: {code} acknowledged at {offset}, as was {self.codes[offset]}")
                self.codes[offset] = code
                key = self.content(code).key
                self.last[key] = max(offset, self.last.get(key, -1))
                if self.compacted:
                    self.acknowledged_at[offset] = at_s
                    bisect.insort(self.versions.setdefault(key, array.array("q")), offset)
                if offset in self.early and self.early.pop(offset) not in ((key, code), (key, None)):
                    raise AssertionError(f"{self.name}: another record than {code} was shown at {offset}")

    def judge(self, record: common_pb2.StoredRecord) -> None:
        """Raises unless this record belongs at its offset, whole."""
        code = code_of(record)
        with self.lock:
            known = self.codes[record.offset] if record.offset < len(self.codes) else NOT_WRITTEN
            if known == NOT_WRITTEN:
                self.early[record.offset] = (record.key, code)
                known = code if code is not None else NOT_WRITTEN
        if known == NOT_WRITTEN:
            return
        value = record.value if record.HasField("value") else None
        got = Content(record.key, value, record.timestamp_ms)
        if got != self.content(known):
            raise AssertionError(f"{self.name}: at {record.offset} is {got}, expected {self.content(known)}")

    def shadowed_before(self, offset: int) -> float | None:
        """When it was known that the record at `offset` has a newer one of its key; None where nobody has been told."""
        with self.lock:
            if offset >= len(self.codes) or self.codes[offset] == NOT_WRITTEN:
                return None
            versions = self.versions[self.content(self.codes[offset]).key]
            newer = bisect.bisect_right(versions, offset)
            return self.acknowledged_at[versions[newer]] if newer < len(versions) else None

    def lasts(self) -> dict[bytes, int]:
        """A copy of the last offset of each key."""
        with self.lock:
            return dict(self.last)

    def at(self, offset: int) -> Content:
        """The record that was acknowledged at an offset."""
        with self.lock:
            return self.content(self.codes[offset])

    def end(self) -> int:
        """The offset after the last acknowledged."""
        with self.lock:
            return len(self.codes)

    def check_whole(self) -> None:
        """Raises unless every offset is accounted for: all writers have been answered."""
        with self.lock:
            holes = [offset for offset, code in enumerate(self.codes) if code == NOT_WRITTEN]
            if holes or self.early:
                raise AssertionError(f"{self.name}: {len(holes)} offsets nobody wrote, {holes[:5]}; unexplained {list(self.early)[:5]}")
            codes = sorted(self.codes)
            if any(one == next_one for one, next_one in zip(codes, codes[1:], strict=False)):
                raise AssertionError(f"{self.name}: a record is there twice")


@dataclasses.dataclass
class Replay:
    """What one read of a partition showed: from where, up to where, and of each key the last record; and when it began."""

    start_offset: int
    start_ms: int | None
    end_offset: int
    began_s: float = 0.0
    offsets: set[int] = dataclasses.field(default_factory=set)
    table: dict[bytes, tuple[int, bool]] = dataclasses.field(default_factory=dict)  # key: offset, whether a value

    def take(self, record: common_pb2.StoredRecord) -> None:
        """Adds a record, later than all before it."""
        self.offsets.add(record.offset)
        self.table[record.key] = (record.offset, record.HasField("value"))

    def outlived(self, model: PartitionModel, shadowed_before_s: float) -> list[int]:
        """Which of the offsets read had a newer record of their key before that moment."""
        since = ((offset, model.shadowed_before(offset)) for offset in self.offsets)
        return sorted(offset for offset, at_s in since if at_s is not None and at_s < shadowed_before_s)

    def faults(self, model: PartitionModel) -> list[str]:
        """Where the table read differs from the model's: a lost record, or an old one of a key whose newest is gone."""
        found = []
        for key, last in model.lasts().items():
            if not self.start_offset <= last < self.end_offset:
                continue
            newest = model.at(last)
            if self.start_ms is not None and newest.timestamp_ms < self.start_ms:
                continue
            seen = self.table.get(key)
            if seen == (last, newest.value is not None) or (seen is None and newest.value is None) or (seen and seen[0] > last):
                continue
            found.append(f"{model.name}: {key!r} ends at {last} ({newest.value is not None}), a read from {self.start_offset} has {seen}")
        return found


def check_known_answers() -> None:
    """Raises unless the model takes a right replay for right, and each of four wrong ones for wrong."""
    model = PartitionModel("known", 0, compacted=True)
    codes = list(range(3 * KEYS))
    model.acknowledged(0, codes, at_s=100.0)
    records = [
        common_pb2.StoredRecord(offset=offset, key=c.key, value=c.value, timestamp_ms=c.timestamp_ms)
        for offset, c in enumerate(map(model.content, codes))
    ]
    kept = set(model.lasts().values())
    lost = min(offset for offset in kept if records[offset].HasField("value"))
    older = next(r for r in records if r.HasField("value") and r.offset not in kept)

    def differs(shown: list[common_pb2.StoredRecord]) -> int:
        replay = Replay(0, None, len(codes))
        for record in shown:
            model.judge(record)
            replay.take(record)
        return len(replay.faults(model))

    newest = [record for record in records if record.offset in kept]
    outcomes = (
        differs(newest),
        differs([record for record in newest if record.offset != lost]),
        differs([older, *(record for record in newest if record.key != older.key)]),
    )
    if outcomes != (0, 1, 1):
        raise AssertionError(f"a right replay, one with a record lost, one with an old record: {outcomes} differences")
    promised = Replay(0, None, len(codes))
    for record in [*newest, older]:
        promised.take(record)
    outlived = promised.outlived(model, 101.0), promised.outlived(model, 100.0)
    if outlived != ([older.offset], []):
        raise AssertionError(f"a shadowed record among others, old enough and not: {outlived}")
    records[lost].offset += 1
    try:
        model.judge(records[lost])
    except AssertionError:
        return
    raise AssertionError("a record at another offset was taken for right")
