"""`tinykv txn-get`, `txn-scan`, `mvcc`, `locks`, `gc` as a shell uses them, against a real cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from tests.cli.processes import Running, tinykv_here

import pytinykv

DIES_IN_ITS_COMMIT = """
import asyncio, os, sys
import pytinykv.aio
from pytinykv.client import ClientConfig
from pytinykv.client.txn.committer import _Commit

_Commit._background_commit = lambda *_, **__: os._exit(9)  # the prewrites are done when this is called

async def main():
    async with pytinykv.aio.connect(sys.argv[1], config=ClientConfig(one_phase_commit=False)) as db:
        async with db.transaction() as txn:
            await txn.put(b"async_a", b"1")
            await txn.put(b"async_b", b"1")

asyncio.run(main())
"""

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def address(cluster: Running) -> str:
    return cluster.ready()["scheduler"]


@pytest.fixture
def run(address: str) -> Run:
    def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        return tinykv_here(*arguments, TINYKV_SCHEDULER=address)

    return run


@pytest.fixture
def db(address: str) -> Iterator[pytinykv.Client]:
    with pytinykv.connect(address) as db:
        yield db


def commit(db: pytinykv.Client, **pairs: str) -> int:
    with db.transaction() as txn:
        for key, value in pairs.items():
            txn.put(key.encode(), value.encode())
    assert txn.commit_ts is not None
    return txn.commit_ts


def test_reads_at_a_timestamp(run: Run, db: pytinykv.Client) -> None:
    first = commit(db, get_a="old", get_b="1")
    commit(db, get_a="new")
    assert run("txn-get", "get_a").stdout == b"new\n"
    assert run("txn-get", "get_a", "--ts", first).stdout == b"old\n"
    done = run("txn-get", "get_a", "--ts", first - 1)
    assert (done.returncode, done.stderr) == (1, b"tinykv txn-get: no such key: get_a\n")
    assert run("get", "get_a").returncode == 1, "raw keys are apart"
    assert run("txn-scan", "--prefix", "get_").stdout == b"get_a\tnew\nget_b\t1\n"
    assert run("txn-scan", "--prefix", "get_", "--ts", first, "--reverse", "--limit", 1).stdout == b"get_b\t1\n"
    assert run("txn-scan", "get_a", "get_b", "--keys-only", "--hex").returncode == 2
    assert run("txn-scan", "get_b", "get_a").returncode == 2
    assert json.loads(run("txn-get", "get_a", "--json").stdout) == {"key": "get_a", "value": "new"}
    assert run("txn-get", "get_a", "--json", "--raw").returncode == 2
    lines = run("txn-scan", "--prefix", "get_", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"key": "get_a", "value": "new"}, {"key": "get_b", "value": "1"}]
    assert json.loads(run("txn-scan", "get_a", "get_b", "--keys-only", "--json").stdout) == {"key": "get_a"}
    done = run("txn-get", "get_a", "--ts", (1 << 64) - 2)
    assert done.returncode == 4
    assert b"in the future of the cluster" in done.stderr


def test_every_version_of_a_key(run: Run, db: pytinykv.Client) -> None:
    first = commit(db, mvcc_k="one")
    with db.transaction() as txn:
        txn.delete(b"mvcc_k")
    lines = run("mvcc", "mvcc_k").stdout.decode().splitlines()
    assert lines[:2] == ["key      mvcc_k", "lock     none"]
    assert re.search(rf"\d\d:\d\d\.\d\d\d +{txn.commit_ts} +{txn.start_ts} +delete +-$", lines[3])
    assert re.search(rf" {first} +\d+ +put +one$", lines[4])
    told = json.loads(run("mvcc", "mvcc_k", "--json").stdout)
    assert told["lock"] is None
    assert [(it["kind"], it["commit_ts"], it["value"]) for it in told["versions"]] == [
        ("delete", txn.commit_ts, None),
        ("put", first, b"one".hex()),
    ]
    done = run("mvcc", "no-such-key")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"no version of no-such-key" in done.stderr


def test_who_holds_what(run: Run, db: pytinykv.Client) -> None:
    with db.transaction(pessimistic=True) as txn:
        txn.lock(b"lock_a")
        txn.lock(b"lock_b")
        lines = run("locks", "lock_", "lock`").stdout.decode().splitlines()
        assert lines[0].split() == ["KEY", "KIND", "START_TS", "AGE_S", "TTL_S", "PRIMARY"]
        assert [line.split()[:3] for line in lines[1:]] == [
            ["lock_a", "pessimistic", str(txn.start_ts)],
            ["lock_b", "pessimistic", str(txn.start_ts)],
        ]
        (only,) = json.loads(run("locks", "lock_b", "--json", "--limit", 1).stdout)
        assert (only["key"], only["primary"]) == (b"lock_b".hex(), b"lock_a".hex())
        assert f"pessimistic, of transaction {txn.start_ts}" in run("mvcc", "lock_b").stdout.decode()
        assert run("locks", "--older-than", 60).stdout.decode().count("\n") == 1
    assert json.loads(run("locks", "--json").stdout) == []


def test_the_safe_point_is_shown_and_moved(run: Run) -> None:
    done = run("gc", "--keep", 300)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(rb"safe point   \d+ \(.*, 30\d s ago\)\n", done.stdout)
    assert run("gc").stdout.startswith(b"safe point   ")
    told = json.loads(run("gc", "--json").stdout)
    assert told["safe_point"] > 0
    assert told["age_s"] >= 300


def test_what_is_behind_a_lock(run: Run, db: pytinykv.Client, address: str) -> None:
    with db.transaction(pessimistic=True) as txn:
        txn.lock(b"held")
        lines = run("mvcc", "held").stdout.decode().splitlines()
        assert lines[0] == "key      held"
        assert re.match(rf"lock     pessimistic, of transaction {txn.start_ts} .*, it is the primary$", lines[1])
        assert re.match(r"         taken at \d+ \(.*\); nothing is prewritten yet$", lines[2])
        assert lines[3:] == ["versions none"]
    assert subprocess.run([sys.executable, "-c", DIES_IN_ITS_COMMIT, address], check=False, timeout=30).returncode == 9
    lines = run("mvcc", "async_a").stdout.decode().splitlines()
    assert "put, async commit, of transaction" in lines[1]
    assert re.match(r"         to be committed at \d+ or later$", lines[2])
    assert lines[3] == "         committed once these are locked, too: async_b"
    told = json.loads(run("mvcc", "async_a", "--json").stdout)["lock"]
    assert told["use_async_commit"]
    assert told["min_commit_ts"] > told["start_ts"]
    assert told["secondaries"] == [b"async_b".hex()]
    assert "put, async" in run("locks", "async_").stdout.decode()


def test_one_phase_leaves_versions_as_two_phases_do(run: Run, db: pytinykv.Client) -> None:
    commit_ts = commit(db, one_phase="1")
    told = json.loads(run("mvcc", "one_phase", "--json").stdout)
    assert told["lock"] is None
    assert [(each["kind"], each["commit_ts"]) for each in told["versions"]] == [("put", commit_ts)]
