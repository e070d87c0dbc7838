#!/usr/bin/env python3
"""The archive on a real S3 server (moto, on a free port of this machine), by the address and the variables that a user would give.

What every store must do is in tests/it/tier_conformance.rs, and runs here against the server; then the command line verifies an archive there,
finds what was damaged, and says what is wrong with credentials and buckets. A server loses its disk and comes back from the bucket, and
`siltstone bench tier` runs on it.

    tests/compat/run tier
    tests/compat/run tier --url az://container/prefix     the conformance suite on another store, credentials from the environment
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import boto3
from botocore.config import Config
from server import Server, binary
from suite import Suite, equal

CHECKOUT = Path(__file__).resolve().parents[2]
FIXTURES = CHECKOUT / "tests" / "fixtures" / "v1"
RUNNING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
ROOT_USER = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}


class S3:
    """A server on a port that was free, in a process of its own."""

    def __init__(self, log: Path) -> None:
        self.log = log.open("w+")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.url = ""
        for line in self.process.stderr:
            self.log.write(line)
            if found := RUNNING.search(line):
                self.url = found[1]
                break
        # What it says later goes to the log, not into a pipe that fills up.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=self.log)
        if not self.url:
            raise AssertionError(f"moto did not start: {log.read_text()}")

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of a user of it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | ROOT_USER | {"AWS_ENDPOINT": self.url, "AWS_ALLOW_HTTP": "true"} | more

    def client(self, service: str):
        """A client of one of its services."""
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=self.url, config=Config(retries={"max_attempts": 1}), **keys)

    def demand_credentials(self) -> dict[str, str]:
        """Makes a user who may do anything; from now on nobody else may."""
        iam = self.client("iam")
        iam.create_user(UserName="siltstone")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="siltstone", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="siltstone")["AccessKey"]
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=30).close()
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def close(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.wait(30)
        self.drain.wait(30)
        self.log.close()


def conformance(url: str, environment: dict[str, str]) -> None:
    """Runs the suite of tests/it against a store."""
    command = ["cargo", "test", "--quiet", "--test", "it", "the_store_that_the_environment_names", "--", "--ignored"]
    ran = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=3000, env=environment | {"SILTSTONE_TEST_TIER_URL": url}
    )
    equal(ran.returncode, 0, f"exit code; it said {(ran.stdout + ran.stderr)[-2000:]}")
    equal("1 passed" in ran.stdout, True, f"one test ran: {ran.stdout}")


def siltstone(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run([str(binary()), *arguments], capture_output=True, text=True, timeout=300, env=environment)


RECORDS = 4000
TOPIC = ["--config", "segment.bytes=262144", "--config", "local.retention.bytes=0", "--config", "tier.max.lag.ms=100"]


def serve(data: Path, environment: dict[str, str], *arguments: str) -> Server:
    """A server of `siltstone serve` with its archive."""
    ports = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    command = [str(binary()), "serve", "--data-dir", str(data), *ports, *arguments]
    return Server.from_command(command, None, environment, data.with_suffix(".stderr"), 120)


def restored(environment: dict[str, str], archive: str, temporary: Path) -> None:
    """Loses the disk of a server, and has everything back by a command, by a start, and in a mount."""
    lines = "".join(json.dumps({"value": f"{number} {'x' * 200}"}) + "\n" for number in range(RECORDS))
    first = serve(temporary / "first", environment, "--tier-url", archive)

    def done(server: Server, *arguments: str, text: str | None = None) -> str:
        command = [str(binary()), *arguments, "--server", server.grpc]
        ran = subprocess.run(command, input=text, capture_output=True, text=True, timeout=600)
        equal(ran.returncode, 0, f"{arguments}: {ran.stderr}")
        return ran.stdout

    done(first, "topic", "create", "flights", "--partitions", "1", *TOPIC)
    done(first, "produce", "flights", "--format", "json", text=lines)
    done(first, "tier", "status", "flights", "--wait-s", "300")
    all_of_it = done(first, "read", "flights", "--json")
    equal(len(all_of_it.splitlines()), RECORDS, "records")
    first.stop()
    shutil.rmtree(temporary / "first")
    mount = serve(temporary / "mount", environment, "--tier-url", archive, "--read-only")
    equal(done(mount, "read", "flights", "--json"), all_of_it, "records of the mount")
    mount.stop()
    for how in ([], ["--download"]):
        data = temporary / f"restored{len(how)}"
        ran = siltstone(environment, "tier", "restore", "--from", archive, "--data-dir", str(data), "--json", *how)
        equal((ran.returncode, ran.stderr), (0, ""), "exit code of the restore")
        equal(json.loads(ran.stdout.splitlines()[-1])["segments"] > 2, True, ran.stdout)
        again = serve(data, environment, "--tier-url", archive)
        equal(done(again, "read", "flights", "--json"), all_of_it, f"records after a restore {how}")
        again.stop()
    fresh = serve(temporary / "fresh", environment, "--tier-url", archive, "--restore")
    equal(done(fresh, "read", "flights", "--json"), all_of_it, "records after a start with --restore")
    fresh.stop()


def on_s3(suite: Suite, temporary: Path) -> None:
    """All cases on the S3 server."""
    server = S3(temporary / "moto.log")
    try:
        environment, archive = server.environment(), "s3://archive/some/prefix"
        s3 = server.client("s3")
        s3.create_bucket(Bucket="archive")
        with suite.case("what every store must do, S3 does"):
            conformance("s3://archive/conformance", environment)
        with suite.case("an archive is written by credentials of the environment, and is sound"):
            write = ["cargo", "run", "--quiet", "--example", "write_archive", "--", str(FIXTURES / "clean"), archive]
            subprocess.run(write, cwd=CHECKOUT, check=True, capture_output=True, timeout=3000, env=environment)
            ran = siltstone(environment, "tier", "verify", "--deep", "--json", "--in-flight-s", "0", "--from", archive)
            equal((ran.returncode, ran.stderr), (0, ""), f"exit code; it said {ran.stdout}")
            equal(json.loads(ran.stdout)["segments"] > 0, True, "segments")
        listed = s3.list_objects_v2(Bucket="archive", Prefix="some/prefix/topics/").get("Contents", [])
        segments = [entry["Key"] for entry in listed if entry["Key"].endswith(".segment")]
        with suite.case("an object is verified by its address"):
            ran = siltstone(environment, "segment", "verify", f"s3://archive/{segments[0]}")
            equal((ran.returncode, ran.stderr), (0, ""), "exit code")
        with suite.case("an object that was removed, and one that was changed, are named"):
            data = bytearray(s3.get_object(Bucket="archive", Key=segments[0])["Body"].read())
            data[100] ^= 1
            s3.put_object(Bucket="archive", Key=segments[0], Body=bytes(data))
            s3.delete_object(Bucket="archive", Key=segments[-1])
            ran = siltstone(environment, "tier", "verify", "--deep", "--from", archive)
            equal(ran.returncode, 1, "exit code")
            for word, key in (("damaged", segments[0]), ("missing", segments[-1])):
                equal(f"{word}: s3://archive/{key}: " in ran.stdout, True, f"{word}: {ran.stdout}")
        with suite.case("a server that lost its disk comes back from the bucket alone"):
            restored(environment, "s3://archive/server", temporary)
        with suite.case("the benchmark of the tier runs on S3"):
            ran = siltstone(environment, "bench", "tier", "--quick", "--json", "--archive", "s3://archive/bench")
            equal(ran.returncode, 0, f"exit code; it said {ran.stderr}")
            figures = {line["name"]: line for line in map(json.loads, ran.stdout.splitlines())}
            for line in figures.values():
                print(f"       {line['name']}: {line['value']} {line['unit']}, {line['limit']} {line['limit_value']}", flush=True)
            equal(figures["tier.fetched_per_returned"]["ratio"] <= 1.0, True, "bytes fetched for those returned")
        with suite.case("a bucket that is not there is told"):
            ran = siltstone(environment, "tier", "verify", "--from", "s3://nobody/prefix")
            equal(ran.returncode, 1, "exit code")
            equal("s3://nobody/prefix" in ran.stderr and "not there" in ran.stderr, True, ran.stderr)
        with suite.case("wrong credentials are told, and not tried again and again"):
            right = server.demand_credentials()
            ran = siltstone(environment | right, "tier", "verify", "--from", "s3://archive/conformance")
            equal("there is no archive" in ran.stderr, True, f"right ones are let in: {ran.stderr}")
            wrong = right | {"AWS_SECRET_ACCESS_KEY": "not-the-secret-key"}
            ran = siltstone(environment | wrong, "tier", "verify", "--from", archive)
            equal(ran.returncode, 1, "exit code")
            equal("look at credentials and permissions" in ran.stderr, True, ran.stderr)
            equal("not-the-secret-key" in ran.stderr, False, "the secret in what it says")
    finally:
        server.close()


def main() -> int:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", action="append", default=[], help="another store to run the conformance suite on")
    arguments = parser.parse_args()
    suite = Suite("tier")
    for url in arguments.url:
        with suite.case(f"what every store must do, {url} does"):
            conformance(url, dict(os.environ))
    with tempfile.TemporaryDirectory() as temporary:
        on_s3(suite, Path(temporary))
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
