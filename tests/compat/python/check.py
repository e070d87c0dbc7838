"""A Python gRPC client, made from the .proto files alone, against a real server: every call of `LogService` and the topics."""

import contextlib
import dataclasses
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import generated  # noqa: F401  makes siltstone.v1 importable
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from siltstone.v1 import admin_pb2, admin_pb2_grpc, common_pb2, log_pb2, log_pb2_grpc

import flights
import record_batch
from server import Server
from suite import Suite, equal

DEADLINE_S = 150
TIME_MS = 1_356_998_400_000
PIPELINED = 500


@dataclasses.dataclass
class Client:
    """The two services of one server."""

    channel: grpc.Channel
    admin: admin_pb2_grpc.AdminServiceStub
    log: log_pb2_grpc.LogServiceStub

    def create(self, topic: str, partitions: int = 1) -> None:
        """Creates a topic."""
        self.admin.CreateTopic(admin_pb2.CreateTopicRequest(name=topic, partitions=partitions), timeout=DEADLINE_S)

    def produce(self, topic: str, values: list[bytes], **fields: object) -> log_pb2.ProduceResponse:
        """Writes plain records without keys."""
        records = [common_pb2.Record(value=value, timestamp_ms=TIME_MS + number) for number, value in enumerate(values)]
        return self.log.Produce(log_pb2.ProduceRequest(topic=topic, records=records, **fields), timeout=DEADLINE_S)

    def read(self, topic: str, **fields: object) -> list[log_pb2.ReadResponse]:
        """Every response of a read; the last one, and no other, says that it is complete."""
        responses = list(self.log.Read(log_pb2.ReadRequest(topic=topic, **fields), timeout=DEADLINE_S))
        equal([r.complete for r in responses], [False] * (len(responses) - 1) + [True], "the mark of completeness")
        return responses


@contextlib.contextmanager
def connect(server: Server) -> Iterator[Client]:
    """A channel to `server` and its stubs."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield Client(channel, admin_pb2_grpc.AdminServiceStub(channel), log_pb2_grpc.LogServiceStub(channel))


def values(responses: list[log_pb2.ReadResponse]) -> list[bytes]:
    """The values of all records, in order."""
    return [record.value for response in responses for record in response.records]


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    """Runs a call that must fail; returns its code and its machine-readable reason."""
    try:
        answer = call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        if status is None:
            raise AssertionError(f"no details with {error.code()}: {error.details()}") from error
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                equal(info.domain, "siltstone", "the domain of the reason")
                return error.code(), info
        raise AssertionError(f"no ErrorInfo with {error.code()}: {error.details()}") from error
    raise AssertionError(f"not refused: {answer}")


def plain_records(client: Client) -> None:
    """Keys, nulls, empty values, headers and times come back as they went in, keys in Kafka's partitions."""
    client.create("plain", 4)
    keys = [None, b"", b"\xff\x00", *(f"N{number}".encode() for number in range(40))]
    headers = [
        common_pb2.Header(key="trace", value=b"\x00\xfe"),
        common_pb2.Header(key="none"),
        common_pb2.Header(key="trace", value=b""),
    ]
    sent = [
        common_pb2.Record(
            key=key,
            value=None if number % 5 == 0 else b"" if number % 5 == 1 else f"value {number}".encode(),
            timestamp_ms=TIME_MS - 1000 * number,
            headers=headers,
        )
        for number, key in enumerate(keys)
    ]
    written = client.log.Produce(log_pb2.ProduceRequest(topic="plain", records=sent), timeout=DEADLINE_S)
    places = {
        (part.partition, part.base_offset + number): index
        for part in written.appended
        for number, index in enumerate(part.record_indexes)
    }
    equal(sorted(places.values()), list(range(len(sent))), "the records that were placed")
    seen = 0
    for response in client.read("plain"):
        for record in response.records:
            expected = sent[places[response.partition, record.offset]]
            got = common_pb2.Record(value=record.value, timestamp_ms=record.timestamp_ms, headers=record.headers)
            if not record.HasField("value"):
                got.ClearField("value")
            if record.HasField("key"):
                got.key = record.key
                equal(response.partition, flights.partition_of(record.key, 4), f"the partition of {record.key!r}")
            equal(got, expected, f"record {record.offset} of partition {response.partition}")
            seen += 1
    equal(seen, len(sent), "records read")


