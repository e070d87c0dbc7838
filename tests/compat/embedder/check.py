#!/usr/bin/env python3
"""Another project's view: what each set of features brings in, and a toy service tested against an embedded broker by a crate outside the
workspace; then the same for tests in Python and Go, by the fixtures of examples/testing.

    tests/compat/run embedder
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server import CHECKOUT, WORK, binary  # noqa: E402
from suite import Suite, equal  # noqa: E402

HERE = Path(__file__).resolve().parent
EXAMPLES = CHECKOUT / "examples" / "testing"
# What a set of features must not bring in.
WITHOUT = {
    "client": ["axum", "clap", "memmap2", "object_store", "prometheus-client", "tonic-reflection", "tracing-subscriber"],
    "embedded": ["clap", "indicatif", "object_store", "tracing-subscriber"],
    "server": ["clap", "indicatif", "object_store", "tempfile", "tracing-subscriber"],
    "embedded,tier": ["clap", "indicatif", "reqwest", "tracing-subscriber"],
}


def run(command: list[str], cwd: Path, **variables: str) -> str:
    """Runs a command; returns what it prints, raises with its last words if it fails."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} exited {done.returncode}: {done.stdout[-2000:]} {done.stderr[-4000:]}")
    return done.stdout


def features(suite: Suite) -> None:
    """Each set of features compiles, and brings in nothing of the others."""
    for names, absent in WITHOUT.items():
        chosen = ["--no-default-features", "--features", names]
        with suite.case(f"features {names}: the tree"):
            tree = run(["cargo", "tree", "--edges", "normal", "--prefix", "none", *chosen], CHECKOUT)
            crates = {line.split()[0] for line in tree.splitlines() if line.strip()} - {"siltstone"}
            equal(sorted(crates.intersection(absent)), [], "crates that do not belong")
            print(f"       {len(crates)} crates", flush=True)
        with suite.case(f"features {names}: it compiles without a warning"):
            run(["cargo", "clippy", "--quiet", "--lib", *chosen, "--", "-D", "warnings"], CHECKOUT)


def service(suite: Suite) -> None:
    """The toy service, built apart from everything else with nothing but the features that it needs."""
    work = WORK / "embedder"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(HERE, work, ignore=shutil.ignore_patterns("target", "*.py", "Cargo.lock", "__pycache__"))
    manifest = work / "Cargo.toml"
    manifest.write_text(manifest.read_text().replace("../../..", str(CHECKOUT)))
    # Of the same versions as the checkout, and built where the checkout is: what both are made of is built once.
    shutil.copy(CHECKOUT / "Cargo.lock", work / "Cargo.lock")
    target = {"CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(CHECKOUT / "target"))}
    with suite.case("the tree of a crate that embeds the broker in its tests"):
        print(run(["cargo", "tree", "--edges", "normal,dev"], work), flush=True)
    start = time.monotonic()
    with suite.case("it builds with the client, and its tests with the broker"):
        run(["cargo", "test", "--quiet", "--no-run"], work, **target)
    print(f"       built in {time.monotonic() - start:.0f} s", flush=True)
    with suite.case("its tests hold: clock, faults, forks, a kill"):
        told = run(["cargo", "test", "--quiet"], work, **target)
        counts = [line.split()[3] for line in told.splitlines() if line.startswith("test result: ok.")]
        print(f"       {sum(int(count) for count in counts)} tests", flush=True)
        equal(any(int(count) > 0 for count in counts), True, "a test ran")


def other_languages(suite: Suite) -> None:
    """The fixtures of examples/testing, as they stand."""
    variables = {"SILTSTONE_BINARY": str(binary())}
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "testing"
        shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with suite.case("the pytest fixture"):
            run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], copy, **variables)
        go = shutil.which("go")
        if go is None:
            suite.missing("the Go test helper", "no go on the path")
            return
        with suite.case("the Go test helper"):
            (copy / "go.mod").write_text("module siltstonetest\n\ngo 1.22\n")
            run([go, "test", "-count=1", "./..."], copy, GOFLAGS="-mod=mod", GOTOOLCHAIN="local", **variables)


def main() -> int:
    """Runs the cases."""
    suite = Suite("embedder")
    features(suite)
    service(suite)
    other_languages(suite)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
