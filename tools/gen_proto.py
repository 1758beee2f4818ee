"""Regenerate the protobuf modules of `pytinykv.wire.pb` from its `.proto` files.

The generated modules register themselves in a descriptor pool of our own (`pytinykv.wire.pb.POOL`). The default pool
holds one definition per message name for the whole process, and other TiKV clients define the same names: with a
private pool, a program may import such a client and pytinykv side by side.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PB = SOURCE / "pytinykv" / "wire" / "pb"


def main() -> int:
    protos = sorted(str(path.relative_to(SOURCE)) for path in PB.glob("*.proto"))
    code = protoc.main(["protoc", f"-I{SOURCE}", f"--python_out={SOURCE}", f"--pyi_out={SOURCE}", *protos])
    if code != 0:
        return int(code)
    for module in sorted(PB.glob("*_pb2.py")):
        text = module.read_text()
        private = text.replace(
            "from google.protobuf import descriptor_pool as _descriptor_pool",
            "from pytinykv.wire.pb import POOL as _POOL",
        ).replace("_descriptor_pool.Default()", "_POOL")
        if private == text:
            print(f"{module}: no descriptor pool found to replace", file=sys.stderr)
            return 1
        module.write_text(private)
    return 0


if __name__ == "__main__":
    sys.exit(main())
