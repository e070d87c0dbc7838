"""Kills a server with signal 9 at random moments, over and over on the same data, and holds it to what it promised.

Three writers write numbered records with acks=all to a `synced` topic, a partition each: an idempotent one that sends again what was
not acknowledged, one of plain records, one of raw gzip batches; a reader follows all three. After each kill the server is started again:
- every acknowledged record is there, once, at the offset that was acknowledged, with its content;
- every record that the reader was shown is still there;
- a record that was not acknowledged is there once or not at all; the idempotent writer's is acknowledged in the end;
- offsets have no gaps, and leader epochs never fall along the log; batches written after a start have a higher epoch than all before it;
- a batch that stood in a file at the kill and is gone afterwards was replaced, if at all, under a higher epoch.
Each round reads what is new, the end reads everything once more.
"""

import argparse
import contextlib
import hashlib
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import generated  # noqa: F401  makes siltstone.v1 importable
import grpc
from siltstone.v1 import admin_pb2, admin_pb2_grpc, common_pb2, log_pb2, log_pb2_grpc

import record_batch
from server import Server, binary
from suite import Suite, equal

TOPIC = "numbers"
SETTINGS = {"durability": "synced", "segment.bytes": "1048576"}
CALL_WITHIN_S = 120
LONGEST_ROUND_S = 0.45
ENOUGH_PER_ROUND = 20
MORE_ROUNDS = 5
# A server remembers five batches of an idempotent producer, so no more may be in doubt at once.
IN_FLIGHT = 5


