"""Ctrl-C at moments at which it would leave a database in which nothing goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pytinykv
from pytinykv.embedded.interrupts import UNINTERRUPTED, interruptibly


def interrupting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same, and is interrupted at its end the first time that it is called."""
    came = False

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal came
        result = function(*args, **kwargs)
        if not came:
            came = True
            signal.raise_signal(signal.SIGINT)
        return result

    return interrupted


def test_an_interrupt_waits_for_the_end_of_the_outermost_context() -> None:
    steps = []

    def work() -> None:
        with UNINTERRUPTED:
            with UNINTERRUPTED:
                signal.raise_signal(signal.SIGINT)
                steps.append("inner")
            steps.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["inner", "outer"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_wait_within_the_context_is_interrupted_at_once_and_what_follows_is_not() -> None:
    steps = []

    def work() -> None:
        with UNINTERRUPTED:
            for came in ("before", "during"):
                if came == "before":
                    signal.raise_signal(signal.SIGINT)
                try:
                    interruptibly(lambda: signal.raise_signal(signal.SIGINT))
                except KeyboardInterrupt:
                    signal.raise_signal(signal.SIGINT)
                    steps.append(came)
            steps.append("end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["before", "during", "end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_and_programs_without_a_handler_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def look() -> None:
        with UNINTERRUPTED:
            seen.append(signal.getsignal(signal.SIGINT))
            interruptibly(lambda: seen.append(signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler] * 2
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        look()
        assert seen[2:] == [signal.SIG_IGN] * 2
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["memory", "disk"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with pytinykv.open(None if request.param == "memory" else tmp_path, timeout=5) as db:
        yield db


def test_a_lock_that_is_given_at_an_interrupt_is_released(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = db._core.database.executor
    with monkeypatch.context() as patched:
        patched.setattr(executor, "submit", interrupting(executor.submit))
        with pytest.raises(KeyboardInterrupt), db.transaction(pessimistic=True) as txn:
            txn.lock(b"k")
    with db.transaction(pessimistic=True, timeout=0.5) as txn:
        txn.lock(b"k")


def test_a_commit_is_interrupted_at_its_end_and_keeps_nobody_out(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port = db._core.database.port
    with db.transaction(pessimistic=True) as holder:
        holder.lock(b"other")  # so that the executor is asked, which has latches
        with monkeypatch.context() as patched:
            patched.setattr(port, "_write", interrupting(port._write))
            with pytest.raises(KeyboardInterrupt), db.transaction() as txn:
                txn.put(b"k", b"v")
        assert db.snapshot().get(b"k") == b"v"
        db.run(lambda txn: txn.put(b"k", b"w"))
    assert db.snapshot().get(b"k") == b"w"


def test_a_commit_that_is_interrupted_at_its_beginning_lets_go_of_its_locks(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    txn = db.transaction(pessimistic=True)
    txn.put(b"k", b"v")
    monkeypatch.setattr(txn._inner, "start_commit", interrupting(txn._inner.start_commit))
    with pytest.raises(KeyboardInterrupt):
        txn.commit()
    with db.transaction(pessimistic=True, timeout=0.5) as other:
        other.lock(b"k")
        assert other.get(b"k") == b"v"


def test_the_pause_of_a_commit_that_has_met_a_lock_is_interrupted(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = db._core.database.groups
    run, tries = groups.run, []

    def interrupted_run(*arguments: Any) -> Any:
        tries.append(arguments)
        try:
            return run(*arguments)
        except pytinykv.LockTimeoutError:
            signal.raise_signal(signal.SIGINT)
            raise

    with db.transaction(pessimistic=True) as holder:
        holder.lock(b"k")
        monkeypatch.setattr(groups, "run", interrupted_run)
        with pytest.raises(KeyboardInterrupt), db.transaction() as txn:
            txn.put(b"k", b"v")
        monkeypatch.undo()
    assert len(tries) == 1
    assert db.snapshot().get(b"k") is None


def test_a_thread_that_leads_a_group_and_is_interrupted_passes_the_lead_on(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = db._core.database.groups
    with monkeypatch.context() as patched:
        patched.setattr(groups, "_enter", interrupting(groups._enter))
        with pytest.raises(KeyboardInterrupt), db.transaction() as txn:
            txn.put(b"k", b"v")
    db.run(lambda txn: txn.put(b"k", b"w"), timeout=1)
    assert db.snapshot().get(b"k") == b"w"


def test_an_opening_and_a_close_that_are_interrupted_let_go_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pytinykv.storage.RocksEngine, "open", interrupting(pytinykv.storage.RocksEngine.open))
        with pytest.raises(KeyboardInterrupt):
            pytinykv.open(tmp_path)
    db = pytinykv.open(tmp_path)
    database = db._core.database
    with monkeypatch.context() as patched:
        patched.setattr(database, "begin_close", interrupting(database.begin_close))
        with pytest.raises(KeyboardInterrupt):
            db.close()
    pytinykv.open(tmp_path).close()


def test_scans_in_memory_are_interrupted_at_their_end() -> None:
    """In the middle, CPython 3.13 would leave the lock that they hold."""
    with pytinykv.open(None) as db:
        db.run(lambda txn: [txn.put(b"%d" % number, b"v") for number in range(10)])
        db.raw.batch_put({b"%d" % number: b"v" for number in range(10)})
        database: Any = db._core.database  # type: ignore[attr-defined]  # that of an embedded database
        seen: list[object] = []

        class Engine:
            """The engine, which looks who has the signal."""

            def __getattr__(self, name: str) -> Any:
                seen.append(signal.getsignal(signal.SIGINT))
                return getattr(database.engine, name)

        reads = database.reads
        reads._engine = Engine()
        with db.snapshot() as snapshot:
            assert len(list(snapshot.scan())) == 10
        assert seen
        assert signal.default_int_handler not in seen
