"""Power cuts at any step, on the engine that loses unsynced writes: all histories are under snapshot isolation.

One thread plays all clients. What other threads may do while one syncs, it does in the middle of the sync; there the power is
cut as well. Clients append to lists, and the checker judges what they have seen, over all starts of the database.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from pytinykv.client import ClientError, TransactionError
from pytinykv.client.txn.records import PUT, BufferedWrite
from pytinykv.embedded.database import Database
from pytinykv.embedded.garbage import Garbage
from pytinykv.embedded.groups import Entry
from pytinykv.embedded.oracle import LocalTxn
from pytinykv.simulation.isolation import Append, ListRead, ListTxn, Outcome, check_isolation
from pytinykv.storage import MemoryEngine

KEYS = [b"x", b"y", b"z"]
CUTS = 5
STEPS = 60


class PowerCut(BaseException):
    """The power fails in the middle of a sync."""


class Client:
    """One transaction of the history."""

    def __init__(self, world: World, name: str, *, is_pessimistic: bool) -> None:
        self.world = world
        self.name = name
        self.txn: LocalTxn = world.database.begin(world.now() + 1, is_pessimistic=is_pessimistic)
        world.note_ts(self.txn.start_ts)
        self.lists: dict[bytes, list[str]] = {}
        self.written: set[bytes] = set()
        self.operations: list[Append | ListRead] = []
        self.outcome: Outcome | None = None
        """None while it is open."""

    def read(self, key: bytes) -> list[str]:
        if key not in self.lists:
            value = self.world.database.reads.get(self.txn.view, key)
            self.lists[key] = [] if value is None else value.decode().split(",")
        self.operations.append(ListRead(key, tuple(self.lists[key])))
        return self.lists[key]

    def append(self, key: bytes) -> None:
        if key in self.written:
            return
        if self.txn.is_pessimistic and key not in self.txn.locked:
            self.world.database.lock(
                self.txn, [key], self.world.now() + 1, at_snapshot=True, must_not_exist=False, read=False
            )
        self.read(key).append(self.name)
        self.written.add(key)
        self.operations.append(Append(key, self.name))

    def work(self) -> Callable[[], int]:
        writes = [BufferedWrite(key, PUT, ",".join(self.lists[key]).encode()) for key in sorted(self.written)]
        return self.world.database.commit_work(self.txn, writes)

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.world.database.end(self.txn)
        self.world.open.remove(self)
        self.world.ended.append(ListTxn(self.name, tuple(self.operations), outcome))


class World:
    """A database, its disk, its clocks and its clients."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.wall_ms = 1_000_000
        self.monotonic = 0.0
        self.last_ts = 0
        self.names = 0
        self.open: list[Client] = []
        self.ended: list[ListTxn] = []
        self.may_cut = True
        self.faults: list[str] = []
        """What went wrong beside isolation."""
        self.start(MemoryEngine())

    def now(self) -> float:
        return self.monotonic

    def wall(self) -> int:
        self.wall_ms += self.rng.choice([0, 0, 1, 1, 20, -5])  # it stands, goes, leaps and goes back
        return self.wall_ms

    def start(self, engine: MemoryEngine) -> None:
        self.engine = engine
        self.database = Database(
            engine, None, name="simulated", is_relaxed=False, monotonic=self.now, wall_ms=self.wall
        )
        self.database.on_waiting = self.let_waits_end
        self.database._sync = self.sync  # type: ignore[method-assign]  # the disk of this world

    def let_waits_end(self) -> None:
        self.monotonic += 10
        with self.database.writer:
            self.database.executor.on_time(self.monotonic)

    def note_ts(self, ts: int) -> None:
        if ts <= self.last_ts:
            self.faults.append(f"timestamps go back from {self.last_ts} to {ts}")
        self.last_ts = ts

    def sync(self) -> None:
        ticket = self.engine.begin_sync()
        if self.rng.random() < 0.5:
            self.beside_a_sync()
        if self.may_cut and self.rng.random() < 0.1:
            raise PowerCut
        self.engine.complete_sync(ticket)

    def beside_a_sync(self) -> None:
        """Do what other threads may do meanwhile: all but commit."""
        for _ in range(self.rng.randint(1, 4)):
            if not self.open or self.rng.random() < 0.3:
                self.begin()
            client = self.rng.choice(self.open)
            if client.outcome is None and client not in self.committing:
                client.read(self.rng.choice(KEYS))
                if not client.written and self.rng.random() < 0.5:
                    client.end(Outcome.COMMITTED)  # it has only read

    committing: tuple[Client, ...] = ()

    def begin(self) -> Client:
        self.names += 1
        client = Client(self, f"t{self.names}", is_pessimistic=self.rng.random() < 0.3)
        self.open.append(client)
        return client

    def step(self) -> None:
        if len(self.open) < 2 or (len(self.open) < 5 and self.rng.random() < 0.3):
            self.begin()
            return
        client = self.rng.choice(self.open)
        choice = self.rng.random()
        try:
            if choice < 0.35:
                client.read(self.rng.choice(KEYS))
            elif choice < 0.7:
                client.append(self.rng.choice(KEYS))
            elif choice < 0.95:
                self.commit_together(self.rng.sample(self.open, self.rng.randint(1, len(self.open))))
            else:
                asyncio.run(Garbage(self.database, history_s=0.001).collect())
        except TransactionError:
            client.end(Outcome.ABORTED)

    def commit_together(self, clients: list[Client]) -> None:
        """Commit in one group, as threads do that come while another one syncs."""
        for client in [one for one in clients if not one.written]:
            client.end(Outcome.COMMITTED)
        clients = [one for one in clients if one.written]
        self.committing = tuple(clients)
        entries: list[tuple[Client, Entry[int]]] = []
        for client in clients:
            entry, _ = self.database.groups.enqueue(client.work(), lambda _: None)
            entries.append((client, entry))
        if not entries:
            return
        try:
            self.database.groups.lead()
        finally:
            self.committing = ()
            for client, entry in entries:
                try:
                    self.note_ts(entry.result())
                except ClientError as error:
                    client.end(Outcome.UNKNOWN if error.undetermined else Outcome.ABORTED)
                else:
                    client.end(Outcome.COMMITTED)

    def run(self) -> list[ListTxn]:
        for _ in range(CUTS):
            try:
                for _ in range(STEPS):
                    self.step()
            except PowerCut:
                pass
            for client in list(self.open):
                client.end(Outcome.ABORTED if client.written else Outcome.COMMITTED)
            self.may_cut = False
            self.start(self.engine.crash(self.rng))
            self.may_cut = True
        final = self.begin()
        for key in KEYS:
            final.read(key)
        return [*self.ended, ListTxn("final", tuple(final.operations), is_final=True)]


def test_a_power_cut_loses_nothing_that_was_acknowledged_or_seen(more: int) -> None:
    for seed in range(30 * more):
        world = World(seed)
        history = world.run()
        assert (check_isolation(history), world.faults) == ([], []), f"seed {seed}"


def test_commits_shown_before_their_sync_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker sees it when the database shows what is not durable yet."""
    inner = Database._make_durable

    def early(self: Database, group: list[Entry[int]]) -> None:
        self.oracle.publish()
        inner(self, group)

    monkeypatch.setattr(Database, "_make_durable", early)
    assert any(check_isolation(World(seed).run()) for seed in range(60))
