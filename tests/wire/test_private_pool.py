"""pytinykv and another TiKV client, which registers the same message names, live in one process.

Protobuf's default pool refuses a second, different definition of a name; pytinykv's modules have a pool of their own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = "from pytinykv.wire.pb import kvrpcpb_pb2 as ours, pdpb_pb2, tikvpb_pb2"
THEIRS = "import tikv; from tikv._proto import kvrpcpb_pb2 as theirs, pdpb_pb2 as their_pdpb"
USE = """
request = ours.RawPutRequest(key=b"k", value=b"v", ttl=7, cf="write")
assert theirs.RawPutRequest.FromString(request.SerializeToString()).key == b"k"
assert ours.RawPutRequest is not theirs.RawPutRequest
assert ours.RawPutRequest.DESCRIPTOR.file.pool is not theirs.RawPutRequest.DESCRIPTOR.file.pool
"""


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["we first", "they first"])
def test_a_foreign_client_is_imported_beside_us(imports: tuple[str, str]) -> None:
    script = "\n".join((*imports, USE))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
