"""What the fixture of conftest.py is for."""

import json
import os
import subprocess
import urllib.request

BINARY = os.environ.get("SILTSTONE_BINARY", "siltstone")


def test_a_record_comes_back(siltstone):
    server = ["--server", siltstone["grpc"]]
    subprocess.run([BINARY, *server, "produce", "orders"], input="first\n", text=True, check=True)
    read = subprocess.run([BINARY, *server, "read", "orders", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(read.stdout)["value"] == "first"


def test_every_test_has_a_server_of_its_own(siltstone):
    with urllib.request.urlopen(f"http://{siltstone['http']}/readyz") as answer:
        assert answer.status == 200
    assert os.path.isdir(siltstone["data"])
