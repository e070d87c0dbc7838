#!/usr/bin/env python3
"""Reads archives with the script of `examples/`, which knows nothing of Siltstone but docs/archive-format.md.

The archive that is checked in is read with every codec; one that the library makes of a data directory is compared with the logs in that
directory, record by record; and damage anywhere in an archive is told.
"""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from server import binary
from suite import Suite, equal

CHECKOUT = Path(__file__).resolve().parents[2]
FIXTURES = CHECKOUT / "tests" / "fixtures" / "v1"
SCRIPT = CHECKOUT / "examples" / "read_archive.py"
# What `siltstone tier verify` says of the archive that is checked in.
ROOT = "95b0d0eb6ef87691fd0d924412fec565cb61de1f239b5768d22b13b56a4e3e14"
GOLDEN = "topics/golden/07070707070707070707070707070707/0"


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the script."""
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300)


def records(*arguments: object) -> list[dict]:
    """The records that the script prints."""
    ran = script(*arguments)
    equal(ran.returncode, 0, f"exit code; it said {ran.stderr}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def batches(log: bytes) -> list[tuple[int, int]]:
    """Base offset and number of records of each batch of a log, by its headers alone."""
    found, at = [], 0
    while at < len(log):
        base, length = struct.unpack_from(">qi", log, at)
        found.append((base, struct.unpack_from(">i", log, at + 57)[0]))
        at += 12 + length
    return found


def sha256(*parts: bytes) -> str:
    """The hash of what the parts come to."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def root_of(archive: Path) -> str:
    """The root hash, as docs/archive-format.md has it; ledgers and manifests are read by the script."""
    reader: dict = {}
    exec(SCRIPT.read_text().rsplit("main(", 1)[0], reader)  # all of it but its last line, which runs it
    topics: dict[str, tuple[str, int, str]] = {}
    for is_snapshot, body in reader["ledger"](archive / "catalog", 2):
        topics = {} if is_snapshot else topics
        for _ in range(body.take(">I")):
            edit = 1 if is_snapshot else body.take(">B")
            topic = body.take("16s").hex()
            if edit == 1:
                name, partitions = body.short(), body.take(">i")
                settings = sorted((body.short(), body.short()) for _ in range(body.take(">H")))
                topics[topic] = (name, partitions, sha256(*(f"{setting}\0{value}\0".encode() for setting, value in settings)))
            elif edit == 2:
                del topics[topic]
    lines = ["siltstone archive 1"]
    for topic, (name, partitions, settings) in sorted(topics.items()):
        lines.append(f"topic {topic} {name} {partitions} {settings}")
        for partition in range(partitions):
            below = f"topics/{name}/{topic}/{partition}"
            segments, start, ends = reader["manifest"](archive / below), 0, []
            for _, segment in segments:
                key, start = f"{below}/segments/{segment['key']}", segment["start"]
                data = (archive / key).read_bytes()
                ends.append(f"{sha256(data[-32 - segment['footer'][0]:])} {key}\n".encode())
            lines.append(f"partition {partition} {start} {sha256(*ends)}")
    return sha256(*(f"{line}\n".encode() for line in lines))


def main() -> int:
    suite = Suite("archive")
    with tempfile.TemporaryDirectory() as temporary:
        with suite.case("the archive that is checked in is listed and decoded, all codecs"):
            equal(len(SCRIPT.read_text().splitlines()) <= 200, True, "at most 200 lines")
            listed = script(FIXTURES / "archive").stdout.splitlines()
            equal(listed, ["golden-0 0 to 14: 15 records, 876 bytes", "golden-0 15 to 20: 6 records, 468 bytes"], "segments")
            found = records(FIXTURES / "archive", "golden")
            equal([record["offset"] for record in found], list(range(2, 21)), "offsets from the log start on")
            equal([record["value"] for record in found[2:12]], ["first", "second"] * 5, "values in each codec")
            equal(records(FIXTURES / "archive", "golden", 1), [], "a partition that is not there")
        with suite.case("an object that lies alone is decoded"):
            segment = next((FIXTURES / "archive" / GOLDEN / "segments").iterdir())
            equal(len(records("--object", segment)) > 0, True, "records")
        with suite.case("the root hash is what the page of the format says it is"):
            equal(root_of(FIXTURES / "archive"), ROOT, "root")
            verify = [str(binary()), "tier", "verify", "--deep", "--json", "--from", f"file://{FIXTURES / 'archive'}"]
            ran = subprocess.run(verify, capture_output=True, text=True, timeout=300)
            equal(json.loads(ran.stdout)["root"], ROOT, f"what the command says; {ran.stderr}")
        with suite.case("a changed byte anywhere in the archive is told"):
            for original in sorted(file for file in (FIXTURES / "archive").rglob("*") if file.is_file()):
                name = original.relative_to(FIXTURES / "archive")
                if name.parts[0] == "epochs":
                    continue
                size = original.stat().st_size
                for at in range(0, size, max(1, size // 7)):
                    copy = Path(temporary) / "damaged"
                    shutil.copytree(FIXTURES / "archive", copy)
                    data = bytearray(original.read_bytes())
                    data[at] ^= 1
                    (copy / name).write_bytes(data)
                    equal(script(copy).returncode != 0, True, f"byte {at} of {name}")
                    shutil.rmtree(copy)
        with suite.case("what the library uploads of a data directory is what lies there"):
            archive = Path(temporary) / "archive"
            write = ["cargo", "run", "--quiet", "--example", "write_archive", "--", str(FIXTURES / "clean"), f"file://{archive}"]
            subprocess.run(write, cwd=CHECKOUT, check=True, capture_output=True, timeout=1500)
            logs = sorted((FIXTURES / "clean" / "golden-0").glob("*.log"))
            segments = sorted(archive.rglob("*.segment"))
            equal([file.name[:20] for file in segments], [file.stem for file in logs], "segments")
            for segment, log in zip(segments, logs, strict=True):
                equal(segment.read_bytes()[: log.stat().st_size], log.read_bytes(), f"bytes of {log.name}")
            expected = sum(count for log in logs for _, count in batches(log.read_bytes()))
            equal(len(records(archive, "golden", 0)), expected, "records")
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