def raw_batches(client: Client) -> None:
    """The bytes of a batch are those that were sent, but for base offset and leader epoch."""
    client.create("raw")
    batches = [
        record_batch.encode([b"one", b"two", b"three" * 1000], TIME_MS),
        record_batch.encode([b"four", b"five"] * 100, TIME_MS, codec=record_batch.GZIP),
    ]
    for batch in batches:
        client.log.Produce(log_pb2.ProduceRequest(topic="raw", partition=0, batch=batch), timeout=DEADLINE_S)
    fetched = client.log.Fetch(
        log_pb2.FetchRequest(
            partitions=[log_pb2.FetchPartition(topic="raw", partition=0, offset=0)], format=common_pb2.RECORD_FORMAT_BATCHES
        ),
        timeout=DEADLINE_S,
    ).partitions[0]
    stored = record_batch.headers(fetched.batches)
    equal([(b.base_offset, b.last_offset) for b in stored], [(0, 2), (3, 202)], "offsets of the batches")
    for header, batch in zip(stored, batches, strict=True):
        mine = fetched.batches[header.position : header.position + header.size_bytes]
        equal(mine[record_batch.PREFIX :], batch[record_batch.PREFIX :], "the bytes after the prefix")
    read = b"".join(response.batches for response in client.read("raw", format=common_pb2.RECORD_FORMAT_BATCHES))
    equal(read, fetched.batches, "the same bytes through Read")
    equal(values(client.read("raw")), [b"one", b"two", b"three" * 1000] + [b"four", b"five"] * 100, "values decoded by the server")


def pipelined(client: Client) -> None:
    """Many requests under way; each answer carries its id; one bad request is answered alone."""
    client.create("stream", 2)
    bad = PIPELINED // 2

    def requests() -> Iterator[log_pb2.ProduceStreamRequest]:
        for number in range(PIPELINED):
            request = log_pb2.ProduceRequest(
                topic="nowhere" if number == bad else "stream",
                partition=number % 2,
                records=[common_pb2.Record(value=f"{number}".encode())],
            )
            yield log_pb2.ProduceStreamRequest(id=7000 + number, request=request)

    answers = list(client.log.ProduceStream(requests(), timeout=DEADLINE_S))
    equal(sorted(answer.id for answer in answers), [7000 + number for number in range(PIPELINED)], "ids answered")
    errors = [answer for answer in answers if answer.WhichOneof("outcome") == "error"]
    equal([answer.id for answer in errors], [7000 + bad], "ids refused")
    equal(errors[0].error.reason, "UNKNOWN_TOPIC", "the reason")
    for partition in (0, 1):
        offsets = [
            answer.acknowledged.appended[0].base_offset
            for answer in answers
            if answer.WhichOneof("outcome") == "acknowledged" and answer.id % 2 == partition
        ]
        equal(offsets, list(range(len(offsets))), f"offsets of partition {partition} in the order of its answers")
    sent = [f"{number}".encode() for number in range(PIPELINED) if number != bad]
    equal(sorted(values(client.read("stream"))), sorted(sent), "values")


def stamped(producer: log_pb2.InitProducerResponse, sequence: int) -> log_pb2.ProducerStamp:
    """The number of a batch of an idempotent producer."""
    return log_pb2.ProducerStamp(producer_id=producer.producer_id, producer_epoch=producer.producer_epoch, base_sequence=sequence)


