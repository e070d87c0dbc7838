#!/usr/bin/env python3
"""Reads archives with the script of `examples/`, which knows nothing of Siltstone but docs/archive-format.md.

The archive that is checked in is read with every codec; one that the library makes of a data directory is compared with the logs in that
directory, record by record; and damage anywhere in an archive is told.
"""

import json
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from suite import Suite, equal

CHECKOUT = Path(__file__).resolve().parents[2]
FIXTURES = CHECKOUT / "tests" / "fixtures" / "v1"
SCRIPT = CHECKOUT / "examples" / "read_archive.py"
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
