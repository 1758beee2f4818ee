"""gRPC's engine, which is started once per process and kept."""

from __future__ import annotations

import subprocess
import sys

FILES_CLOSED_MEANWHILE = """
import asyncio, os
import grpc.aio
from pytinykv.lifecycle.census import counted_descriptors, excused_descriptors
from pytinykv.transport.rpc.engine import keep_engine

init = grpc.aio.init_grpc_aio

def close_files_and_init():
    for number in files:
        os.close(number)
    init()

async def main():
    global files
    before = counted_descriptors()
    files = [os.open(os.devnull if number % 2 else sys.executable, os.O_RDONLY) for number in range(8)]
    grpc.aio.init_grpc_aio = close_files_and_init
    keep_engine()
    assert excused_descriptors() & set(files), "the engine got none of their numbers"
    print({number: what for number, what in counted_descriptors().items() if number not in before})

import sys
asyncio.run(main())
"""


def test_what_the_engine_opens_is_excused_also_under_the_numbers_of_files_closed_meanwhile() -> None:
    """Other threads open and close files at any time: RocksDB's, after a crash, just when a store starts the engine."""
    done = subprocess.run(
        [sys.executable, "-c", FILES_CLOSED_MEANWHILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{}\n"
