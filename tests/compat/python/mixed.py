"""Mixed traffic while the cleaner and retention work, on the release binary, killed now and then.

A topic compacted by its dirty ratio and by command, one compacted for the promise of `max.compaction.lag.ms` alone, one compacted and
cut by size (`compact,delete`), and one cut by size, all `synced` and of small segments. Idempotent writers send again what was not
acknowledged; readers replay from random offsets and by time; `siltstone topic compact` is called again and again for the first. Early
in the run the server is killed twice with signal 9. It holds that
- every record stands where it was acknowledged, whole and once, as long as it is there; no offset moves;
- a reader of a compacted topic from any offset or time ends with the model's table of what lies in its range, deleted keys included;
- no read of the promised topic shows a record for which a newer one of its key was acknowledged longer ago, as the read began, than
  the promise and PROMISE_SLACK_S (a crash forgets times of appends: then it counts from the start after it); and soon after the
  last append, with the partitions idle and no command given, only the last record of each key is there;
- passes by ratio, by promise and by command each happened, as the server's log says; to the promised topic only those by promise, and for its tombstones;
- of what is cut nothing is missing behind the log start, which moves; what is also compacted has there what the model's table says;
- at the end, after a compaction, exactly the last record of each key is left;
- the memory of the server, its maps of files left out, grows by less than MEMORY_GROWS_BYTES after a quarter of its last life, and
  the middle of what it used in the last quarter is within MEMORY_DRIFTS_BYTES of that in the second;
- the server says of no error, and exits 0 at SIGTERM.
"""

import argparse
import collections
import contextlib
import random
import re
import statistics
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path

import generated  # noqa: F401  makes siltstone.v1 importable
import grpc
from siltstone.v1 import admin_pb2, admin_pb2_grpc, common_pb2, log_pb2, log_pb2_grpc

from model import NUMBER_BITS, PartitionModel, Replay, check_known_answers
from server import Server
from suite import Suite, equal

TABLE, PROMISED, WINDOW, QUEUE = "table", "promised", "window", "queue"
CUT = (WINDOW, QUEUE)
SMALL = {"durability": "synced", "segment.bytes": "1048576", "max.message.bytes": "262144"}
COMPACTED = {**SMALL, "cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.3", "delete.retention.ms": "20000"}
PROMISE_S = 20
KEPT_PROMISE = {**COMPACTED, "min.cleanable.dirty.ratio": "1", "max.compaction.lag.ms": str(PROMISE_S * 1000)}
SHORTENED = {**SMALL, "retention.bytes": "2097152"}
COMPACTED_AND_SHORTENED = {**COMPACTED, "cleanup.policy": "compact,delete", "retention.bytes": "524288"}
SERVER_SETTINGS = ("--set", "cleaner.backoff_ms=1000", "--set", "cleaner.dedupe_buffer_bytes=8MiB")
PARTITIONS = 2
WRITERS_PER_PARTITION = {TABLE: 2, PROMISED: 1, WINDOW: 1, QUEUE: 2}
RECORDS_PER_REQUEST = 100
REQUESTS_PER_S = 4
KILLS_AT = (0.1, 0.2)  # of the whole time
WARM_AFTER = 0.25  # of the last life
MEMORY_GROWS_BYTES = 48 << 20
MEMORY_DRIFTS_BYTES = 16 << 20
COMPACT_EVERY_S = 20
# A pass for a promise is due half of the promise before it breaks. What a loaded machine may add to that, without its pauses.
PROMISE_SLACK_S = 30
STALLS_COUNT = 10
COMPACTED_LINE = re.compile(r'log compacted.*? partition=(\S+)-\d+ cause="(\w+)"')
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CALL_WITHIN_S = 150
LONGER = 5  # times its time, a run may take on a slow machine
LOOK_EVERY_S = 0.5


