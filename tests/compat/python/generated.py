"""Makes the Python gRPC code from `proto/` alone, and puts it on the import path.

Import this module before `siltstone.v1`.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server import CHECKOUT, WORK  # noqa: E402

PROTO = CHECKOUT / "proto"
CODE = WORK / "python" / "code"


def generate() -> None:
    """Runs gRPC's own compiler over every .proto file."""
    protoc = importlib.import_module("grpc_tools.protoc")
    CODE.mkdir(parents=True, exist_ok=True)
    files = [str(file.relative_to(PROTO)) for file in sorted(PROTO.rglob("*.proto"))]
    outcome = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={CODE}", f"--grpc_python_out={CODE}", *files])
    if outcome != 0:
        raise AssertionError(f"the gRPC compiler exited {outcome}")


generate()
sys.path.insert(0, str(CODE))
