"""Checks of Raft's guarantees, fed with every message that a store sends and with what lies on the disks.

They know the protocol's messages and nothing of the code that makes them:

* *election safety* (Raft 5.2): a sender of AppendEntries, Heartbeat or InstallSnapshot in a term leads it; there is one
  such peer per region and term.
* *leader append-only* (Raft 5.3): what a leader has at an index stays there as long as it leads.
* *log matching* (Raft 5.3): an index and a term name one entry and the term of the one before it, from any sender; so two
  logs that agree in one entry agree in all before it.
* *leader completeness* (Raft 5.4): when a leader of the newest term so far first speaks, its disk has everything that any
  store had applied by then.
* *state machine safety* (Raft 5.4.3): what any store has ever applied at an index, synced or not, is of one term; and no
  store goes back to an older state while it lives.
* *no replica diverges*: disks that have applied a region up to the same index hold the same data.
* *removed peers stay gone*: once a store has written the tombstone of a peer, it says nothing for that peer or an older one
  (but in the turn that writes it).
* *no data outside a region*: everything on a disk belongs to a region that lives there.
* *no overlap*: regions that live on one disk share no key, and each epoch of a region has one shape.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pytinykv.model import Region
from pytinykv.raft import AppendEntries, Heartbeat, InstallSnapshot
from pytinykv.raftstore import keys
from pytinykv.raftstore.records import (
    ApplyState,
    PeerState,
    RaftEnvelope,
    RegionLocalState,
    decode_apply_state,
    decode_entry,
    decode_region_state,
)
from pytinykv.simulation.errors import Violation
from pytinykv.storage import ColumnFamily, Engine

if TYPE_CHECKING:
    from pytinykv.simulation.disk import SimEngine

_DATA_FAMILIES = (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE, ColumnFamily.RAW)
_APPLY_STATE = keys.apply_state_key(0)[:1]
_APPLY_STATE_BYTES = len(keys.apply_state_key(0))


class RaftObserver:
    """Sees each sent message once."""

    def __init__(
        self,
        engine_of: Callable[[int], SimEngine | None] = lambda _store_id: None,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._engine_of = engine_of
        """Store id -> its disk."""
        self._now = now
        self.leaders: dict[tuple[int, int], int] = {}
        """(region, term) -> the peer that led it."""
        self._applied: dict[int, dict[int, int]] = {}
        """region -> index -> term of what was applied there."""
        self._entries: dict[tuple[int, int, int], tuple[int, int | None]] = {}
        """(region, index, term) -> hash of the entry there, and the term of the one before."""
        self._led: dict[tuple[int, int], dict[int, int]] = {}
        """(region, term) -> index -> term of what its leader has sent as its log."""
        self.watched: tuple[bytes, ...] = ()
        """Engine keys of raw data that are compared whenever a store moves its applied index; a checker's time is dear."""
        self._values: dict[tuple[int, int], list[bytes | None]] = {}
        """(region, applied index) -> what the watched keys held then."""
        self._living: weakref.WeakKeyDictionary[SimEngine, dict[bytes, Region]] = weakref.WeakKeyDictionary()
        """Disk -> by the key of its state, each region that lives there."""
        self._shapes: dict[tuple[int, int, int], Region] = {}
        """(region, version, conf_ver) -> the region as any disk had it."""
        self._newest: dict[int, int] = {}
        """Region -> the newest term that has had a leader."""
        self.messages = 0
        """Messages seen."""

    def observe(self, envelope: RaftEnvelope) -> None:
        """Check one message. Raises `Violation`, in the sending store's turn."""
        self.messages += 1
        message = envelope.message
        if message is not None and message.term:  # a tombstone tells what is committed in term 0
            self._check_sender_lives(envelope)
        if not isinstance(message, AppendEntries | Heartbeat | InstallSnapshot):
            return
        key = (envelope.region_id, message.term)
        leader = self.leaders.setdefault(key, envelope.sender.id)
        if leader != envelope.sender.id:
            raise Violation(
                "election safety",
                f"peers {leader} and {envelope.sender.id} both lead region {key[0]} in term {key[1]}",
            )
        if message.term > self._newest.get(key[0], 0):
            self._newest[key[0]] = message.term
            engine = self._engine_of(envelope.sender.store_id)
            if engine is not None:
                self._check_completeness(engine, *key)
        if isinstance(message, AppendEntries):
            self._check_entries(envelope.region_id, message)

    def _check_sender_lives(self, envelope: RaftEnvelope) -> None:
        sender, engine = envelope.sender, self._engine_of(envelope.sender.store_id)
        tombstone = None if engine is None else _tombstones(engine).get(envelope.region_id)
        if tombstone is not None and sender.id <= tombstone[0] and tombstone[1] < self._now():
            raise Violation(
                "tombstones",
                f"region {envelope.region_id}: store {sender.store_id} speaks for peer {sender.id}, although it wrote the "
                f"tombstone of peer {tombstone[0]}: {type(envelope.message).__name__}",
            )

    def _check_state(self, engine: SimEngine, region_id: int, data: bytes) -> None:
        state, tombstones = decode_region_state(data), _tombstones(engine)
        if state.state is PeerState.TOMBSTONE:
            tombstones[region_id] = (state.peer_id, self._now())
        elif region_id in tombstones and state.peer_id <= tombstones[region_id][0]:
            raise Violation("tombstones", f"region {region_id}: peer {state.peer_id} lives again after its tombstone")

    def _check_entries(self, region_id: int, message: AppendEntries) -> None:
        led = self._led.setdefault((region_id, message.term), {})
        before = int(message.prev_term)
        for entry in message.entries:
            content = (hash((entry.kind, entry.data)), before)
            if self._entries.setdefault((region_id, entry.index, entry.term), content) != content:
                raise Violation(
                    "log matching",
                    f"region {region_id} has two entries, or two logs, at index {entry.index}, term {entry.term}",
                )
            if led.setdefault(entry.index, entry.term) != entry.term:
                raise Violation(
                    "leader append-only",
                    f"region {region_id}: the leader of term {message.term} has replaced its entry {entry.index}",
                )
            before = entry.term

    def _check_completeness(self, engine: SimEngine, region_id: int, term: int) -> None:
        data = engine.peek(keys.apply_state_key(region_id))
        applied = self._applied.get(region_id)
        if data is None or not applied:
            return
        state = decode_apply_state(data)
        for index in range(state.truncated_index + 1, max(applied) + 1):
            entry = engine.peek(keys.entry_key(region_id, index))
            has = None if entry is None else decode_entry(entry).term
            if applied.get(index, has) != has:
                raise Violation(
                    "leader completeness",
                    f"region {region_id}: the leader of term {term} has {has} at index {index}, where an entry of "
                    f"term {applied[index]} was applied",
                )

    def on_write(self, engine: SimEngine, raft_keys: Iterable[bytes]) -> None:
        """Look at what a store has just written: everything that it says it has applied. Raises `Violation`."""
        changed = [key for key in raft_keys if key[:1] == keys.REGION_STATE_START]
        if changed:
            self._check_regions(engine, changed)
        for key in raft_keys:
            if key[:1] == keys.REGION_STATE_START and len(key) == _APPLY_STATE_BYTES:
                data = engine.peek(key)
                if data is not None:
                    self._check_state(engine, int.from_bytes(key[1:], "big"), data)
            elif key[:1] == _APPLY_STATE and len(key) == _APPLY_STATE_BYTES:
                region_id, data = int.from_bytes(key[1:], "big"), engine.peek(key)
                if data is None:
                    engine.applied.pop(region_id, None)
                    continue
                state = decode_apply_state(data)
                self._check_progress(engine, region_id, state.applied_index)
                self._check_applied(engine.peek, region_id, state)
                if self.watched:
                    self._check_values(engine, region_id, state.applied_index)

    def _check_regions(self, engine: SimEngine, changed: Iterable[bytes]) -> None:
        living = self._living.get(engine)
        if living is None:  # the disk has just been opened
            living = self._living[engine] = {}
            stored = engine.peek_range(ColumnFamily.RAFT, keys.REGION_STATE_START, keys.REGION_STATE_END)
            changed = [key for key, _state in stored]
        for key in changed:
            data = engine.peek(key)
            state = None if data is None else decode_region_state(data)
            living.pop(key, None)
            if state is not None and state.state is not PeerState.TOMBSTONE and state.region.peers:
                region = living[key] = state.region
                known = self._shapes.setdefault((region.id, region.epoch.version, region.epoch.conf_ver), region)
                if known != region:
                    raise Violation("no overlap", f"region {region.id} has two shapes of an epoch: {known}, {region}")
        regions = sorted(living.values(), key=lambda region: region.start_key)
        for left, right in itertools.pairwise(regions):
            if left.overlaps(right):
                raise Violation("no overlap", f"regions {_range_of(left)} and {_range_of(right)} share keys on a disk")

    @staticmethod
    def _check_progress(engine: SimEngine, region_id: int, index: int) -> None:
        before = engine.applied.get(region_id, 0)
        if index < before:
            raise Violation(
                "state machine safety", f"region {region_id}: a store went back from applied index {before} to {index}"
            )
        engine.applied[region_id] = index

    def _check_values(self, engine: SimEngine, region_id: int, index: int) -> None:
        values = [engine.peek(key, ColumnFamily.RAW) for key in self.watched]
        before = self._values.setdefault((region_id, index), values)
        if before != values:
            raise Violation(
                "replica equality", f"region {region_id} at index {index}: {self.watched} are {before} and {values}"
            )

    def _check_applied(self, get: Callable[[bytes], bytes | None], region_id: int, state: ApplyState) -> None:
        applied = self._applied.setdefault(region_id, {})
        self._note(applied, region_id, state.applied_index, state.applied_term)
        index = state.applied_index - 1
        while index > state.truncated_index and index not in applied:
            entry = get(keys.entry_key(region_id, index))
            if entry is None:  # comes in the same turn, or is cut off already
                return
            self._note(applied, region_id, index, decode_entry(entry).term)
            index -= 1

    def _note(self, applied: dict[int, int], region_id: int, index: int, term: int) -> None:
        before = applied.setdefault(index, term)
        if before != term:
            raise Violation(
                "state machine safety",
                f"region {region_id}: index {index} was applied as an entry of term {before} and as one of term {term}",
            )

    @property
    def terms(self) -> int:
        """How many terms had a leader."""
        return len(self.leaders)


