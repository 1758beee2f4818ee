"""Regenerate the protobuf modules of `pytinykv.wire.pb` from its `.proto` files: `.venv/bin/python tools/gen_proto.py`.

Two things are special:

* The modules register themselves in a descriptor pool of our own (`pytinykv.wire.pb.POOL`). The default pool holds one
  definition per message name for the whole process, and other TiKV clients define the same names: with a private
  pool, a program may import such a client and pytinykv side by side.
* Generated code runs on its own protobuf version and newer ones of the same and the next major. So the modules are made
  by an old generator (`GENERATOR`, installed into a temporary environment if it is not the one at hand), and run on
  every protobuf from `protobuf>=` in pyproject.toml up to the last 7.x. `tests/wire/test_generated.py` compares them
  with what the installed, newer generator makes of the same `.proto` files.
"""

from __future__ import annotations

import importlib.metadata
import keyword
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

GENERATOR = "1.72.1"  # of grpcio-tools; makes code for protobuf 6.30
ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PB = SOURCE / "pytinykv" / "wire" / "pb"

POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool"
OUR_POOL_IMPORT = "from pytinykv.wire.pb import POOL as _POOL"


def main() -> int:
    if importlib.metadata.version("grpcio-tools") != GENERATOR:
        return rerun_with_pinned_generator()
    protos = sorted(str(path.relative_to(SOURCE)) for path in PB.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE}", f"--python_out={SOURCE}"]
    subprocess.run([*command, f"--pyi_out={SOURCE}", *protos], check=True)
    for module in sorted(PB.glob("*_pb2.py")):
        text = module.read_text()
        private = text.replace(POOL_IMPORT, OUR_POOL_IMPORT).replace("_descriptor_pool.Default()", "_POOL")
        if private == text or "_descriptor_pool" in private:
            print(
                f"{module}: the use of the descriptor pool looks different from what this tool knows", file=sys.stderr
            )
            return 1
        module.write_text(private)
    for stub in sorted(PB.glob("*_pb2.pyi")):
        stub.write_text(without_keywords(stub.read_text()))
    return 0


def rerun_with_pinned_generator() -> int:
    with tempfile.TemporaryDirectory(prefix="gen-proto-") as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", f"grpcio-tools=={GENERATOR}", "setuptools<80"], check=True
        )
        return subprocess.run([python, __file__], check=False).returncode


def without_keywords(stub: str) -> str:
    """Drop declarations of names that Python can't spell (an enum value named None); getattr still finds them."""
    declaration = re.compile(r"^\s*(\w+): ", re.MULTILINE)
    return "".join(
        line
        for line in stub.splitlines(keepends=True)
        if not ((found := declaration.match(line)) and keyword.iskeyword(found[1]))
    )


if __name__ == "__main__":
    sys.exit(main())
