#!/usr/bin/env python3
"""What every store must do for an archive (tests/it/tier_conformance.rs), on Azurite, the emulator of Azure Blob, and on a stand-in for Google.

Azurite comes from npm, lands below tests/compat/.work, listens on a free port of this machine, and keeps what it is given in a folder that
goes with it. Without npm it is skipped. The stand-in is gcs.py: no emulator of Google's takes the requests of the XML API.

    tests/compat/run emulators
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path

from gcs import Google
from suite import Suite
from tier import conformance

WORK = Path(__file__).resolve().parent / ".work"
AZURITE = "3.37.0"
# The account of the emulator, as its documentation has it: no secret.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
WITHIN_S = 60


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process that listens on a port, and ends with the block."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.port = port
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def __enter__(self) -> str:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return f"http://127.0.0.1:{self.port}"
            time.sleep(0.1)
        self.__exit__()
        raise AssertionError(f"it does not listen: {self.log.read_text()[-1000:]}")

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        self.process.wait(30)


def install(folder: str, program: str, command: list[str], environment: dict[str, str]) -> Path:
    """Installs a program once for each version; returns its path."""
    there = WORK / folder
    if not (there / "complete").exists():
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        subprocess.run(command, check=True, timeout=1800, env=dict(os.environ) | environment, cwd=there)
        (there / "complete").touch()
    return there / program


def without(prefixes: tuple[str, ...]) -> dict[str, str]:
    """The environment without the variables of a cloud."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def make_container(url: str, name: str) -> None:
    """Makes a container, with a signature of the account's key."""
    date = formatdate(usegmt=True)
    headers = {"x-ms-date": date, "x-ms-version": "2021-12-02"}
    lines = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items())]
    text = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(
        f"{url}/{ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers=headers | {"Authorization": f"SharedKey {ACCOUNT}:{signature}"},
    )
    urllib.request.urlopen(request, timeout=30).close()


def on_azure(suite: Suite, temporary: Path) -> None:
    """The suite on Azurite."""
    title = "what every store must do, Azurite does"
    if shutil.which("npm") is None:
        suite.missing(title, "no npm")
        return
    with suite.case(title):
        npm = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", ".", f"azurite@{AZURITE}"]
        program = install(f"azurite-{AZURITE}", "node_modules/.bin/azurite-blob", npm, {})
        port = free_port()
        command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(temporary / "azurite")]
        with Server([*command, "--silent", "--skipApiVersionCheck"], port, temporary / "azurite.log") as url:
            make_container(url, "archive")
            variables = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url, "AZURE_ALLOW_HTTP": "true"}
            conformance("az://archive/conformance", without(("AZURE_", "AZURITE_")) | variables)


def on_google(suite: Suite) -> None:
    """The suite on the stand-in for Google Cloud Storage."""
    with suite.case("what every store must do, a stand-in for Google does"), Google("archive") as url:
        account = {"private_key": "none", "private_key_id": "none", "client_email": "none", "disable_oauth": True, "gcs_base_url": url}
        variables = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}
        conformance("gs://archive/conformance", without(("GOOGLE_", "SERVICE_ACCOUNT")) | variables)


def main() -> int:
    """Runs the cases."""
    suite = Suite("emulators")
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        on_azure(suite, Path(temporary))
    on_google(suite)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
