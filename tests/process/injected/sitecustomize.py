"""Makes a server go wrong on purpose. Python imports this file by itself where PYTHONPATH leads here.

`STUCK_DISK` names a file. Once it is there, the engine's next sync enters a C call that never returns and that no signal
gets out of, as `fsync` does on a disk that is gone: it locks a mutex that is locked already.

`MISCHIEF` gives a scheduler a handler that ignores its cancellation (of GetAllStores), a thread that stands in such a C
call, and a stage of its stop that raises.

`PHASE` names a file that says what takes long, or is cut off: "receive" (each piece of a snapshot takes a while), "install"
(the process is killed with a snapshot half installed) or "recover" (to finish that takes a while). A file beside it, with
the suffix ".reached", tells that it has come to that.

`GC_REPORT_S` makes a store report about its garbage more often than every 10 s.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from pytinykv.raftstore import recovery
from pytinykv.raftstore.installing import Installation
from pytinykv.raftstore.snapshot_files import SnapshotWriter
from pytinykv.server.host import scheduler_process
from pytinykv.server.kv import garbage
from pytinykv.server.pd.service import PdService
from pytinykv.storage.rocks import RocksEngine

_libc = ctypes.CDLL(None)
_mutex = ctypes.create_string_buffer(128)
_libc.pthread_mutex_lock(_mutex)
_init = RocksEngine.__init__
_unary = PdService.unary
_run_scheduler = scheduler_process.run_scheduler
_receive = SnapshotWriter.write
_ingest_next = Installation.ingest_next
_finish_restore = recovery.finish_restore


def _stand_in_c() -> None:
    _libc.pthread_mutex_lock(_mutex)


def _init_with_hanging_sync(engine: RocksEngine, *arguments: Any) -> None:
    _init(engine, *arguments)
    flush_wal, switch = engine._database_flush_wal, Path(os.environ["STUCK_DISK"])

    def flush_or_hang(*flags: bool) -> None:
        if switch.exists():
            _stand_in_c()
        flush_wal(*flags)

    engine._database_flush_wal = flush_or_hang


async def _unary_or_never(service: PdService, path: str, request: Any) -> Any:
    while path.endswith("/GetAllStores"):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue  # as code does that catches too much
    return await _unary(service, path, request)


def _raise() -> None:
    raise RuntimeError("raised on purpose")


async def _run_with_mischief(config: Any, scope: Any, on_ready: Any) -> None:
    scope.on_stop("a stage that raises", _raise)
    scope.start_thread("in-c", _stand_in_c)
    await _run_scheduler(config, scope, on_ready)


def _reach(phase: str) -> bool:
    file = Path(os.environ["PHASE"])
    is_reached = file.exists() and file.read_text() == phase
    if is_reached:
        file.with_suffix(".reached").write_text(phase)
    return is_reached


def _receive_slowly(writer: SnapshotWriter, chunk: bytes) -> None:
    _receive(writer, chunk)
    if _reach("receive"):
        time.sleep(0.3)


def _install_in_part(installation: Installation, engine: Any) -> bool:
    if _reach("install"):
        os.kill(os.getpid(), signal.SIGKILL)
    return _ingest_next(installation, engine)


def _recover_slowly(*arguments: Any) -> None:
    if _reach("recover"):
        time.sleep(0.5)
    _finish_restore(*arguments)


if "PHASE" in os.environ:
    SnapshotWriter.write = _receive_slowly  # type: ignore[method-assign]
    Installation.ingest_next = _install_in_part  # type: ignore[method-assign]
    recovery.finish_restore = _recover_slowly
if "GC_REPORT_S" in os.environ:
    garbage.REPORT_S = float(os.environ["GC_REPORT_S"])  # type: ignore[misc]
if "STUCK_DISK" in os.environ:
    RocksEngine.__init__ = _init_with_hanging_sync  # type: ignore[method-assign]
if "MISCHIEF" in os.environ:
    PdService.unary = _unary_or_never  # type: ignore[method-assign]
    scheduler_process.run_scheduler = _run_with_mischief
