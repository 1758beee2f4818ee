"""The data directory of a process: its lock, its identity, and what is where in it.

::

    DIR/lock             held with flock(2) by the process that uses the directory; says which: pid, host, since when
    DIR/identity.json    what the directory is: see below
    DIR/engine/          the engine's files
    DIR/snapshots/       region snapshots being built, sent or received

The identity is JSON, so that an operator can read it:
`{"format_version": 1, "kind": "store", "cluster_id": 7041, "store_id": 3}`. Cluster and store id are 0 until the scheduler
has given them, and then never change: `claim` sets them once.

Invariants
----------
1. Nothing in the directory is written by us, and only names in it are read, before the lock is held; into a directory of
   another program not even the lock is put.
2. The identity file is there, and whole, before the first engine file is: a directory that has other files but no identity
   is no data directory of ours, and is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import msgspec

from pytinykv.storage.atomic_file import write_atomically
from pytinykv.storage.errors import (
    CorruptionError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DataDirectoryMismatchError,
    DiskFullError,
    EngineClosedError,
    EngineError,
)

FORMAT_VERSION: Final = 1
"""Version of everything below a data directory. A higher one in a directory was written by a newer pytinykv."""

_LOCK: Final = "lock"
_IDENTITY: Final = "identity.json"
_NOT_DATA: Final = frozenset({_LOCK, _IDENTITY + ".tmp", "lost+found"})
"""What may be in a directory that is not yet a data directory."""


class DataKind(StrEnum):
    """Whose data a directory holds."""

    STORE = "store"
    SCHEDULER = "scheduler"
    EMBEDDED = "embedded"


_OWNERS: Final = {
    DataKind.STORE: "a store",
    DataKind.SCHEDULER: "a scheduler",
    DataKind.EMBEDDED: "an embedded database",
}


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a data directory is."""

    format_version: int
    kind: DataKind
    cluster_id: int = 0
    store_id: int = 0


