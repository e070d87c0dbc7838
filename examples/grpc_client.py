"""Writes three records and reads them back, with nothing but the code that gRPC's compiler makes from `proto/`."""

import sys

import grpc
from siltstone.v1 import admin_pb2, admin_pb2_grpc, common_pb2, log_pb2, log_pb2_grpc

server = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9095"
with grpc.insecure_channel(server) as channel:
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    log = log_pb2_grpc.LogServiceStub(channel)

    try:
        admin.CreateTopic(admin_pb2.CreateTopicRequest(name="greetings", partitions=2))
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise

    records = [common_pb2.Record(key=name.encode(), value=f"hello, {name}".encode()) for name in ("Ada", "Grace", "Barbara")]
    written = log.Produce(log_pb2.ProduceRequest(topic="greetings", records=records))
    for part in written.appended:
        print(f"written to partition {part.partition}, offsets {part.base_offset} to {part.last_offset}")

    for response in log.Read(log_pb2.ReadRequest(topic="greetings")):
        for record in response.records:
            print(f"{response.partition}:{record.offset} {record.key.decode()}: {record.value.decode()}")
