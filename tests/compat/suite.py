"""Counts what passed, failed and was skipped, and says so as it goes.

A suite is a row of cases. A case that raises is a failure; the next one runs all the same. The closing line
`NAME: N passed, N failed, N skipped` is what `run` adds up.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator


class Suite:
    """The cases of one script."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    @contextlib.contextmanager
    def case(self, title: str) -> Iterator[None]:
        """Runs its body as one case: an exception is a failure of this case alone."""
        start = time.monotonic()
        try:
            yield
        except Exception:
            self.failed += 1
            print(f"FAILED {self.name}: {title}", flush=True)
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
        else:
            self.passed += 1
            print(f"ok     {self.name}: {title} ({time.monotonic() - start:.1f} s)", flush=True)

    def skip(self, title: str, why: str) -> None:
        """Counts a case that cannot run here, with the reason."""
        self.skipped += 1
        print(f"skip   {self.name}: {title}: {why}", flush=True)

    def missing(self, title: str, why: str) -> None:
        """A case that lacks a program is skipped; where a change is judged (`CI=true`), what is not looked at has failed."""
        if os.environ.get("CI") != "true":
            self.skip(title, why)
            return
        with self.case(title):
            raise AssertionError(f"{why}; with CI=true it must be there")

    def close(self) -> int:
        """Prints the closing line. Returns the exit code: a suite without a single passed case has failed."""
        print(f"{self.name}: {self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1


def equal(got: object, expected: object, what: str) -> None:
    """Raises unless both are equal; the message is cut to a readable length."""
    if got != expected:
        raise AssertionError(f"{what}: got {str(got)[:600]}, expected {str(expected)[:600]}")