def idempotent(client: Client) -> log_pb2.InitProducerResponse:
    """A batch sent twice is written once; a gap in the numbers is refused."""
    client.create("once")
    producer = client.log.InitProducer(log_pb2.InitProducerRequest(), timeout=DEADLINE_S)
    first = client.produce("once", [b"a", b"b"], partition=0, producer=stamped(producer, 0)).appended[0]
    again = client.produce("once", [b"a", b"b"], partition=0, producer=stamped(producer, 0)).appended[0]
    equal((first.duplicate, again.duplicate), (False, True), "the marks of a duplicate")
    equal((again.base_offset, again.last_offset), (first.base_offset, first.last_offset), "offsets of the retry")
    code, info = refused(lambda: client.produce("once", [b"late"], partition=0, producer=stamped(producer, 9)))
    equal((code, info.reason), (grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_ORDER_SEQUENCE"), "a gap in the numbers")
    equal((info.metadata["topic"], info.metadata["partition"]), ("once", "0"), "what the reason is about")
    client.produce("once", [b"c"], partition=0, producer=stamped(producer, 2))
    equal(values(client.read("once")), [b"a", b"b", b"c"], "values")
    return producer


def idempotent_across_restart(client: Client, producer: log_pb2.InitProducerResponse) -> None:
    """The server remembers the numbers it has seen."""
    again = client.produce("once", [b"c"], partition=0, producer=stamped(producer, 2)).appended[0]
    equal((again.duplicate, again.base_offset), (True, 2), "the retry after a restart")
    client.produce("once", [b"d"], partition=0, producer=stamped(producer, 3))
    equal(values(client.read("once")), [b"a", b"b", b"c", b"d"], "values")


def errors(client: Client) -> None:
    """Each refusal has a code by kind, a reason, and what it is about."""
    client.create("errors")
    code, info = refused(lambda: client.produce("nowhere", [b"x"]))
    equal((code, info.reason, info.metadata["topic"]), (grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC", "nowhere"), "an unknown topic")
    code, _ = refused(lambda: client.create("errors"))
    equal(code, grpc.StatusCode.ALREADY_EXISTS, "a topic that exists")
    code, _ = refused(lambda: client.create("no/such name"))
    equal(code, grpc.StatusCode.INVALID_ARGUMENT, "a bad name")
    damaged = bytearray(record_batch.encode([b"x"], TIME_MS))
    damaged[-2] ^= 1
    request = log_pb2.ProduceRequest(topic="errors", partition=0, batch=bytes(damaged))
    code, info = refused(lambda: client.log.Produce(request, timeout=DEADLINE_S))
    equal((code, info.reason, info.metadata["topic"]), (grpc.StatusCode.INVALID_ARGUMENT, "CORRUPT_BATCH", "errors"), "a damaged batch")
    code, info = refused(lambda: client.produce("errors", [b"x" * 2_000_000]))
    equal((code, info.reason, info.metadata["topic"]), (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE", "errors"), "a large record")
    start = [log_pb2.ReadPartition(partition=0, start=log_pb2.ReadStart(offset=99))]
    code, info = refused(lambda: client.read("errors", partitions=start))
    equal((code, info.reason), (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE"), "an offset past the end")
    equal(client.read("errors")[-1].high_watermark, 0, "nothing of it was stored")


def resume(client: Client) -> None:
    """A read broken off after any response goes on exactly there."""
    client.create("resume", 3)
    for partition in range(3):
        for start in range(0, 300, 30):
            client.produce("resume", [b"%d:%d " % (partition, start + n) + b"." * 500 for n in range(30)], partition=partition)
    whole = sorted(values(client.read("resume")))
    equal(len(set(whole)), 900, "values written")
    for taken in (1, 2, 7):
        stream = client.log.Read(log_pb2.ReadRequest(topic="resume", max_response_bytes=10_000), timeout=DEADLINE_S)
        head = [next(stream) for _ in range(taken)]
        stream.cancel()
        rest = client.read("resume", resume=head[-1].resume, max_response_bytes=10_000)
        equal(sorted(values(head) + values(rest)), whole, f"values when broken off after {taken}")


def by_time(client: Client) -> None:
    """Exactly the records of the half-open range, also where times run backwards."""
    client.create("times")
    times = [TIME_MS + step for step in (50, 10, 40, 20, 30, 20, 60, 0)]
    records = [common_pb2.Record(value=b"%d" % n, timestamp_ms=time) for n, time in enumerate(times)]
    for record in records:
        client.log.Produce(log_pb2.ProduceRequest(topic="times", records=[record]), timeout=DEADLINE_S)
    start, end = log_pb2.ReadStart(timestamp_ms=TIME_MS + 20), log_pb2.ReadEnd(timestamp_ms=TIME_MS + 50)
    equal(values(client.read("times", start=start, end=end)), [b"2", b"3", b"4", b"5"], "values in the range")
    found = client.log.ListOffsets(log_pb2.ListOffsetsRequest(topic="times", timestamp_ms=TIME_MS + 55), timeout=DEADLINE_S).offsets
    equal([(f.partition, f.offset, f.timestamp_ms) for f in found], [(0, 6, TIME_MS + 60)], "the first offset at a time")
    found = client.log.ListOffsets(log_pb2.ListOffsetsRequest(topic="times", timestamp_ms=TIME_MS + 61), timeout=DEADLINE_S).offsets
    equal([f.HasField("offset") for f in found], [False], "no record is that late")
    for boundary, offset in (("EARLIEST", 0), ("LATEST", 8), ("MAX_TIMESTAMP", 6)):
        request = log_pb2.ListOffsetsRequest(topic="times", boundary=f"BOUNDARY_{boundary}")
        equal([f.offset for f in client.log.ListOffsets(request, timeout=DEADLINE_S).offsets], [offset], boundary)


def following(client: Client) -> None:
    """A reader that follows, and a fetch that waits, are woken by a write."""
    client.create("follow")
    client.produce("follow", [b"before"])
    stream = client.log.Read(log_pb2.ReadRequest(topic="follow", end=log_pb2.ReadEnd(follow=True)), timeout=DEADLINE_S)
    got: list[bytes] = []
    while not got:
        got += values([next(stream)])
    fetch = log_pb2.FetchRequest(
        partitions=[log_pb2.FetchPartition(topic="follow", partition=0, offset=1)], min_bytes=1, max_wait_ms=60_000
    )
    waiting = client.log.Fetch.future(fetch, timeout=DEADLINE_S)
    client.produce("follow", [b"after"])
    equal([r.value for r in waiting.result().partitions[0].records], [b"after"], "the fetch that waited")
    while len(got) < 2:
        got += values([next(stream)])
    stream.cancel()
    equal(got, [b"before", b"after"], "the reader that follows")


def delete_records(client: Client) -> None:
    """Records before the new start are gone for every reader."""
    client.create("deleted")
    client.produce("deleted", [b"%d" % n for n in range(10)])
    request = log_pb2.DeleteRecordsRequest(topic="deleted", partitions=[log_pb2.DeleteBefore(partition=0, before_offset=4)])
    equal([p.log_start_offset for p in client.log.DeleteRecords(request, timeout=DEADLINE_S).partitions], [4], "the new start")
    equal(values(client.read("deleted")), [b"%d" % n for n in range(4, 10)], "what is left")
    start = [log_pb2.ReadPartition(partition=0, start=log_pb2.ReadStart(offset=3))]
    code, info = refused(lambda: client.read("deleted", partitions=start))
    equal((code, info.reason), (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE"), "a start below the log")


def standard_services(client: Client) -> None:
    """Health says that it serves, reflection names the services: bytes by hand, since both are standard messages."""
    health = client.channel.unary_unary("/grpc.health.v1.Health/Check")
    equal(health(b"", timeout=DEADLINE_S), b"\x08\x01", "health (status = SERVING)")
    reflection = client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    list_services = b"\x3a\x00"
    (answer,) = reflection(iter([list_services]), timeout=DEADLINE_S)
    for service in (b"siltstone.v1.LogService", b"siltstone.v1.AdminService"):
        if service not in answer:
            raise AssertionError(f"{service!r} is not among the reflected services")


def topics(client: Client) -> None:
    """A topic is created, described, altered, grown, listed and deleted."""
    client.create("topics", 2)
    alter = admin_pb2.AlterTopicRequest(name="topics", set={"max.message.bytes": "65536"})
    altered = client.admin.AlterTopic(alter, timeout=DEADLINE_S).topic
    equal({c.name: c.value for c in altered.config}["max.message.bytes"], "65536", "the setting")
    wrong = admin_pb2.AlterTopicRequest(name="topics", set={"max.mesage.bytes": "1"})
    equal(refused(lambda: client.admin.AlterTopic(wrong, timeout=DEADLINE_S))[0], grpc.StatusCode.INVALID_ARGUMENT, "an unknown setting")
    client.admin.AddPartitions(admin_pb2.AddPartitionsRequest(name="topics", total=5), timeout=DEADLINE_S)
    described = client.admin.DescribeTopic(admin_pb2.DescribeTopicRequest(name="topics"), timeout=DEADLINE_S).topic
    equal([p.partition for p in described.partitions], [0, 1, 2, 3, 4], "partitions")
    equal(len(described.topic_id), 16, "bytes of the topic id")
    listed = client.admin.ListTopics(admin_pb2.ListTopicsRequest(), timeout=DEADLINE_S).topics
    equal([t.partitions for t in listed if t.name == "topics"], [5], "partitions in the list")
    client.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="topics"), timeout=DEADLINE_S)
    gone = admin_pb2.DescribeTopicRequest(name="topics")
    equal(refused(lambda: client.admin.DescribeTopic(gone, timeout=DEADLINE_S))[0], grpc.StatusCode.NOT_FOUND, "the deleted topic")


def stop_while_following(server: Server, client: Client) -> None:
    """A reader that follows does not hold up a clean stop."""
    stream = client.log.Read(log_pb2.ReadRequest(topic="follow", end=log_pb2.ReadEnd(follow=True)))
    next(stream)

    def drain() -> None:
        with contextlib.suppress(grpc.RpcError):
            for _ in stream:
                pass

    reader = threading.Thread(target=drain)
    reader.start()
    server.stop()
    reader.join(timeout=DEADLINE_S)
    if reader.is_alive():
        raise AssertionError("the reader was not ended")


CASES: list[tuple[str, Callable[[Client], object]]] = [
    ("plain records come back as they went in", plain_records),
    ("raw batches keep their bytes", raw_batches),
    ("a pipelined stream answers every request by its id", pipelined),
    ("errors carry a code, a reason and what they are about", errors),
    ("a read goes on where its resume token stands", resume),
    ("reads and lookups by time are exact", by_time),
    ("followers and waiting fetches are woken", following),
    ("deleted records are gone", delete_records),
    ("health and reflection answer", standard_services),
    ("topics are created, altered, grown and deleted", topics),
]


def main() -> int:
    """Runs every case against one server, restarted once."""
    suite = Suite("python")
    with tempfile.TemporaryDirectory(prefix="siltstone-python-") as folder:
        data = Path(folder) / "data"
        with Server(data) as server, connect(server) as client:
            for title, case in CASES:
                with suite.case(title):
                    case(client)
            producer = None
            with suite.case("a retry of an idempotent producer is not written twice"):
                producer = idempotent(client)
            with suite.case("a follower does not hold up a clean stop"):
                stop_while_following(server, client)
        with suite.case("a retry is not written twice across a restart"), Server(data) as server, connect(server) as client:
            if producer is None:
                raise AssertionError("there was no producer before the restart")
            idempotent_across_restart(client, producer)
            server.stop()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
