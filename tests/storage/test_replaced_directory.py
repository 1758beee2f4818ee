"""An engine whose directory was deleted, and made anew by another process, while it was open."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.storage.engines import put

from pytinykv.storage import ColumnFamily, RocksEngine

RAW = ColumnFamily.RAW

FIRST = """
import sys
from pathlib import Path
from tests.storage.engines import put
from pytinykv.storage import ColumnFamily, RocksEngine
engine = RocksEngine.open(sys.argv[1])
put(engine, ColumnFamily.RAW, (b"first", b"v"))
engine.sync()
print("open", flush=True)
sys.stdin.read()
engine.close()
engine.close()
"""


def test_closing_it_deletes_no_file_of_the_next_one(tmp_path: Path) -> None:
    """RocksDB deletes, when it is closed, what it does not know in its directory, and finds that by its path."""
    path = tmp_path / "db"
    argv = [sys.executable, "-c", FIRST, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "open\n"
        shutil.rmtree(path)
        engine = RocksEngine.open(path)
        put(engine, RAW, *((b"%06d" % number, b"x" * 100) for number in range(1000)))
        engine.close()
        engine = RocksEngine.open(path)  # moves what the log holds to an SST file
        put(engine, RAW, (b"in the log", b"v"))
        engine.sync()
        files = {file.name for file in path.iterdir()}
        first.stdin.close()
        assert first.wait(60) == 0
    assert {file.name for file in path.iterdir()} == files
    engine.close()
    engine = RocksEngine.open(path)
    assert sum(1 for _ in engine.scan(RAW, b"", None)) == 1001
    engine.close()
