"""Drives the release binary: a server on free ports, and the command line against it."""

import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
WORK = CHECKOUT / "tests" / "compat" / ".work"
READY = re.compile(r"ready grpc=(\S+) http=(\S+) data=(.+)")
# For a slow machine under load: only what hangs takes that long.
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 150.0
CLI_WITHIN_S = 900.0


def target_dir() -> Path:
    """Where cargo puts its output for this checkout."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or CHECKOUT / "target").resolve()


def binary() -> Path:
    """The release binary; `SILTSTONE_BINARY` names another."""
    return Path(os.environ.get("SILTSTONE_BINARY") or target_dir() / "release" / "siltstone")


class Server:
    """A running server process and the addresses of its ready line."""

    def __init__(self, data_dir: Path, *arguments: str, stderr: Path | None = None) -> None:
        """Starts a server on free ports over `data_dir` and returns when its ready line has come."""
        command = [binary(), "serve", "--data-dir", data_dir, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        self.attach([*map(str, command), *arguments], stderr or data_dir.with_name(data_dir.name + ".stderr"))

    @classmethod
    def from_command(
        cls, command: list[str], cwd: Path | None, env: dict[str, str] | None, stderr: Path, ready_within_s: float
    ) -> "Server":
        """Starts a server by a command line of its own."""
        server = cls.__new__(cls)
        server.attach(command, stderr, cwd, env, ready_within_s)
        return server

    def attach(
        self,
        command: list[str],
        stderr: Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        ready_within_s: float = READY_WITHIN_S,
    ) -> None:
        """Starts `command` and waits for its ready line."""
        self.stderr = stderr
        with stderr.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=cwd, env=env)
        try:
            self.ready_line = self.first_line(ready_within_s)
            ready = READY.fullmatch(self.ready_line)
            if not ready:
                raise AssertionError(f"the first line on stdout is not a ready line: {self.ready_line!r}; {self.last_words()}")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.grpc, self.http, self.data = ready.groups()

    def first_line(self, within_s: float) -> str:
        """Returns the first line on stdout without its newline."""
        deadline = time.monotonic() + within_s
        line = b""
        stdout = self.process.stdout.fileno()
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise AssertionError(f"no ready line within {within_s} s; {self.last_words()}")
            byte = os.read(stdout, 1)
            if not byte:
                raise AssertionError(f"ended with {self.process.wait()} before its ready line; {self.last_words()}")
            line += byte
        return line.decode().rstrip("\n")

    def last_words(self) -> str:
        """The end of the server's log, for a message."""
        return "stderr ends: " + self.stderr.read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """Asks the server to stop; it must exit 0 and have printed nothing after its ready line."""
        self.process.send_signal(signal.SIGTERM)
        self.ended()

    def ended(self) -> None:
        """Waits for the end of a server that was asked to stop; it must exit 0 and have printed nothing after its ready line."""
        try:
            rest, _ = self.process.communicate(timeout=STOP_WITHIN_S)
        except subprocess.TimeoutExpired as still_there:
            self.kill()
            raise AssertionError(f"did not stop within {STOP_WITHIN_S} s of SIGTERM; {self.last_words()}") from still_there
        if self.process.returncode != 0 or rest:
            raise AssertionError(f"stopped with {self.process.returncode}, stdout {rest!r}; {self.last_words()}")

    def kill(self) -> None:
        """Kills the server as a crash would; returns when it is gone."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def cli(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Runs `siltstone ARGUMENTS` against this server and returns its stdout; it must exit 0."""
        command = [str(binary()), *map(str, arguments)]
        done = subprocess.run(
            command, input=stdin, capture_output=True, env={**os.environ, "SILTSTONE_SERVER": self.grpc}, timeout=CLI_WITHIN_S, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} exited {done.returncode}: {done.stderr.decode(errors='replace')[-1500:]}")
        return done.stdout.decode()

    def read(self, topic: str, *arguments: str) -> list[dict]:
        """`siltstone read TOPIC --json`, as one object a record."""
        return objects(self.cli("read", topic, *arguments, "--json"))

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def objects(text: str) -> list[dict]:
    """Parses one JSON object a line; anything else on a line is an error."""
    return [json.loads(line) for line in text.split("\n") if line]


def by_partition(records: list[dict]) -> dict[int, list[dict]]:
    """Groups records by partition in the order given, and checks that offsets grow in each."""
    partitions: dict[int, list[dict]] = {}
    for record in records:
        partition = partitions.setdefault(record["partition"], [])
        if partition and partition[-1]["offset"] >= record["offset"]:
            raise AssertionError(f"partition {record['partition']}: offset {record['offset']} after {partition[-1]['offset']}")
        partition.append(record)
    return partitions
