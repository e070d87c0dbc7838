"""A pytest fixture: a Siltstone server of its own for each test that asks for one.

It needs the program `siltstone` on the path, or its place in SILTSTONE_BINARY. All data is gone when the test ends, and the server ends
with the test run, however that ends: its standard input closes.
"""

import os
import subprocess

import pytest


@pytest.fixture
def siltstone():
    """Where gRPC and HTTP answer and the data lies: `siltstone["grpc"]`, `["http"]`, `["data"]`."""
    command = [os.environ.get("SILTSTONE_BINARY", "siltstone"), "serve", "--ephemeral", "--exit-with-parent"]
    command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--set", "topics.auto_create=true"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    # "ready grpc=HOST:PORT http=HOST:PORT data=DIRECTORY": nothing, where it did not start.
    ready = server.stdout.readline().split()
    assert ready and ready[0] == "ready", "siltstone did not start; standard error says why"
    yield dict(field.split("=", 1) for field in ready[1:])
    server.stdin.close()
    assert server.wait(timeout=60) == 0
