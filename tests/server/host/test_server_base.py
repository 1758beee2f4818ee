"""What server processes stand on: a data directory that is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytinykv.lifecycle import Scope
from pytinykv.server.host.server_base import ServerBase, ServerConfig
from pytinykv.storage import DataDirectory, DataDirectoryMismatchError, DataKind


def make_base(path: Path, scope: Scope, kind: DataKind) -> ServerBase:
    config = ServerConfig(data_dir=path, addr="127.0.0.1:0")
    return ServerBase(config, scope, kind=kind, services=("tikvpb.Tikv",))


@pytest.mark.parametrize(
    ("kind", "name", "advice"),
    [
        (DataKind.STORE, "store 3 of cluster 7", "give this store an empty data directory"),
        (DataKind.SCHEDULER, "scheduler of cluster 7", "restore the data directory from a backup"),
    ],
)
async def test_a_store_whose_engine_was_deleted_does_not_begin_anew(
    tmp_path: Path, scope: Scope, kind: DataKind, name: str, advice: str
) -> None:
    first = scope.child("first")
    base = make_base(tmp_path / "data", first, kind)
    base.directory.claim(cluster_id=7, store_id=3 if kind is DataKind.STORE else 0)
    await first.stop()
    shutil.rmtree(tmp_path / "data" / "engine")
    for _ in range(2):
        second = scope.child("second")
        with pytest.raises(DataDirectoryMismatchError, match=rf"{name}, but .*engine is missing or empty.*{advice}"):
            make_base(tmp_path / "data", second, kind)
        await second.stop()
    DataDirectory.open(tmp_path / "data", kind=kind).close()  # it was let go


async def test_a_process_that_died_before_it_had_a_name_starts_again(tmp_path: Path, scope: Scope) -> None:
    DataDirectory.open(tmp_path / "data", kind=DataKind.STORE).close()
    make_base(tmp_path / "data", scope, DataKind.STORE)