def content(partition: int, number: int) -> bytes:
    """The value of record `number`: its name, then bytes that follow from it, of a length that follows from it."""
    name = b"%d:%d:" % (partition, number)
    digest = hashlib.sha256(name).digest()
    return name + digest * (1 + digest[0] // 8)


def number_of(partition: int, value: bytes) -> int:
    """Which record this is; raises unless the value is whole."""
    fields = value.split(b":", 2)
    if len(fields) == 3 and fields[0] == b"%d" % partition and fields[1].isdigit():
        number = int(fields[1])
        if value == content(partition, number):
            return number
    raise AssertionError(f"partition {partition}: a torn or foreign record: {value[:60]!r}, {len(value)} bytes")


class Writer:
    """Writes consecutive numbers to one partition; kept over all rounds, while each round gives it a new stream."""

    def __init__(self, partition: int, seed: int) -> None:
        self.partition = partition
        self.random = random.Random(seed)
        self.next_number = 0
        self.lock = threading.Lock()
        # Guarded by `lock`: requests sent and not answered, by id = first number; offsets acknowledged, by number.
        self.pending: dict[int, list[int]] = {}
        self.acknowledged: dict[int, int] = {}
        self.fresh: list[int] = []
        self.faults: list[str] = []

    def request(self, numbers: list[int]) -> log_pb2.ProduceRequest:
        """The request for these numbers."""
        records = [common_pb2.Record(value=content(self.partition, number)) for number in numbers]
        return log_pb2.ProduceRequest(topic=TOPIC, partition=self.partition, records=records)

    def unanswered(self) -> list[list[int]]:
        """What a new stream sends first: nothing, the fate of what was in flight stays open."""
        self.pending.clear()
        return []

    def run(self, stub: log_pb2_grpc.LogServiceStub, stop: threading.Event) -> None:
        """Writes until `stop` is set or the server is gone."""
        slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(IN_FLIGHT):
            slots.put(None)
        over = threading.Event()

        def requests() -> Iterator[log_pb2.ProduceStreamRequest]:
            again = self.unanswered()
            while not stop.is_set() and not over.is_set():
                try:
                    slots.get(timeout=0.02)
                except queue.Empty:
                    continue
                with self.lock:
                    if over.is_set():
                        return
                    if again:
                        numbers = again.pop(0)
                    else:
                        numbers = list(range(self.next_number, self.next_number + self.random.randint(1, 12)))
                        self.next_number = numbers[-1] + 1
                    self.pending[numbers[0]] = numbers
                yield log_pb2.ProduceStreamRequest(id=numbers[0], request=self.request(numbers))

        with contextlib.suppress(grpc.RpcError):
            for response in stub.ProduceStream(requests()):
                self.answered(response)
                slots.put(None)
        with self.lock:
            over.set()

    def answered(self, response: log_pb2.ProduceStreamResponse) -> None:
        """Notes what was acknowledged; an error at this point is a fault, unless it says that the server stops."""
        with self.lock:
            numbers = self.pending.pop(response.id, None)
            if numbers is None:
                self.faults.append(f"an answer to {response.id}, which was not asked")
            elif response.WhichOneof("outcome") == "error":
                self.faults.append(f"{response.error.reason}: {response.error.message}")
            else:
                appended = response.acknowledged.appended[0]
                if appended.last_offset - appended.base_offset + 1 != len(numbers):
                    self.faults.append(f"{len(numbers)} records acknowledged as {appended}")
                for step, number in enumerate(numbers):
                    self.acknowledged[number] = appended.base_offset + step
                    self.fresh.append(number)


class IdempotentWriter(Writer):
    """Numbers its batches and sends again, with the same numbers, what was not acknowledged."""

    producer: log_pb2.InitProducerResponse | None = None

    def unanswered(self) -> list[list[int]]:
        """Everything in flight when the last stream broke, in order."""
        return [numbers for _, numbers in sorted(self.pending.items())]

    def run(self, stub: log_pb2_grpc.LogServiceStub, stop: threading.Event) -> None:
        if self.producer is None:
            with contextlib.suppress(grpc.RpcError):
                self.producer = stub.InitProducer(log_pb2.InitProducerRequest(), timeout=CALL_WITHIN_S)
        if self.producer is not None:
            super().run(stub, stop)

    def request(self, numbers: list[int]) -> log_pb2.ProduceRequest:
        request = super().request(numbers)
        assert self.producer is not None, "run has asked for it"
        request.producer.producer_id = self.producer.producer_id
        request.producer.producer_epoch = self.producer.producer_epoch
        request.producer.base_sequence = numbers[0]
        return request


class RawWriter(Writer):
    """Sends gzip batches that it has built itself."""

    def request(self, numbers: list[int]) -> log_pb2.ProduceRequest:
        values = [content(self.partition, number) for number in numbers]
        batch = record_batch.encode(values, 1_356_998_400_000 + numbers[0], codec=record_batch.GZIP)
        return log_pb2.ProduceRequest(topic=TOPIC, partition=self.partition, batch=batch)


class Ledger:
    """What one partition is known to hold, and what has been promised about it."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.numbers: list[int] = []  # by offset: what was read after a restart
        self.offset_of: dict[int, int] = {}
        self.shown: dict[int, bytes] = {}  # by offset: what the reader saw since the last check
        self.highest_epoch = -1
        self.epoch_before_start = -1
        self.on_disk: set[tuple[int, int, int, bytes]] = set()  # first and last offset, epoch, hash: in the files at a kill

    @property
    def end(self) -> int:
        """The first offset not read yet."""
        return len(self.numbers)

    def take(self, records: list[common_pb2.StoredRecord]) -> None:
        """Adds what was read from `end` on: no gap, no torn record, no number twice."""
        for record in records:
            partition = self.writer.partition
            equal(record.offset, self.end, f"partition {partition}: the next offset")
            number = number_of(partition, record.value)
            if number in self.offset_of:
                raise AssertionError(f"partition {partition}: record {number} at {self.offset_of[number]} and {self.end}")
            self.offset_of[number] = self.end
            self.numbers.append(number)

    def check_promises(self) -> None:
        """Everything acknowledged or shown since the last check is where it was."""
        partition = self.writer.partition
        with self.writer.lock:
            fresh, self.writer.fresh = self.writer.fresh, []
            equal(self.writer.faults, [], f"partition {partition}: faults of the writer")
            promised = {number: self.writer.acknowledged[number] for number in fresh}
        for number, offset in promised.items():
            equal(self.offset_of.get(number), offset, f"partition {partition}: offset of acknowledged record {number}")
        for offset, value in self.shown.items():
            if offset >= self.end:
                raise AssertionError(f"partition {partition}: offset {offset} was shown to a reader and is lost")
            equal(self.numbers[offset], number_of(partition, value), f"partition {partition}: what was shown at {offset}")
        self.shown.clear()

    def check_epochs(self, batches: bytes, start: int) -> None:
        """Epochs of the batches from `start` on, and the fate of those that stood in the files at the kill."""
        partition = self.writer.partition
        for header in record_batch.walk(batches):
            if header.last_offset < start:
                continue
            stored = batches[header.position : header.position + header.size_bytes]
            if header.leader_epoch < self.highest_epoch or header.leader_epoch <= self.epoch_before_start:
                raise AssertionError(
                    f"partition {partition}: epoch {header.leader_epoch} at {header.base_offset}, {self.highest_epoch} before it, "
                    f"{self.epoch_before_start} before the start that wrote it"
                )
            self.highest_epoch = header.leader_epoch
            for base, last, epoch, digest in self.on_disk:
                overlaps = base <= header.last_offset and header.base_offset <= last
                if overlaps and hashlib.sha256(stored).digest() != digest and header.leader_epoch <= epoch:
                    raise AssertionError(f"partition {partition}: offset {base} was written again under epoch {header.leader_epoch}")
        # What was on disk and is not in the log stays under watch until later offsets have gone past it.
        self.on_disk = {batch for batch in self.on_disk if batch[1] >= self.end}

    def note_disk(self, directory: Path) -> None:
        """Remembers the batches that stand in the files from `end` on."""
        logs = sorted(directory.glob("*.log"))
        behind = [log for log in logs if int(log.stem) <= self.end][-1:]
        for log in behind + [log for log in logs if int(log.stem) > self.end]:
            content_of_file = log.read_bytes()
            for header in record_batch.walk(content_of_file):
                if header.base_offset >= self.end:
                    stored = content_of_file[header.position : header.position + header.size_bytes]
                    digest = hashlib.sha256(stored).digest()
                    self.on_disk.add((header.base_offset, header.last_offset, header.leader_epoch, digest))


class Trial:
    """The rounds over one data directory."""

    def __init__(self, data: Path, seed: int) -> None:
        self.data = data
        self.random = random.Random(seed)
        writers = [IdempotentWriter(0, seed + 1), Writer(1, seed + 2), RawWriter(2, seed + 3)]
        self.ledgers = [Ledger(writer) for writer in writers]

    def create_topic(self, server: Server) -> None:
        """Creates the topic; it must be there from then on."""
        with grpc.insecure_channel(server.grpc) as channel:
            request = admin_pb2.CreateTopicRequest(name=TOPIC, partitions=len(self.ledgers), config=SETTINGS)
            admin_pb2_grpc.AdminServiceStub(channel).CreateTopic(request, timeout=CALL_WITHIN_S)

    def write_and_kill(self, server: Server) -> None:
        """Lets writers and the reader run, and kills the server in their midst."""
        stop = threading.Event()
        with grpc.insecure_channel(server.grpc) as channel:
            stub = log_pb2_grpc.LogServiceStub(channel)
            threads = [threading.Thread(target=ledger.writer.run, args=(stub, stop)) for ledger in self.ledgers]
            threads.append(threading.Thread(target=self.follow, args=(stub,)))
            for thread in threads:
                thread.start()
            if self.random.random() < 0.5:
                self.wait_for_an_answer()
            time.sleep(self.random.uniform(0.0, LONGEST_ROUND_S))
            server.kill()
            stop.set()
            for thread in threads:
                thread.join(timeout=CALL_WITHIN_S)
                if thread.is_alive():
                    raise AssertionError("a client hangs though its server is gone")
        for ledger in self.ledgers:
            ledger.note_disk(self.data / f"{TOPIC}-{ledger.writer.partition}")

    def wait_for_an_answer(self) -> None:
        """Returns when something written in this round is acknowledged: on a slow machine a round may be over before."""
        deadline = time.monotonic() + CALL_WITHIN_S
        while not any(ledger.writer.fresh or ledger.writer.faults for ledger in self.ledgers):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing was acknowledged within {CALL_WITHIN_S} s")
            time.sleep(0.01)

    def acknowledged(self) -> int:
        """Records acknowledged so far."""
        return sum(len(ledger.writer.acknowledged) for ledger in self.ledgers)

    def follow(self, stub: log_pb2_grpc.LogServiceStub) -> None:
        """Notes every record that the server shows to a reader."""
        starts = [
            log_pb2.ReadPartition(partition=ledger.writer.partition, start=log_pb2.ReadStart(offset=ledger.end))
            for ledger in self.ledgers
        ]
        request = log_pb2.ReadRequest(topic=TOPIC, partitions=starts, end=log_pb2.ReadEnd(follow=True))
        with contextlib.suppress(grpc.RpcError):
            for response in stub.Read(request):
                for record in response.records:
                    self.ledgers[response.partition].shown[record.offset] = record.value

    def kill_while_starting(self) -> None:
        """Starts a server and kills it before it is ready, or just then."""
        with contextlib.suppress(AssertionError):
            within = self.random.uniform(0.0, 0.03)
            Server.from_command(
                [str(binary()), "serve", "--data-dir", str(self.data), "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
                cwd=None,
                env=None,
                stderr=self.data.with_name("starting.stderr"),
                ready_within_s=within,
            ).kill()

    def verify_new(self, server: Server) -> None:
        """Reads what was written since the last check, once as records and once as batches."""
        with grpc.insecure_channel(server.grpc) as channel:
            stub = log_pb2_grpc.LogServiceStub(channel)
            for ledger in self.ledgers:
                start = ledger.end
                ledger.take(read_from(stub, ledger.writer.partition, start))
                ledger.check_promises()
                ledger.check_epochs(batches_from(stub, ledger.writer.partition, start), start)

    def begin_new_epoch(self) -> None:
        """From here on, whatever is written was written after another start."""
        highest = max(ledger.highest_epoch for ledger in self.ledgers)
        for ledger in self.ledgers:
            ledger.epoch_before_start = highest

    def verify_all(self, server: Server) -> None:
        """Reads everything from the start: it is what the rounds saw, and nothing acknowledged is missing."""
        with grpc.insecure_channel(server.grpc) as channel:
            stub = log_pb2_grpc.LogServiceStub(channel)
            for ledger in self.ledgers:
                partition = ledger.writer.partition
                numbers = [number_of(partition, record.value) for record in read_from(stub, partition, 0)]
                equal(numbers, ledger.numbers, f"partition {partition}: everything")
                for number, offset in ledger.writer.acknowledged.items():
                    equal(ledger.numbers[offset], number, f"partition {partition}: the record acknowledged at {offset}")
        idempotent = self.ledgers[0]
        equal(sorted(idempotent.numbers), list(range(len(idempotent.numbers))), "numbers of the idempotent writer")
        equal(idempotent.numbers, sorted(idempotent.numbers), "their order")


def read_from(stub: log_pb2_grpc.LogServiceStub, partition: int, offset: int) -> list[common_pb2.StoredRecord]:
    """All records of a partition from an offset to the end."""
    return [record for response in read(stub, partition, offset, common_pb2.RECORD_FORMAT_RECORDS) for record in response.records]


def batches_from(stub: log_pb2_grpc.LogServiceStub, partition: int, offset: int) -> bytes:
    """All batches of a partition from the one that holds an offset to the end."""
    return b"".join(response.batches for response in read(stub, partition, offset, common_pb2.RECORD_FORMAT_BATCHES))


def read(stub: log_pb2_grpc.LogServiceStub, partition: int, offset: int, form: int) -> list[log_pb2.ReadResponse]:
    """A whole read of one partition."""
    start = log_pb2.ReadPartition(partition=partition, start=log_pb2.ReadStart(offset=offset))
    responses = list(stub.Read(log_pb2.ReadRequest(topic=TOPIC, partitions=[start], format=form), timeout=CALL_WITHIN_S))
    if not responses or not responses[-1].complete:
        raise AssertionError(f"the read of partition {partition} from {offset} did not say that it is complete")
    return responses


def run(trial: Trial, rounds: int) -> None:
    """All rounds, and more where the machine was so slow that they showed little; raises at the first broken promise."""
    with Server(trial.data) as server:
        trial.create_topic(server)
        server.kill()
    for done in range(MORE_ROUNDS * rounds):
        if done >= rounds and trial.acknowledged() >= ENOUGH_PER_ROUND * rounds:
            break
        if trial.random.random() < 0.15:
            trial.kill_while_starting()
        with Server(trial.data) as server:
            trial.verify_new(server)
            trial.begin_new_epoch()
            trial.write_and_kill(server)
    with Server(trial.data) as server:
        trial.verify_new(server)
        trial.verify_all(server)
        server.stop()
    with Server(trial.data) as server:
        trial.verify_all(server)
        server.stop()


def main() -> int:
    """Runs the loop; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000, help="moments of the kills; printed at the start")
    arguments = parser.parse_args()
    suite = Suite("kill9")
    print(f"kill9: seed {arguments.seed}, {arguments.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="siltstone-kill9-") as folder:
        trial = Trial(Path(folder) / "data", arguments.seed)
        start = time.monotonic()
        with suite.case(f"{arguments.rounds} kills break no promise"):
            run(trial, arguments.rounds)
        acknowledged = trial.acknowledged()
        print(f"kill9: {acknowledged} records acknowledged, {(time.monotonic() - start) / arguments.rounds:.2f} s a round", flush=True)
        with suite.case("enough was written to show something"):
            if acknowledged < ENOUGH_PER_ROUND * arguments.rounds:
                raise AssertionError(f"only {acknowledged} records were acknowledged")
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
