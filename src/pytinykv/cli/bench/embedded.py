"""An embedded database beside SQLite: durable commits, reads of a snapshot, scans, opening and closing.

SQLite is in WAL mode with `synchronous=FULL`: as here, a commit is on the disk when it returns. Both take turns, round by
round, on the same disk; the ratio of a round is what counts.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import pytinykv
from pytinykv.cli.bench.figures import Bound, Figure, Figures
from pytinykv.lifecycle import Scope

THREADS: Final = 16
ROWS_PER_COMMIT: Final = 1000
LARGE_VALUE_BYTES: Final = 4096
STARTS: Final = 5
FIRST_COMMIT: Final = """\
import sys, time
began = time.perf_counter()
import pytinykv
with pytinykv.open(sys.argv[1]) as db:
    with db.transaction() as txn:
        txn.put(b"k", b"v")
    print(time.perf_counter() - began)
"""

Step = Callable[[], int]
"""One piece of work; returns how many operations it was."""


class EmbeddedPlan(NamedTuple):
    """What to measure."""

    rows: int
    """That gets and scans read."""
    value_bytes: int
    rounds: int
    seconds: float
    """How long a round takes."""
    data_bytes: int
    """How much the database that is opened and closed holds."""


STEPS: Final = ("fill", "commits", "commits of 16 threads", "gets", "scans", "open and close", "first commit")


async def measure_embedded(scope: Scope, plan: EmbeddedPlan, on_progress: Callable[[str, int], None]) -> Figures:
    """Measure everything in a temporary directory. Raises ClientError, OSError, sqlite3.Error."""
    figures = Figures(f"an embedded database, {plan.rows:,} rows of {plan.value_bytes} bytes, beside SQLite")
    with tempfile.TemporaryDirectory(prefix="tinykv-bench-") as directory:
        bench = _Bench(scope, plan, Path(directory))
        steps = (
            bench.fill,
            bench.commits,
            bench.commits_of_threads,
            bench.gets,
            bench.scans,
            bench.open_and_close,
            bench.first_commit,
        )
        try:
            for number, (name, step) in enumerate(zip(STEPS, steps, strict=True)):
                on_progress(name, number)
                for figure in await step():
                    figures.add(figure)
        finally:
            bench.close()
    return figures


class _Bench:
    """One run: a database of each kind, with the same rows."""

    def __init__(self, scope: Scope, plan: EmbeddedPlan, directory: Path) -> None:
        self._scope = scope
        self._plan = plan
        self._directory = directory
        self._value = bytes(index % 251 for index in range(plan.value_bytes))
        self._stopping = threading.Event()
        """Set when the bench is told to stop; every loop looks at it."""
        self._db = pytinykv.open(directory / "pytinykv")
        self._sqlite = _connect(directory)
        self._sqlite.execute("create table pairs (k blob primary key, v blob) without rowid")

    def close(self) -> None:
        self._db.close()
        self._sqlite.close()

    async def fill(self) -> Sequence[Figure]:
        await self._alone(self._fill)
        return ()

    def _fill(self) -> None:
        rows = [(_key(number), self._value) for number in range(self._plan.rows)]
        for start in range(0, len(rows), ROWS_PER_COMMIT):
            if self._stopping.is_set():
                return
            with self._db.transaction() as txn:
                for key, value in rows[start : start + ROWS_PER_COMMIT]:
                    txn.put(key, value)
        self._sqlite.execute("begin")
        self._sqlite.executemany("insert into pairs values (?, ?)", rows)
        self._sqlite.execute("commit")

    async def commits(self) -> Sequence[Figure]:
        ours = _each(self._commit)
        theirs = _each(lambda number: _insert(self._sqlite, b"one-%d" % number, self._value))
        return await self._beside("commits", "durable commits of one put, 1 thread", [ours], [theirs], at_least=1.0)

    def _commit(self, number: int) -> None:
        with self._db.transaction() as txn:
            txn.put(b"one-%d" % number, self._value)

    async def commits_of_threads(self) -> Sequence[Figure]:
        connections = [_connect(self._directory) for _ in range(THREADS)]
        try:
            ours = [_each(_Writer(self._db, thread, self._value).commit) for thread in range(THREADS)]
            theirs = [
                _each(_SqliteWriter(connection, thread, self._value).commit)
                for thread, connection in enumerate(connections)
            ]
            name = f"durable commits of one put, {THREADS} threads"
            return await self._beside("commits", name, ours, theirs, at_least=2.0)
        finally:
            for connection in connections:
                connection.close()

    async def gets(self) -> Sequence[Figure]:
        rng = Random(0)
        keys = [_key(rng.randrange(self._plan.rows)) for _ in range(1000)]
        with self._db.snapshot() as snapshot:
            get = snapshot.get
            query = self._sqlite.execute

            def ours() -> int:
                for key in keys:
                    get(key)
                return len(keys)

            def theirs() -> int:
                for key in keys:
                    query("select v from pairs where k = ?", (key,)).fetchone()
                return len(keys)

            name = "snapshot gets, 1 thread"
            return await self._beside("gets", name, [ours], [theirs], at_least=0.5, rate_at_least=100_000)

    async def scans(self) -> Sequence[Figure]:
        with self._db.snapshot() as snapshot:

            def ours() -> int:
                return sum(1 for _ in snapshot.scan())

            def theirs() -> int:
                return sum(1 for _ in self._sqlite.execute("select k, v from pairs order by k"))

            return await self._beside("scans", "scan", [ours], [theirs], rate_at_least=400_000, unit="rows/s")

    async def open_and_close(self) -> Sequence[Figure]:
        path = self._directory / "large"
        await self._alone(lambda: self._fill_large(path))
        opens, closes = [], []
        for _ in range(self._plan.rounds):
            began = time.perf_counter()
            db = pytinykv.open(path)
            opened = time.perf_counter()
            with db.snapshot() as snapshot:
                assert snapshot.get(_key(0)) is not None or self._stopping.is_set()
            with db.transaction() as txn:
                txn.put(b"last", b"v")
            closing_at = time.perf_counter()
            db.close()
            opens.append(opened - began)
            closes.append(time.perf_counter() - closing_at)
        size = f"{self._plan.data_bytes / (1 << 20):,.0f} MiB"
        return [
            Figure("open", f"open of {size}", statistics.median(opens), "s", Bound.AT_MOST, 1.0),
            Figure("open", f"close of {size}", statistics.median(closes), "s", Bound.AT_MOST, 1.0),
        ]

    def _fill_large(self, path: Path) -> None:
        rng = Random(0)
        with pytinykv.open(path, durability="relaxed") as db:
            for start in range(0, max(1, self._plan.data_bytes // LARGE_VALUE_BYTES), ROWS_PER_COMMIT):
                if self._stopping.is_set():
                    return
                with db.transaction() as txn:
                    for number in range(start, start + ROWS_PER_COMMIT):
                        txn.put(_key(number), rng.randbytes(LARGE_VALUE_BYTES))

    async def first_commit(self) -> Sequence[Figure]:
        seconds: list[float] = []

        def start_all() -> None:
            for number in range(STARTS):
                command = [sys.executable, "-c", FIRST_COMMIT, str(self._directory / f"start-{number}")]
                done = subprocess.run(command, capture_output=True, check=True, timeout=60, env=_environment())  # noqa: S603 - ours
                seconds.append(float(done.stdout))

        await self._alone(start_all)
        name = "import and open to the first commit"
        return [Figure("start", name, statistics.median(seconds), "s", Bound.AT_MOST, 0.4)]

    # --- rounds -------------------------------------------------------------------------------------------------

    async def _beside(
        self,
        step: str,
        name: str,
        ours: Sequence[Step],
        theirs: Sequence[Step],
        *,
        at_least: float | None = None,
        rate_at_least: float | None = None,
        unit: str = "/s",
    ) -> Sequence[Figure]:
        """Measure both in turns; a step of each for each thread."""
        pairs = [(await self._rate(ours), await self._rate(theirs)) for _ in range(self._plan.rounds)]
        rate = statistics.median(ours_rate for ours_rate, _ in pairs)
        sqlite = statistics.median(theirs_rate for _, theirs_rate in pairs)
        ratio = statistics.median(ours_rate / theirs_rate for ours_rate, theirs_rate in pairs)
        rate_bound = None if rate_at_least is None else Bound.AT_LEAST
        ratio_bound = None if at_least is None else Bound.AT_LEAST
        return [
            Figure(step, name, rate, unit, rate_bound, rate_at_least or 0.0, detail=f"SQLite: {sqlite:,.0f} {unit}"),
            Figure(step, f"{name}, beside SQLite", ratio, "×", ratio_bound, at_least or 0.0),
        ]

    async def _rate(self, steps: Sequence[Step]) -> float:
        """Return operations per second of a round, a thread for each step."""
        counts = [0] * len(steps)

        def work(index: int, step: Step) -> None:
            deadline = time.perf_counter() + self._plan.seconds
            while time.perf_counter() < deadline and not self._stopping.is_set():
                counts[index] += step()

        began = time.perf_counter()
        await self._in_threads([partial(work, index, step) for index, step in enumerate(steps)])
        return sum(counts) / (time.perf_counter() - began)

    async def _alone(self, work: Callable[[], None]) -> None:
        await self._in_threads([work])

    async def _in_threads(self, works: Sequence[Callable[[], None]]) -> None:
        """Run all, each in a thread, and wait. Raises the first error."""
        errors: list[Exception] = []

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised below, in the task that waits
                errors.append(error)

        threads = [
            self._scope.start_thread(f"bench-{number}", run, work, wake=self._stopping.set)
            for number, work in enumerate(works)
        ]
        for thread in threads:
            await thread.wait()
        if errors:
            raise errors[0]


class _Writer:
    """Commits keys of its own."""

    def __init__(self, db: pytinykv.Client, thread: int, value: bytes) -> None:
        self._db = db
        self._thread = thread
        self._value = value

    def commit(self, number: int) -> None:
        with self._db.transaction() as txn:
            txn.put(b"%d-%d" % (self._thread, number), self._value)


class _SqliteWriter:
    """As `_Writer`, with a connection of its own."""

    def __init__(self, connection: sqlite3.Connection, thread: int, value: bytes) -> None:
        self._connection = connection
        self._thread = thread
        self._value = value

    def commit(self, number: int) -> None:
        _insert(self._connection, b"%d-%d" % (self._thread, number), self._value)


def _each(call: Callable[[int], None]) -> Step:
    """Return a step that calls with 0, 1, 2 and so on."""
    numbers = iter(range(1 << 62))

    def step() -> int:
        call(next(numbers))
        return 1

    return step


def _key(number: int) -> bytes:
    return b"key-%09d" % number


def _connect(directory: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(directory / "sqlite.db", isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def _insert(connection: sqlite3.Connection, key: bytes, value: bytes) -> None:
    with closing(connection.execute("insert or replace into pairs values (?, ?)", (key, value))):
        pass


def _environment() -> dict[str, str]:
    """Return the environment of a program whose modules are compiled once, as an installed package's are."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