class World:
    """The server of the moment, and whether the run is over. A call that fails because it was killed is made again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.over = threading.Event()
        self.faults: list[str] = []
        self.models = {
            (topic, p): PartitionModel(topic, p, topic != QUEUE) for topic in (TABLE, PROMISED, WINDOW, QUEUE) for p in range(PARTITIONS)
        }
        self.server: Server | None = None
        self.channel: grpc.Channel | None = None
        # Odd from just before a kill until the next server is up.
        self.turns = 0
        # When the server of the moment was ready, and the longest that this process was kept from running.
        self.ready_s = 0.0
        self.stalled_s = 0.0

    def start(self) -> None:
        """Starts the server over what the last one left."""
        self.server = Server(self.data, *SERVER_SETTINGS)
        self.channel = grpc.insecure_channel(self.server.grpc)
        self.ready_s = time.monotonic()

    def promise_reaches_s(self, now_s: float) -> float | None:
        """What was shadowed before that moment must be gone at `now_s`; None while the server is not old enough to tell."""
        reaches_s = now_s - PROMISE_S - PROMISE_SLACK_S - STALLS_COUNT * self.stalled_s
        return reaches_s if reaches_s > self.ready_s else None

    def kill(self) -> None:
        """Kills the server and starts another."""
        self.turns += 1
        old = self.channel
        self.server.kill()
        self.start()
        old.close()
        self.turns += 1

    def killed_since(self, turns: int) -> bool:
        """Whether a server may have died under a call that began at `turns`."""
        return turns % 2 == 1 or self.turns != turns

    def stub(self) -> log_pb2_grpc.LogServiceStub:
        """The log service of the server of the moment."""
        return log_pb2_grpc.LogServiceStub(self.channel)

    def persist(self, call: Callable[[log_pb2_grpc.LogServiceStub], object]) -> object:
        """Makes a call until it is answered; a failure while no server died is one of the server."""
        while True:
            turns = self.turns
            try:
                return call(self.stub())
            except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed under the call
                if not self.killed_since(turns):
                    raise AssertionError(f"a call failed: {error}") from error
                time.sleep(0.1)

    def guarded(self, work: Callable[[], None]) -> None:
        """Runs `work` again and again until the run is over; what it raises ends the run."""
        try:
            while not self.over.is_set():
                work()
        except Exception:
            self.faults.append(traceback.format_exc())
            self.over.set()


class Writer:
    """An idempotent producer of one partition, one request at a time."""

    def __init__(self, world: World, number: int, model: PartitionModel) -> None:
        self.world, self.model = world, model
        self.codes_from = number << NUMBER_BITS
        self.written = 0
        self.stamp: log_pb2.ProducerStamp | None = None

    def write(self) -> None:
        """Writes the next request, however often it has to be sent."""
        if self.stamp is None:
            given = self.world.persist(lambda stub: stub.InitProducer(log_pb2.InitProducerRequest(), timeout=CALL_WITHIN_S))
            self.stamp = log_pb2.ProducerStamp(producer_id=given.producer_id, producer_epoch=given.producer_epoch)
        began = time.monotonic()
        codes = [self.codes_from + self.written + step for step in range(RECORDS_PER_REQUEST)]
        contents = [self.model.content(code) for code in codes]
        self.stamp.base_sequence = self.written
        request = log_pb2.ProduceRequest(
            topic=self.model.topic,
            partition=self.model.partition,
            records=[common_pb2.Record(key=c.key, value=c.value, timestamp_ms=c.timestamp_ms) for c in contents],
            producer=self.stamp,
            compression=common_pb2.COMPRESSION_LZ4 if self.codes_from & (1 << NUMBER_BITS) else common_pb2.COMPRESSION_NONE,
        )
        response = self.world.persist(lambda stub: stub.Produce(request, timeout=CALL_WITHIN_S))
        (appended,) = response.appended
        equal(appended.last_offset - appended.base_offset + 1, len(codes), "records acknowledged")
        self.model.acknowledged(appended.base_offset, codes, time.monotonic())
        self.written += len(codes)
        time.sleep(max(0.0, 1 / REQUESTS_PER_S - (time.monotonic() - began)))


class Reader:
    """Replays partitions from random places."""

    def __init__(self, world: World, writers: list[Writer], seed: int) -> None:
        self.world, self.writers = world, writers
        self.random = random.Random(seed)
        self.replays = 0
        self.promises = 0

    def replay_somewhere(self) -> None:
        """One replay, half of them by time, and its judgement."""
        model = self.random.choice(list(self.world.models.values()))
        self.replays += 1
        if model.end() == 0:
            time.sleep(0.1)
        elif self.random.random() < 0.5:
            moment = model.at(self.random.randrange(model.end())).timestamp_ms
            self.check(model, self.replay(model, log_pb2.ReadStart(timestamp_ms=moment)))
        else:
            start = self.random.randrange(model.end()) if self.random.random() < 0.7 else 0
            if replay := self.replay(model, log_pb2.ReadStart(offset=start)):
                self.check(model, replay)
        time.sleep(0.2)

    def replay(self, model: PartitionModel, start: log_pb2.ReadStart) -> Replay:
        """Reads to the end as of the call; each record is judged as it comes."""
        return self.world.persist(lambda stub: read_once(stub, model, start))

    def check_promise(self, model: PartitionModel, replay: Replay) -> None:
        """Nothing that was read has been shadowed for longer than was promised."""
        # What was shadowed in an earlier life counts from this one's start: it is old enough when the life is.
        if (reaches_s := self.world.promise_reaches_s(replay.began_s)) is None:
            return
        if outlived := replay.outlived(model, reaches_s):
            offset = outlived[0]
            raise AssertionError(
                f"{model.name}: {len(outlived)} records outlived the promise by {PROMISE_SLACK_S} s; that at {offset} was shadowed "
                f"{replay.began_s - model.shadowed_before(offset):.1f} s before it was read"
            )
        self.promises += 1

    def check(self, model: PartitionModel, replay: Replay) -> None:
        """Compares what was read with the model; a difference may be a request that is not answered yet, so it is looked at again."""
        if model.topic == PROMISED:
            self.check_promise(model, replay)
        if model.compacted:
            if replay.faults(model):
                wait_for_answers(self.world, self.writers)
                if faults := replay.faults(model):
                    raise AssertionError(f"{len(faults)} keys: {faults[:3]}")
        elif replay.start_ms is None:
            equal(len(replay.offsets), replay.end_offset - replay.start_offset, f"records of {model.name} from {replay.start_offset}")


def read_once(stub: log_pb2_grpc.LogServiceStub, model: PartitionModel, start: log_pb2.ReadStart) -> Replay:
    """One whole read of a partition. A start that retention has overtaken becomes the earliest record."""
    by_time = start.timestamp_ms if start.HasField("timestamp_ms") else None
    where = log_pb2.ReadPartition(partition=model.partition, start=start)
    replay = Replay(start.offset if by_time is None else 0, by_time, 0, time.monotonic())
    try:
        complete = False
        before = -1
        for response in stub.Read(log_pb2.ReadRequest(topic=model.topic, partitions=[where]), timeout=CALL_WITHIN_S):
            complete = response.complete
            for position in response.resume.positions:
                replay.end_offset = position.offset
            for record in response.records:
                if record.offset <= before or (by_time is not None and record.timestamp_ms < by_time):
                    raise AssertionError(f"{model.name}: offset {record.offset} at {record.timestamp_ms} after {before}, from {start}")
                before = record.offset
                model.judge(record)
                replay.take(record)
        if not complete:
            raise AssertionError(f"{model.name}: the read from {start} did not say that it is complete")
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.OUT_OF_RANGE or model.topic not in CUT:
            raise
        replay = read_once(stub, model, log_pb2.ReadStart(timestamp_ms=0))
        replay.start_ms = None
        replay.start_offset = max(replay.start_offset, min(replay.offsets, default=replay.end_offset))
    if model.topic == WINDOW:
        # What is gone by now may have gone before it was read.
        replay.start_offset = max(replay.start_offset, log_start(stub, model))
    return replay


def log_start(stub: log_pb2_grpc.LogServiceStub, model: PartitionModel) -> int:
    """Where a partition begins now."""
    asked = log_pb2.ListOffsetsRequest(topic=model.topic, partitions=[model.partition], boundary=log_pb2.BOUNDARY_EARLIEST)
    (found,) = stub.ListOffsets(asked, timeout=CALL_WITHIN_S).offsets
    return found.offset


def wait_for_answers(world: World, writers: list[Writer]) -> None:
    """Returns when every request that was under way at the call has been answered."""
    before = [writer.written for writer in writers]
    while not world.over.is_set() and any(w.written == b for w, b in zip(writers, before, strict=True)):
        time.sleep(0.05)


def compact(world: World) -> None:
    """Compacts the table by command; a kill in the middle is no fault."""
    turns = world.turns
    try:
        world.server.cli("topic", "compact", TABLE)
    except AssertionError:
        if not world.killed_since(turns):
            raise
    world.over.wait(COMPACT_EVERY_S)


def memory_bytes(server: Server) -> int:
    """The server's resident memory that is no map of a file."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