def _tombstones(engine: SimEngine) -> dict[int, tuple[int, float]]:
    """Return the tombstones on a disk, from what a crash has left at first."""
    if engine.tombstones is None:
        engine.tombstones = {}
        for key, data in engine.peek_range(ColumnFamily.RAFT, keys.REGION_STATE_START, keys.REGION_STATE_END):
            state = decode_region_state(data)
            if state.state is PeerState.TOMBSTONE:
                engine.tombstones[int.from_bytes(key[1:], "big")] = (state.peer_id, -1.0)
    return engine.tombstones


def regions_on(engine: Engine) -> list[Region]:
    """Return the regions whose data an engine holds whole, by id."""
    return [state.region for state in _region_states(engine) if state.state is PeerState.NORMAL]


def _region_states(engine: Engine) -> list[RegionLocalState]:
    """Return what a store has of each region that has data there, whole or on its way in."""
    stored = engine.scan(ColumnFamily.RAFT, keys.REGION_STATE_START, keys.REGION_STATE_END)
    states = [decode_region_state(value) for _key, value in stored]
    return [state for state in states if state.state is not PeerState.TOMBSTONE and state.region.peers]


def newest_regions(engines: Iterable[tuple[str, Engine]]) -> list[Region]:
    """Return every region in its newest epoch on any disk, by start key.

    A disk that has missed a split still has the region as it was: of two that share keys, the older one does not count.
    """
    newest: dict[int, Region] = {}
    for _name, engine in engines:
        for region in regions_on(engine):
            known = newest.get(region.id)
            if known is None or known.epoch.is_behind(region.epoch):
                newest[region.id] = region
    living = [
        region
        for region in newest.values()
        if not any(region.overlaps(other) and region.epoch.version < other.epoch.version for other in newest.values())
    ]
    return sorted(living, key=lambda region: region.start_key)


