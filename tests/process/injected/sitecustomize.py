"""Makes the disk of a server stop answering. Python imports this file by itself where PYTHONPATH leads here.

`STUCK_DISK` names a file. Once it is there, the engine's next sync enters a C call that never returns and that no signal
gets out of, as `fsync` does on a disk that is gone: it locks a mutex that is locked already.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from pytinykv.storage.rocks import RocksEngine

_libc = ctypes.CDLL(None)
_mutex = ctypes.create_string_buffer(128)
_libc.pthread_mutex_lock(_mutex)
_switch = Path(os.environ["STUCK_DISK"])
_init = RocksEngine.__init__


def _init_with_hanging_sync(engine: RocksEngine, *arguments: Any) -> None:
    _init(engine, *arguments)
    flush_wal = engine._database_flush_wal

    def flush_or_hang(*flags: bool) -> None:
        if _switch.exists():
            _libc.pthread_mutex_lock(_mutex)
        flush_wal(*flags)

    engine._database_flush_wal = flush_or_hang


RocksEngine.__init__ = _init_with_hanging_sync  # type: ignore[method-assign]