def metric(server: Server, name: str) -> int:
    """The value of a metric without labels."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=CALL_WITHIN_S) as answer:
        return int(re.search(rf"^{name} (\d+)$", answer.read().decode(), re.MULTILINE)[1])


def passes_by_cause(server: Server) -> collections.Counter[tuple[str, str]]:
    """How many passes the log tells of, in all lives: by topic and cause."""
    said = COLOURS.sub("", server.stderr.read_text(errors="replace"))
    told = ((line[1], line[2]) for line in COMPACTED_LINE.finditer(said))
    return collections.Counter(one for one in told if one[0] in (TABLE, PROMISED, WINDOW))


class Run:
    """One run over one data directory."""

    def __init__(self, data: Path, seed: int, seconds: float) -> None:
        self.world = World(data)
        self.seconds = seconds
        models = [model for model in self.world.models.values() for _ in range(WRITERS_PER_PARTITION[model.topic])]
        self.writers = [Writer(self.world, number, model) for number, model in enumerate(models)]
        self.readers = [Reader(self.world, self.writers, seed + number) for number in range(2)]
        self.memory: list[int] = []

    def traffic(self) -> None:
        """Lets everything run for its time, kills included; raises what any part of it raised."""
        world = self.world
        world.start()
        admin = admin_pb2_grpc.AdminServiceStub(world.channel)
        for topic, settings in ((TABLE, COMPACTED), (PROMISED, KEPT_PROMISE), (WINDOW, COMPACTED_AND_SHORTENED), (QUEUE, SHORTENED)):
            admin.CreateTopic(admin_pb2.CreateTopicRequest(name=topic, partitions=PARTITIONS, config=settings), timeout=CALL_WITHIN_S)
        work = [writer.write for writer in self.writers] + [reader.replay_somewhere for reader in self.readers]
        work.append(lambda: compact(world))
        threads = [threading.Thread(target=world.guarded, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        self.watch()
        world.over.set()
        for thread in threads:
            thread.join(timeout=2 * CALL_WITHIN_S)
            if thread.is_alive():
                raise AssertionError("a client hangs")
        if world.faults:
            raise AssertionError("\n".join(world.faults))

    def watch(self) -> None:
        """Kills at the given moments and notes the memory of the last life; goes on until there was work enough."""
        began = time.monotonic()
        kills = [share * self.seconds for share in KILLS_AT]
        slept_s = time.monotonic()
        while not self.world.over.wait(LOOK_EVERY_S):
            self.world.stalled_s = max(self.world.stalled_s, time.monotonic() - slept_s - LOOK_EVERY_S)
            since = time.monotonic() - began
            if since >= LONGER * self.seconds or (since >= self.seconds and not kills and self.worked()):
                break
            if kills and since >= kills[0]:
                kills.pop(0)
                self.world.kill()
            elif not kills:
                self.memory.append(memory_bytes(self.world.server))
            slept_s = time.monotonic()

    def worked(self) -> bool:
        """Whether the cleaner, retention and each reader have had their share."""
        first = [min((self.world.data / model.name).glob("*.log")) for model in self.world.models.values() if model.topic in CUT]
        cut = all(int(file.stem) > 0 for file in first)
        replays = min(reader.replays for reader in self.readers)
        return cut and replays >= self.seconds / 10 and metric(self.world.server, "siltstone_cleaner_passes_total") >= 2

    def check_memory(self) -> None:
        """The greatest use after warming up is little more than the greatest before."""
        warm = int(len(self.memory) * WARM_AFTER)
        before, after = max(self.memory[:warm]), max(self.memory[warm:])
        print(f"       memory: {before >> 20} MiB while warming up, then {after >> 20} MiB at most")
        if after - before >= MEMORY_GROWS_BYTES:
            raise AssertionError(f"memory grew from {before} to {after} bytes: {self.memory[:: max(1, len(self.memory) // 40)]}")
        quarter = len(self.memory) // 4
        early, late = (statistics.median(part) for part in (self.memory[quarter : 2 * quarter], self.memory[-quarter:]))
        print(f"       memory: {early / (1 << 20):.1f} MiB in the middle of the second quarter, {late / (1 << 20):.1f} MiB of the last")
        if late - early >= MEMORY_DRIFTS_BYTES:
            raise AssertionError(f"memory drifts from {early} to {late} bytes")

    def check_replays(self, seed: int) -> None:
        """With all traffic over, the whole log and eight parts of it agree with the model."""
        chance = random.Random(seed)
        for model in self.world.models.values():
            model.check_whole()
            for start in [0, *(chance.randrange(model.end()) for _ in range(8))]:
                replay = read_once(self.world.stub(), model, log_pb2.ReadStart(offset=start))
                equal(replay.end_offset, model.end(), f"the end of {model.name}")
                if model.compacted:
                    equal(replay.faults(model), [], f"differences of {model.name} from {start}")
                else:
                    equal(len(replay.offsets), replay.end_offset - replay.start_offset, f"records of {model.name}")

    def only_last_are_left(self, topic: str) -> str | None:
        """None if the topic holds the last record of each key and no other, tombstones or not; else what it holds."""
        for model in (model for model in self.world.models.values() if model.topic == topic):
            replay = read_once(self.world.stub(), model, log_pb2.ReadStart(offset=0))
            last = set(model.lasts().values())
            live = {offset for offset in last if model.at(offset).value is not None}
            if not live <= replay.offsets <= last:
                return f"{model.name}: {len(replay.offsets)} records, {len(live)} live of {len(last)} keys"
        return None

    def check_only_last_are_left(self) -> None:
        """After a compaction the table holds the last record of each key, and the promised topic has none but those either."""
        self.world.server.cli("topic", "compact", TABLE)
        equal((self.only_last_are_left(TABLE), self.only_last_are_left(PROMISED)), (None, None), "what is left")

    def check_idle_promise(self) -> None:
        """With nothing appended any more, what is shadowed goes in time: active segments are sealed for it."""
        gone_by_s = time.monotonic() + PROMISE_S + PROMISE_SLACK_S + STALLS_COUNT * self.world.stalled_s
        while (left := self.only_last_are_left(PROMISED)) is not None:
            if time.monotonic() > gone_by_s:
                raise AssertionError(f"{left}, {PROMISE_SLACK_S} s after the promise")
            time.sleep(LOOK_EVERY_S)
        promises = [reader.promises for reader in self.readers]
        print(f"       {sum(promises)} reads of the promised topic judged; this process stood still for {self.world.stalled_s:.2f} s at most")
        if sum(promises) == 0 and self.seconds * (1 - max(KILLS_AT)) > 2 * (PROMISE_S + PROMISE_SLACK_S):
            raise AssertionError("no read was late enough to show anything")

    def check_it_was_work(self) -> None:
        """The cleaner and retention had something to do, and did it."""
        for model in self.world.models.values():
            files = sorted((self.world.data / model.name).glob("*.log"))
            size = sum(file.stat().st_size for file in files)
            print(f"       {model.name}: {model.end()} records written, {len(files)} segments, {size >> 10} KiB are left")
            if model.topic in CUT and int(files[0].stem) == 0:
                raise AssertionError(f"{model.name}: retention never cut it")
            left = len(read_once(self.world.stub(), model, log_pb2.ReadStart(timestamp_ms=0)).offsets)
            if model.compacted and left > model.end() / 2:
                raise AssertionError(f"{model.name}: {left} records of {model.end()} are left: no pass cleaned it")
        passes, failures = (metric(self.world.server, f"siltstone_cleaner_{what}_total") for what in ("passes", "failures"))
        print(f"       {passes} passes of the cleaner in the last life")
        if passes < 2 or failures > 0:
            raise AssertionError(f"{passes} passes, {failures} of them failed")
        causes = passes_by_cause(self.world.server)
        print("       passes in all lives: " + ", ".join(f"{count} of {topic} by {cause}" for (topic, cause), count in sorted(causes.items())))
        due = {(TABLE, "command"), (TABLE, "ratio"), (PROMISED, "promise"), (WINDOW, "ratio")}
        # Tombstones whose time is over are a cause, too, where no other pass takes them first.
        if not due <= set(causes) <= due | {(topic, "horizon") for topic in (TABLE, PROMISED, WINDOW)}:
            raise AssertionError(f"passes by cause: {causes}")
        replays = [reader.replays for reader in self.readers]
        if min(replays) < self.seconds / 10:
            raise AssertionError(f"too few replays to show anything: {replays}")

    def stop(self) -> None:
        """Stops the server; it exits 0, and has said of no error in any life."""
        self.world.channel.close()
        self.world.server.stop()
        said = self.world.server.stderr.read_text(errors="replace").splitlines()
        equal([line for line in said if "ERROR" in line], [], "errors in the log")


def main() -> int:
    """Runs the traffic; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000, help="where readers begin; printed at the start")
    arguments = parser.parse_args()
    suite = Suite("mixed")
    print(f"mixed: seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    with suite.case("the model tells a lost, an old and a moved record"):
        check_known_answers()
    with tempfile.TemporaryDirectory(prefix="siltstone-mixed-") as folder, contextlib.ExitStack() as last:
        run = Run(Path(folder) / "data", arguments.seed, arguments.minutes * 60)
        last.callback(lambda: run.world.server and run.world.server.__exit__())
        with suite.case(f"{arguments.minutes:g} minutes of mixed traffic, {len(KILLS_AT)} kills: readers see what the model says"):
            run.traffic()
        if suite.failed:
            return suite.close()
        with suite.case("the server's memory stays flat"):
            run.check_memory()
        with suite.case("the promise of max.compaction.lag.ms is kept in idle partitions, too"):
            run.check_idle_promise()
        with suite.case("nothing is lost: replays from anywhere agree with the model"):
            run.check_replays(arguments.seed)
        with suite.case("the cleaner and retention have worked"):
            run.check_it_was_work()
        with suite.case("the server exits cleanly and starts again"):
            run.stop()
            run.world.start()
            run.check_replays(arguments.seed + 1)
        with suite.case("a compaction leaves exactly the last record of each key"):
            run.check_only_last_are_left()
            run.check_replays(arguments.seed + 2)
            run.stop()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