class DataDirectory:
    """A data directory that this process holds. Made by `open`, released by `close`."""

    def __init__(self, path: Path, lock_descriptor: int, identity: Identity) -> None:
        self.path = path
        self._lock_descriptor: int | None = lock_descriptor
        """Holds the lock file's lock as long as it is open; None once closed."""
        self._identity = identity
        """What the identity file says; changed by `claim` only, when the file has been changed."""

    @classmethod
    def open(cls, path: Path | str, *, kind: DataKind) -> DataDirectory:
        """Lock the directory, made if missing together with its parents, and check what it is.

        Raises:
            DataDirectoryInUseError: a process holds it; the message names its pid.
            DataDirectoryMismatchError: it is of another kind or of a newer format, or it has other files and no identity.
            CorruptionError: the identity file can't be read.
            DataDirectoryError: missing rights, or not a directory.
            DiskFullError: no space for the identity file.
        """
        path = Path(path).absolute()
        try:
            _refuse_other_files(path)
            path.mkdir(parents=True, exist_ok=True)
            descriptor = _lock(path)
            try:
                identity = _read_or_create_identity(path, kind)
                (path / "snapshots").mkdir(exist_ok=True)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise _explain(path, error) from error
        return cls(path, descriptor, identity)

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def engine_path(self) -> Path:
        return self.path / "engine"

    @property
    def snapshots_path(self) -> Path:
        return self.path / "snapshots"

    def claim(self, *, cluster_id: int, store_id: int = 0) -> None:
        """Record whose data this is; no effect if it is recorded already. It never changes then. Durable when this returns.

        Raises:
            DataDirectoryMismatchError: the directory belongs to another cluster or store.
        """
        assert cluster_id > 0
        if self._lock_descriptor is None:
            raise EngineClosedError(f"the data directory {self.path} is closed")
        known = self._identity
        if known.cluster_id not in (0, cluster_id):
            raise DataDirectoryMismatchError(
                f"{self.path} belongs to cluster {known.cluster_id}, not to {cluster_id}: use that cluster's scheduler "
                f"address, or give this {known.kind.value} an empty data directory"
            )
        if store_id and known.store_id not in (0, store_id):
            raise DataDirectoryMismatchError(
                f"{self.path} belongs to store {known.store_id}, not to {store_id}: use the data directory of store "
                f"{store_id}, or an empty one"
            )
        claimed = msgspec.structs.replace(known, cluster_id=cluster_id, store_id=store_id or known.store_id)
        if claimed != known:
            try:
                _write_identity(self.path, claimed)
            except OSError as error:
                raise _explain(self.path, error) from error
            self._identity = claimed

    def is_in_place(self) -> bool:
        """Tell whether the path still leads to what this process holds: not so after the directory was deleted or moved."""
        if self._lock_descriptor is None:
            return False
        try:
            return os.path.samestat((self.path / _LOCK).stat(), os.fstat(self._lock_descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # it can't be told

    def forget(self) -> None:
        """Let go of it in a forked child: the parent goes on holding it, and its end releases it."""
        self.close()

    def close(self) -> None:
        """Release the directory. Idempotent. Close the engine first."""
        descriptor, self._lock_descriptor = self._lock_descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _refuse_other_files(path: Path) -> None:
    """Raise DataDirectoryMismatchError if there are files in the directory, which may be missing, and no identity."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return
    others = sorted(names - _NOT_DATA)
    if others and _IDENTITY not in names:
        raise DataDirectoryMismatchError(
            f"{path} has no {_IDENTITY} but other files ({', '.join(others[:3])}): it is no data directory of "
            f"pytinykv; choose an empty or a new one"
        )


def _lock(path: Path) -> int:
    """Take the lock file and write into it who we are; return the descriptor that holds it."""
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path, os.pread(descriptor, 512, 0)) from None
        os.ftruncate(descriptor, 0)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        os.pwrite(descriptor, f"{os.getpid()}\n{socket.gethostname()}\n{since}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _in_use(path: Path, content: bytes) -> DataDirectoryInUseError:
    lines = content.decode(errors="replace").splitlines()
    pid = int(lines[0]) if lines and lines[0].isdecimal() else None
    advice = "stop it, or choose another data directory"
    if pid == os.getpid():
        holder = f"this process already (pid {pid})"
        advice = "use what it has opened, in all of its threads, or close that first"
    elif pid is not None:
        holder = f"the process with pid {pid}"
    else:
        holder = "another process"
    if len(lines) > 2:
        holder += f" on host {lines[1]}, since {lines[2]}"
    return DataDirectoryInUseError(f"{path} is in use by {holder}: {advice}", holder_pid=pid)


def _read_or_create_identity(path: Path, kind: DataKind) -> Identity:
    file = path / _IDENTITY
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        _refuse_other_files(path)
        identity = Identity(FORMAT_VERSION, kind)
        _write_identity(path, identity)
        return identity
    identity = _decode_identity(file, content)
    if identity.kind is not kind:
        raise DataDirectoryMismatchError(
            f"{path} holds the data of {_OWNERS[identity.kind]}, not of {_OWNERS[kind]}: choose another data directory"
        )
    return identity


def _decode_identity(file: Path, content: bytes) -> Identity:
    try:
        version = msgspec.json.decode(content, type=dict[str, object]).get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DataDirectoryMismatchError(
                f"{file.parent} has format version {version}, this pytinykv knows up to {FORMAT_VERSION}: use the newer "
                f"pytinykv that wrote it"
            )
        identity = msgspec.json.decode(content, type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptionError(f"{file} is damaged ({error}): restore it from a backup", file=file) from error
    if identity.format_version != FORMAT_VERSION:
        raise CorruptionError(
            f"{file} has the format version {identity.format_version}, which never existed", file=file
        )
    return identity


def _write_identity(path: Path, identity: Identity) -> None:
    write_atomically(path / _IDENTITY, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")


def _explain(path: Path, error: OSError) -> EngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"no space left on the device of {path}: free some, then restart")
    if error.errno == errno.EROFS:
        return DataDirectoryError(
            f"can't write to {path}: its file system is mounted read-only ({error}): choose another path"
        )
    if isinstance(error, PermissionError):
        return DataDirectoryError(f"no permission to use {path}: check owner and mode ({error})")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return DataDirectoryError(f"{path} is not a directory ({error}): choose another path")
    return DataDirectoryError(f"can't use {path}: {error}; choose another path, or mend this one")