def gaps(regions: list[Region]) -> list[str]:
    """Return where regions, by start key, do not cover all keys, each once; empty if they do."""
    bounds = [b"", *(region.end_key for region in regions)]
    found = [
        f"{_range_of(region)} does not begin at {bound!r}"
        for bound, region in zip(bounds, regions, strict=False)
        if region.start_key != bound
    ]
    return found if regions and not regions[-1].end_key else [*found, "the last region has an end"]


def _range_of(region: Region) -> str:
    return f"{region.id} v{region.epoch.version} [{region.start_key!r}, {region.end_key!r})"


def applied_indexes(engine: Engine, region_id: int) -> tuple[int, int] | None:
    """Return (applied, truncated) of a region on one disk; None when it isn't there."""
    data = engine.get(ColumnFamily.RAFT, keys.apply_state_key(region_id))
    if data is None:
        return None
    state = decode_apply_state(data)
    return state.applied_index, state.truncated_index


RegionData = dict[tuple[str, bytes], bytes]
"""(column family, engine key) -> value."""
Seen = dict[tuple[int, int], tuple[str, RegionData]]
"""(region, applied index) -> host and the data it had then."""


def check_replicas_equal(engines: Iterable[tuple[str, Engine]], seen: Seen | None = None) -> int:
    """Compare the data of every region on every disk at equal applied index. Returns how many comparisons were made.

    Callers that hand in `seen` again and again compare also what replicas had at an index at different times.
    """
    seen = {} if seen is None else seen
    compared = 0
    for name, engine in engines:
        for region, data in data_by_region(name, engine):
            indexes = applied_indexes(engine, region.id)
            if indexes is None:
                continue
            other = seen.setdefault((region.id, indexes[0]), (name, data))
            if other[0] != name:
                compared += 1
                if other[1] != data:
                    raise Violation("replica equality", _difference(region, indexes[0], other, (name, data)))
    return compared


