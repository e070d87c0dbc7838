"""Runs Apache Kafka's own programs: the dump tool, and a one-node broker on free loopback ports."""

import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server import WORK  # noqa: E402

HERE = Path(__file__).resolve().parent
JARS = WORK / "kafka" / "jars"
UP_WITHIN_S = 300.0
DOWN_WITHIN_S = 300.0
PORT_TAKEN = b"Address already in use"
TRIES = 5


def fetch_jars() -> None:
    """Lets Maven copy the jars of `pom.xml`, once for each version of that file."""
    pom = HERE / "pom.xml"
    stamp = WORK / "kafka" / ("fetched-" + hashlib.sha256(pom.read_bytes()).hexdigest()[:16])
    if stamp.exists():
        return
    shutil.rmtree(JARS, ignore_errors=True)
    JARS.mkdir(parents=True)
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
    subprocess.run(command, check=True, timeout=900)
    stamp.touch()


def java(*arguments: str | Path, timeout_s: float = 1500) -> str:
    """Runs a class or a `.java` file with Kafka's jars and returns its stdout; it must exit 0."""
    command = java_command(*arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise AssertionError(f"java {' '.join(map(str, arguments))[:300]} exited {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def java_command(*arguments: str | Path) -> list[str]:
    """The command line of a program among Kafka's jars."""
    # log4j 2 is told to write errors alone, to stderr.
    return ["java", "-Xmx1g", "-Dlog4j2.level=ERROR", "-cp", f"{JARS}/*", *map(str, arguments)]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class KafkaBroker:
    """A one-node KRaft broker over `folder`, whose partition directories lie in `folder/logs`."""

    def __init__(self, folder: Path) -> None:
        """Prepares a new data directory; `start` starts the broker."""
        self.folder = folder
        self.logs = folder / "logs"
        self.properties = folder / "server.properties"
        self.log = folder / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.choose_ports()
        java("kafka.tools.StorageTool", "format", "-t", "c2lsdHN0b25lLWNvbXBhdA", "-c", self.properties)

    def choose_ports(self) -> None:
        """Writes the settings anew, with ports that are free now."""
        port, controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.logs),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "log.cleaner.backoff.ms": "200",
            "log.cleaner.dedupe.buffer.size": "33554432",
            "auto.create.topics.enable": "false",
        }
        self.properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def start(self) -> None:
        """Starts the broker; returns when it is up. A port that somebody else took meanwhile is chosen anew."""
        for _ in range(TRIES):
            if self.came_up():
                return
        raise AssertionError(f"{TRIES} times a port that was free was taken")

    def came_up(self) -> bool:
        """Tries to start the broker; false when a port is taken."""
        self.choose_ports()
        self.log.write_bytes(b"")
        with self.log.open("wb") as log:
            command = java_command("kafka.Kafka", self.properties)
            command.remove("-Dlog4j2.level=ERROR")
            command.insert(1, "-Dlog4j2.level=INFO")
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + UP_WITHIN_S
        while b"Kafka Server started" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                if PORT_TAKEN in self.log.read_bytes():
                    return False
                raise AssertionError("the Kafka broker did not come up: " + self.log.read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        return True

    def stop(self) -> None:
        """Stops the broker cleanly; returns when it is gone."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=DOWN_WITHIN_S)
        self.process = None

    def kill(self) -> None:
        """Ends the broker if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def clients(self, verb: str, *arguments: str | Path) -> str:
        """Runs a verb of `KafkaSide.java` against this broker."""
        return java(HERE / "KafkaSide.java", verb, self.bootstrap, *arguments)

    def __enter__(self) -> "KafkaBroker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
