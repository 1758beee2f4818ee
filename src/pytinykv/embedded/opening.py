"""Opening a database: the directory, its lock and identity, the engine, and what runs beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, get_args

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import InvalidArgumentError, InvalidTypeError
from pytinykv.client.sync_client import Client
from pytinykv.embedded.background import Background
from pytinykv.embedded.core import EmbeddedCore
from pytinykv.embedded.database import Database
from pytinykv.embedded.faces import LocalSnapshot, LocalTransaction
from pytinykv.embedded.interrupts import UNINTERRUPTED
from pytinykv.embedded.refusals import opening_error
from pytinykv.storage import DataDirectory, DataKind, EngineError, MemoryEngine, RocksEngine

Durability = Literal["full", "relaxed"]

HISTORY_S: Final = 600.0
HISTORY_S_MAX: Final = 1e10


def open_database(
    path: str | os.PathLike[str] | None,
    *,
    durability: Durability = "full",
    history_s: float = HISTORY_S,
    timeout: float | None = None,
    config: ClientConfig | None = None,
) -> Client:
    """Open the database in the directory `path`, made if it is missing; None keeps everything in memory.

        with pytinykv.open("data") as db:
            with db.transaction() as txn:
                txn.put(b"k", b"v")

    What is returned is used like a client of a cluster, by any number of threads, and closed at the end. One process at a
    time can have a directory open. No server and no event loop is needed.

    `durability` "full": a commit is on the disk when `commit` returns. "relaxed": it is within a second; a power cut may take
    the last commits, whole and from the end, while a crash of the process takes none.
    `history_s`: how many seconds back `db.snapshot(ts)` can look. Open transactions and snapshots keep what they show for
    longer.
    `timeout` is the default deadline in seconds of every operation (10 s): of waits for locks and for other threads. A
    disk that hangs can't be interrupted.

    Raises `InvalidArgumentError`; `DatabaseInUseError`, which names the process that has it open; `DatabaseMismatchError` for
    a directory with something else in it, or a newer format; `DatabaseCorruptError`; `DatabaseFullError`; `DatabaseError`;
    `ClientForkedError` in a process that was forked from one that has had a database on disk open.
    """
    config = checked_config(config, timeout)
    client: Client | None = None
    try:
        with UNINTERRUPTED:  # else nobody would have what holds the directory
            core = EmbeddedCore(*open_parts(path, durability=durability, history_s=history_s), config)
            client = Client(core, snapshots=LocalSnapshot, transactions=LocalTransaction)
    except BaseException:
        if client is not None:
            client.close()
        raise
    return client


def checked_config(config: ClientConfig | None, timeout: float | None) -> ClientConfig:
    """Return the settings with this default deadline. Raises `InvalidArgumentError`."""
    config = config or ClientConfig()
    if (timeout := checked_timeout(timeout)) is not None:
        config = config.with_timeout(timeout)
    config.validate()
    return config


def open_parts(
    path: str | os.PathLike[str] | None, *, durability: Durability, history_s: float
) -> tuple[Database, Background]:
    """Open a database, and what runs beside it. Blocks. Raises as `open_database`."""
    database = _open_engine(path, durability=durability, history_s=history_s)
    try:
        return database, Background(database, history_s=history_s)
    except BaseException:
        database.release()
        raise


def _open_engine(path: str | os.PathLike[str] | None, *, durability: Durability, history_s: float) -> Database:
    if durability not in get_args(Durability):
        raise InvalidArgumentError(f'durability must be "full" or "relaxed", not {durability!r}')
    if not isinstance(history_s, int | float):
        raise InvalidTypeError(f"history_s must be a number of seconds, not {history_s!r}")
    if not 0 < history_s < HISTORY_S_MAX:
        raise InvalidArgumentError(f"history_s must be a positive number of seconds, not {history_s!r}")
    is_relaxed = durability == "relaxed"
    if path is None:
        return Database(MemoryEngine(), None, name="in memory", is_relaxed=is_relaxed)
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise InvalidTypeError(
            f"path must be a string or a path, or None for a database in memory, not {path!r}"
        ) from None
    if "\0" in name:
        raise InvalidArgumentError(f"path has a null byte in it, which no file can have in its name: {name!r}")
    if not name:
        raise InvalidArgumentError("path is empty: name a directory, or give None for a database in memory")
    try:
        RocksEngine.check_process()  # before anything is made in the directory
        directory = DataDirectory.open(Path(name), kind=DataKind.EMBEDDED)
        try:
            engine = RocksEngine.open(directory.engine_path)
            try:
                return Database(engine, directory, name=str(directory.path), is_relaxed=is_relaxed)
            except BaseException:
                engine.close()
                raise
        except BaseException:
            directory.close()
            raise
    except EngineError as error:
        raise opening_error(error) from error