def data_by_region(name: str, engine: Engine) -> list[tuple[Region, RegionData]]:
    """Return the data of each region whose data an engine holds, by id. Raises `Violation` for data of no region.

    It goes through whole column families and asks of each pair whose it is, so a range that ends too early hides nothing.
    """
    states = _region_states(engine)
    data: dict[int, RegionData] = {state.region.id: {} for state in states}
    for cf in _DATA_FAMILIES:
        for key, value in engine.scan(cf, b"", None):
            user_key = key[1:] if cf is ColumnFamily.RAW else key
            owner = next((state.region.id for state in states if state.region.contains(user_key)), None)
            if owner is None:
                raise Violation(
                    "no data outside a region", f"{name} has {cf} {key!r}, which belongs to no region there"
                )
            data[owner][str(cf), key] = value
    return [(state.region, data[state.region.id]) for state in states if state.state is PeerState.NORMAL]


def _difference(
    region: Region,
    index: int,
    one: tuple[str, RegionData],
    other: tuple[str, RegionData],
) -> str:
    keys_of_difference = sorted(key for key in one[1].keys() | other[1].keys() if one[1].get(key) != other[1].get(key))
    first = keys_of_difference[0]
    return (
        f"region {region.id} at index {index} differs in {len(keys_of_difference)} keys, first {first}: "
        f"{one[0]} has {one[1].get(first)!r}, {other[0]} has {other[1].get(first)!r}"
    )
