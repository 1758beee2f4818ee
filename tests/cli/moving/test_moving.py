"""`tinykv export` and `import` as a shell uses them, against a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.processes import Running, environment, tinykv_here

import pytinykv

Run = Callable[..., subprocess.CompletedProcess[bytes]]

TRANSACTIONAL = {b"txn-%04d" % number: b"value %d" % number for number in range(3000)}
RAW = {b"raw-%04d" % number: bytes([number % 256]) * 20 for number in range(3000)} | {b"k" * 8192: b"", b"\x00": b"0"}
OTHER = {b"other family": b"yes"}
SOON = b"vanishes in an hour"


@pytest.fixture(scope="module")
def address(cluster: Running) -> str:
    return cluster.ready()["scheduler"]


@pytest.fixture(scope="module")
def run(address: str) -> Run:
    def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        return tinykv_here(*arguments, TINYKV_SCHEDULER=address)

    return run


@pytest.fixture(scope="module")
def db(address: str) -> Iterator[pytinykv.Client]:
    with pytinykv.connect(address) as db:
        yield db


def clear(db: pytinykv.Client) -> None:
    for family in ("default", "lock", "write"):
        db.raw.delete_range(everything=True, cf=family)
    with db.transaction() as txn:
        for key, _ in txn.scan(key_only=True):
            txn.delete(key)


def contents(db: pytinykv.Client) -> tuple[dict[bytes, bytes], dict[bytes, bytes], dict[bytes, bytes]]:
    with db.snapshot() as snapshot:
        return dict(snapshot.scan()), dict(db.raw.scan()), dict(db.raw.scan(cf="write"))


@pytest.fixture(scope="module")
def filled(db: pytinykv.Client) -> None:
    clear(db)
    with db.transaction() as txn:
        for key, value in TRANSACTIONAL.items():
            txn.put(key, value)
    db.raw.batch_put(RAW)
    db.raw.put(SOON, b"x", ttl=3600)
    db.raw.batch_put(OTHER, cf="write")


@pytest.fixture(scope="module")
def everything(filled: None, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exports") / "everything"
    done = run("export", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"3,000 transactional rows as of " in done.stdout
    assert b", 3,004 raw rows; " in done.stdout
    return path


def copy_of(path: Path, directory: Path) -> Path:
    copy = directory / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def test_what_was_exported_comes_back(everything: Path, run: Run, db: pytinykv.Client) -> None:
    before = contents(db)
    assert before == (TRANSACTIONAL, RAW | {SOON: b"x"}, OTHER)
    clear(db)
    done = run("import", everything)
    assert (done.returncode, done.stdout) == (0, b"3,000 transactional rows, 3,004 raw rows imported\n")
    assert contents(db) == before
    left = db.raw.ttl(SOON)
    assert left is not None
    assert 3000 < left <= 3601, "its time goes on"
    assert not everything.with_name("everything.import").exists()


def test_keys_of_the_target_are_not_replaced_unasked(everything: Path, run: Run, db: pytinykv.Client) -> None:
    with db.transaction() as txn:
        txn.put(b"txn-0007", b"mine")
    done = run("import", everything)
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"the target has transactional keys between txn-0000 and txn-2999 already, txn-0000" in done.stderr
    assert b"--overwrite" in done.stderr
    with db.snapshot() as snapshot:
        assert snapshot.get(b"txn-0007") == b"mine"
    assert run("import", everything, "--overwrite").returncode == 0
    with db.snapshot() as snapshot:
        assert snapshot.get(b"txn-0007") == TRANSACTIONAL[b"txn-0007"]


def test_a_range_of_one_kind(filled: None, run: Run, db: pytinykv.Client, tmp_path: Path) -> None:
    done = run("export", tmp_path / "some", "txn-1000", "txn-1010", "--only", "transactions")
    assert b": 10 transactional rows as of " in done.stdout
    assert b"raw" not in done.stdout
    done = run("export", tmp_path / "raw", "--prefix", "raw-10", "--only", "raw", "--no-ttl")
    assert done.stdout.startswith(f"{tmp_path / 'raw'}: 100 raw rows; ".encode())
    assert run("export", tmp_path / "none", "b", "a").returncode == 2


def test_one_moment_of_transactional_data_is_exported_also_when_it_is_carried_on(
    everything: Path, run: Run, db: pytinykv.Client, tmp_path: Path
) -> None:
    part = tmp_path / "again.part"
    part.write_bytes(everything.read_bytes()[:60_000])  # within the first block of transactional rows and the second
    with db.transaction() as txn:
        txn.put(b"txn-2999", b"later")
        txn.put(b"txn-9999", b"later")
    try:
        done = run("export", tmp_path / "again")
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(b"tinykv export: going on behind 2,048 rows of "), done.stderr
        assert b": 3,000 transactional rows as of " in done.stdout
        assert not part.exists()
        assert b"later" not in (tmp_path / "again").read_bytes()
        assert b"value 2999" in (tmp_path / "again").read_bytes()
    finally:
        with db.transaction() as txn:
            txn.put(b"txn-2999", TRANSACTIONAL[b"txn-2999"])
            txn.delete(b"txn-9999")


def test_the_beginning_of_another_export_is_left_alone(everything: Path, run: Run, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(everything.read_bytes()[:60_000])
    done = run("export", tmp_path / "x", "--prefix", "a")
    assert done.returncode == 4
    assert b"x.part holds the beginning of another export" in done.stderr
    assert part.stat().st_size == 60_000 or part.read_bytes() == everything.read_bytes()[: part.stat().st_size]


def test_a_file_that_is_no_export_or_not_whole(everything: Path, run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    for content, why in ((b"", b"is no export"), (everything.read_bytes()[:-1], b"is damaged or was cut off")):
        wrong.write_bytes(content)
        done = run("import", wrong, "--overwrite")
        assert done.returncode == 4
        assert why in done.stderr
    done = run("import", tmp_path / "missing")
    assert (done.returncode, b"does not exist" in done.stderr) == (2, True)
    assert run("import", tmp_path).returncode == 2, "a directory"


def test_an_import_goes_on_where_the_journal_says(
    everything: Path, run: Run, db: pytinykv.Client, tmp_path: Path
) -> None:
    path = copy_of(everything, tmp_path)
    cluster_id = run("status", "--json").stdout
    export_id = everything.read_bytes()[5 + 9 :]  # the header's record: version, array, bin 16
    journal = {
        "export_id": export_id[4:20].hex(),
        "target": f"cluster {json.loads(cluster_id)['cluster_id']}",
        "blocks": 2,
    }
    path.with_name("everything.import").write_text(json.dumps(journal))
    clear(db)
    done = run("import", path)
    assert done.returncode == 0, done.stderr
    assert b"going on behind 2 of 5 blocks" in done.stderr
    assert done.stdout == b"0 transactional rows, 3,004 raw rows imported\n"
    path.with_name("everything.import").write_text(json.dumps(journal | {"target": "cluster 1"}))
    done = run("import", path)
    assert done.returncode == 4
    assert b"belongs to an import into cluster 1 that did not come to its end" in done.stderr
    path.with_name("everything.import").write_text("{")
    assert b"can't be read" in run("import", path).stderr
    clear(db)
    assert run("import", everything).returncode == 0


def test_from_a_cluster_into_an_embedded_database_and_back(
    everything: Path, run: Run, db: pytinykv.Client, tmp_path: Path
) -> None:
    before = contents(db)
    data = tmp_path / "data"
    done = run("import", everything, "--data", data)
    assert (done.returncode, done.stdout) == (0, b"3,000 transactional rows, 3,004 raw rows imported\n")
    with pytinykv.open(data) as local:
        assert contents(local) == before
        assert local.raw.ttl(SOON) is not None
        in_use = run("export", tmp_path / "back", "--data", data)
        assert in_use.returncode == 4
        assert b"in use" in in_use.stderr or b"open" in in_use.stderr
    assert run("export", tmp_path / "back", "--data", data).returncode == 0
    clear(db)
    assert run("import", tmp_path / "back").returncode == 0
    assert contents(db) == before
    done = run("export", tmp_path / "nothing", "--data", tmp_path / "nothing")
    assert (done.returncode, b"--data: there is no directory" in done.stderr) == (2, True)


def test_a_full_disk_leaves_what_can_be_carried_on(everything: Path, run: Run, address: str, tmp_path: Path) -> None:
    command = f"ulimit -f 64; exec {sys.executable} -m pytinykv export {tmp_path / 'full'}"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        capture_output=True,
        env=environment(TINYKV_SCHEDULER=address),
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert b"can't write" in done.stderr
    assert b"full.part has 2,048 rows so far; the same command goes on from there" in done.stderr
    done = run("export", tmp_path / "full")
    assert (done.returncode, b"going on behind 2,048 rows" in done.stderr) == (0, True), done.stderr
