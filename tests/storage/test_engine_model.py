"""Random histories against a plain dict: every engine agrees with it at every step, also after crashes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from tests.storage.engines import Harness, everything, make_harness

from pytinykv.storage import ColumnFamily, EngineClosedError

keys = st.one_of(st.sampled_from([b"", b"\x00", b"a", b"ab", b"b", b"\xff", b"\xff\xff"]), st.binary(max_size=3))
values = st.binary(max_size=20)
families = st.sampled_from([ColumnFamily.RAW, ColumnFamily.RAFT])
bounds = st.one_of(st.none(), keys)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), families, keys, values),
        st.tuples(st.just("delete"), families, keys),
        st.tuples(st.just("delete_range"), families, keys, keys),
    ),
    max_size=6,
)
State = dict[ColumnFamily, dict[bytes, bytes]]


def empty() -> State:
    return {cf: {} for cf in ColumnFamily}


def applied(state: State, batch: list[tuple[Any, ...]]) -> State:
    """Return the state after a batch."""
    result = {cf: dict(pairs) for cf, pairs in state.items()}
    for name, cf, key, *rest in batch:
        pairs = result[cf]
        if name == "put":
            pairs[key] = rest[0]
        elif name == "delete":
            pairs.pop(key, None)
        else:
            for doomed in [found for found in pairs if key <= found < rest[0]]:
                del pairs[doomed]
    return result


def in_range(pairs: dict[bytes, bytes], start: bytes, end: bytes | None) -> list[tuple[bytes, bytes]]:
    return [(key, pairs[key]) for key in sorted(pairs) if key >= start and (end is None or key < end)]


class EngineMachine(RuleBasedStateMachine):
    """Invariant: reads, snapshots and iterators show what the model says; a crash leaves a prefix with all synced."""

    kind: ClassVar[str]
    snapshots = Bundle("snapshots")
    iterators = Bundle("iterators")

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.harness: Harness = make_harness(self.kind, self.directory)
        self.state = empty()
        self.unsynced: list[State] = []
        """The states after each batch since the last sync, `state` last."""
        self.synced = self.state
        self.generation = 0

    @rule(batch=changes)
    def write(self, batch: list[tuple[Any, ...]]) -> None:
        written = self.harness.engine.write_batch()
        for name, *arguments in batch:
            getattr(written, name)(*arguments)
        self.harness.engine.write(written)
        self.state = applied(self.state, batch)
        self.unsynced.append(self.state)

    @rule()
    def sync(self) -> None:
        self.harness.engine.sync()
        self.synced, self.unsynced = self.state, []

    @rule(target=snapshots)
    def snapshot(self) -> tuple[int, Any, State]:
        return self.generation, self.harness.engine.snapshot(), self.state

    @rule(taken=snapshots, cf=families, key=keys, start=keys, end=bounds, reverse=st.booleans())
    def read_snapshot(self, taken: Any, cf: ColumnFamily, key: bytes, start: bytes, end: bytes, reverse: bool) -> None:
        generation, snapshot, state = taken
        if generation == self.generation:
            assert snapshot.get(cf, key) == state[cf].get(key)
            expected = in_range(state[cf], start, end)
            assert list(snapshot.scan(cf, start, end, reverse=reverse)) == (expected[::-1] if reverse else expected)

    @rule(taken=consumes(snapshots))
    def close_snapshot(self, taken: Any) -> None:
        taken[1].close()

    @rule(target=iterators, cf=families, start=keys, end=bounds, reverse=st.booleans())
    def iterate(self, cf: ColumnFamily, start: bytes, end: bytes | None, reverse: bool) -> Any:
        expected = in_range(self.state[cf], start, end)
        scan = self.harness.engine.scan(cf, start, end, reverse=reverse)
        return self.generation, (scan, None), expected[::-1] if reverse else expected

    @rule(target=iterators, taken=snapshots, cf=families, start=keys, end=bounds, reverse=st.booleans())
    def iterate_snapshot(self, taken: Any, cf: ColumnFamily, start: bytes, end: bytes | None, reverse: bool) -> Any:
        generation, snapshot, state = taken
        if generation != self.generation:
            return generation, None, []
        expected = in_range(state[cf], start, end)
        scan = snapshot.scan(cf, start, end, reverse=reverse)
        return generation, (scan, snapshot), expected[::-1] if reverse else expected

    @rule(iterator=iterators, count=st.integers(1, 3))
    def advance(self, iterator: Any, count: int) -> None:
        generation, source, expected = iterator
        if generation != self.generation or source is None:
            return
        scan, snapshot = source
        try:
            for _ in range(count):
                assert next(scan, None) == (expected.pop(0) if expected else None)
        except EngineClosedError:
            assert snapshot is not None, "only its snapshot's end may end an iterator"

    @rule(seed=st.integers(0, 1000))
    def crash(self, seed: int) -> None:
        self.harness.crash(Random(seed))
        self.generation += 1
        survived = everything(self.harness.engine)
        assert survived in [self.synced, *self.unsynced]
        self.state = self.synced = survived
        self.unsynced = []

    @precondition(lambda self: self.generation < 5)
    @rule()
    def reopen(self) -> None:
        self.harness.reopen()
        self.generation += 1
        self.synced, self.unsynced = self.state, []

    @rule(cf=families, start=keys, end=bounds)
    def export_delete_ingest(self, cf: ColumnFamily, start: bytes, end: bytes | None) -> None:
        """Taking a range out and putting it back changes nothing, and makes everything durable."""
        path = self.directory / "part.sst"
        before = self.state
        count = self.harness.engine.export_sst(cf, self.harness.engine, start, end, path)
        assert count == len(in_range(before[cf], start, end))
        if not count:
            return
        if end is not None:
            self.write([("delete_range", cf, start, end)])
        self.harness.engine.ingest_sst(cf, path)
        self.state = self.synced = before
        self.unsynced = []

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "state"):
            assert everything(self.harness.engine) == self.state

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            self.harness.close()
            shutil.rmtree(self.directory)


class MemoryMachine(EngineMachine):
    kind = "memory"


class RocksMachine(EngineMachine):
    kind = "rocks"


QUICK = settings(deadline=None, stateful_step_count=30, suppress_health_check=list(HealthCheck))
TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(QUICK, max_examples=60)
TestRocksModel = RocksMachine.TestCase
TestRocksModel.settings = settings(QUICK, max_examples=12)
