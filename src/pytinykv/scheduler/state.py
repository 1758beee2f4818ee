"""The durable state, and the one function that changes it.

`transition(state, command)` is pure: it returns the next state, the outcome for the caller and the records to write,
or raises a `Refusal` and nothing has happened. The caller (`commit.Committer`) makes the records durable first and shows the
next state afterwards.

In the engine, column family `default`; values have the form of `model.codec`:

    key                        value
    s/meta                     `Meta`: cluster id, reserved ids and timestamps, safe points
    s/store/<id: 8 bytes>      `StoreMeta`
    s/region/<id: 8 bytes>     `Region` (written without a sync of its own: see cluster_view.py)

Invariants:
 1. The cluster id is set once and is not 0.
 2. `id_end` never goes down, and is above every id that a registered store or the first region carries.
 3. Two stores that are not tombstones never share an address. One that has lost its address to another has none.
 4. The GC safe point never goes down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from pytinykv.model import FormatError, Peer, RecordDecoder, Region, StoreId, encode, record_decoder
from pytinykv.scheduler.commands import (
    AllowTransactions,
    Bootstrap,
    InitCluster,
    PutClusterConfig,
    PutStore,
    ReleaseTimestamps,
    ReserveIds,
    ReserveTimestamps,
    SetStoreState,
    StateCommand,
    StoreStopped,
    UpdateGcSafePoint,
    UpdateServiceSafePoint,
)
from pytinykv.scheduler.errors import (
    AlreadyBootstrapped,
    DuplicateAddress,
    InvalidInput,
    NotBootstrapped,
    StateCorrupted,
    StoreNotFound,
    StoreTombstone,
)
from pytinykv.scheduler.records import StoreMeta, StoreState
from pytinykv.storage import ColumnFamily, Reader

META_KEY = b"s/meta"
STORE_PREFIX = b"s/store/"
REGION_PREFIX = b"s/region/"
ID_MAX = (1 << 62) - 1
"""Greatest id that a request may bring along; leaves room for those to be handed out."""
FOREVER_S = (1 << 63) - 1
GC_WORKER = "gc_worker"
"""The service that is always there and without which nothing is collected; its safe point starts at 0."""

T = TypeVar("T")


class ServiceSafePoint(msgspec.Struct, frozen=True, array_like=True):
    """A service that still needs versions from `safe_point` on."""

    service_id: str
    safe_point: int
    expires_at_s: int


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The small part of the state, written as one record."""

    cluster_id: int = 0
    """0: not made yet. Set once."""
    bootstrapped: bool = False
    """Whether there is a first store and region: the next three fields are their ids, 0 before."""
    first_store: int = 0
    first_region: int = 0
    first_peer: int = 0
    id_end: int = 1
    """Ids below this may have been handed out."""
    tso_end_ms: int = 0
    """Timestamps with a physical part below this may have been handed out."""
    gc_safe_point: int = 0
    max_peer_count: int = 0
    """0: as configured."""
    services: tuple[ServiceSafePoint, ...] = ()
    """Sorted by service id."""
    transactional: bool = False
    """Whether regions are split at memcomparable keys only. Never goes back."""


class State(msgspec.Struct, frozen=True):
    """Everything the scheduler must not forget."""

    meta: Meta = Meta()
    stores: Mapping[StoreId, StoreMeta] = {}
    """All stores that ever registered, tombstones included."""

    def store(self, store_id: int) -> StoreMeta:
        """Return a registered store. Raises StoreNotFound."""
        store = self.stores.get(StoreId(store_id))
        if store is None:
            raise StoreNotFound(store_id, (one.id for one in self.stores.values() if not one.is_tombstone))
        return store

    def store_at(self, address: str, *, other_than: int) -> StoreMeta | None:
        """Return the store, other than a given one and no tombstone, that has this address."""
        living = (store for store in self.stores.values() if store.id != other_than and not store.is_tombstone)
        return next((store for store in living if store.address == address), None)


class Transition(msgspec.Struct, frozen=True):
    """What a command does: the state after it, what the caller gets, what must be durable before either shows."""

    state: State
    outcome: Any = None
    writes: tuple[tuple[bytes, bytes], ...] = ()


_decode_meta = record_decoder(Meta, "scheduler meta")
_decode_store = record_decoder(StoreMeta, "store")
_decode_region = record_decoder(Region, "region")


def store_key(store_id: int) -> bytes:
    return STORE_PREFIX + store_id.to_bytes(8, "big")


def region_key(region_id: int) -> bytes:
    return REGION_PREFIX + region_id.to_bytes(8, "big")


def load_state(reader: Reader) -> State:
    """Read the state from an engine; the empty state from an empty one. Raises StateCorrupted."""
    raw = reader.get(ColumnFamily.DEFAULT, META_KEY)
    meta = Meta() if raw is None else _decode(META_KEY, raw, _decode_meta)
    stores = [_decode(key, value, _decode_store) for key, value in _scan(reader, STORE_PREFIX)]
    return State(meta=meta, stores={store.id: store for store in stores})


def load_regions(reader: Reader) -> list[Region]:
    """Read the regions that were known before, in the order of their ids. Raises StateCorrupted."""
    return [_decode(key, value, _decode_region) for key, value in _scan(reader, REGION_PREFIX)]


def _decode(key: bytes, value: bytes, decode: RecordDecoder[T]) -> T:
    try:
        return decode(value)
    except FormatError as error:
        raise StateCorrupted(f"scheduler record {key!r}: {error}") from error


def _scan(reader: Reader, prefix: bytes) -> list[tuple[bytes, bytes]]:
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    return list(reader.scan(ColumnFamily.DEFAULT, prefix, end))


def transition(state: State, command: StateCommand) -> Transition:  # noqa: C901, PLR0911  one return for each command
    """Apply one command. Raises Refusal when it is refused."""
    match command:
        case InitCluster():
            return _init_cluster(state, command)
        case Bootstrap():
            return _bootstrap(state, command)
        case PutStore():
            return _put_store(state, command)
        case StoreStopped():
            return _store_stopped(state, command)
        case SetStoreState():
            return _set_store_state(state, command)
        case ReserveIds():
            return _with_meta(state, id_end=max(state.meta.id_end, command.end))
        case ReserveTimestamps():
            return _with_meta(state, tso_end_ms=max(state.meta.tso_end_ms, command.end_ms))
        case ReleaseTimestamps():
            is_last = state.meta.tso_end_ms == command.reserved_end_ms
            return _with_meta(state, tso_end_ms=command.end_ms) if is_last else Transition(state)
        case PutClusterConfig():
            return _put_cluster_config(state, command)
        case UpdateGcSafePoint():
            return _update_gc_safe_point(state, command)
        case UpdateServiceSafePoint():
            return _update_service_safe_point(state, command)
        case AllowTransactions():
            return _with_meta(state, transactional=True)


def _with_meta(state: State, outcome: Any = None, **changes: Any) -> Transition:
    meta = msgspec.structs.replace(state.meta, **changes)
    if meta == state.meta:
        return Transition(state, outcome)
    return Transition(State(meta, state.stores), outcome, ((META_KEY, encode(meta)),))


def _with_store(state: State, store: StoreMeta) -> Transition:
    """Add or replace a store, and keep invariant 2."""
    meta = msgspec.structs.replace(state.meta, id_end=max(state.meta.id_end, store.id + 1))
    writes = [(store_key(store.id), encode(store))]
    if meta != state.meta:
        writes.append((META_KEY, encode(meta)))
    return Transition(State(meta, {**state.stores, store.id: store}), store, tuple(writes))


def _init_cluster(state: State, command: InitCluster) -> Transition:
    if state.meta.cluster_id:
        return Transition(state, state.meta.cluster_id)
    if not 0 < command.cluster_id < 1 << 64:
        raise InvalidInput(f"cluster id {command.cluster_id} is not a positive 64-bit number")
    return _with_meta(state, command.cluster_id, cluster_id=command.cluster_id)


def _bootstrap(state: State, command: Bootstrap) -> Transition:
    store, region = command.store, command.region
    _check_store(store)
    peer = _check_first_region(store, region)
    first = (store.id, region.id, peer.id)
    if state.meta.bootstrapped:
        # The answer may have been lost, and the store asks again.
        if first == (state.meta.first_store, state.meta.first_region, state.meta.first_peer):
            return Transition(state)
        raise AlreadyBootstrapped
    meta = msgspec.structs.replace(
        state.meta,
        bootstrapped=True,
        first_store=store.id,
        first_region=region.id,
        first_peer=peer.id,
        id_end=max(state.meta.id_end, *(one + 1 for one in first)),
    )
    writes = (
        (META_KEY, encode(meta)),
        (store_key(store.id), encode(store)),
        (region_key(region.id), encode(region)),
    )
    return Transition(State(meta, {store.id: store}), None, writes)


def _check_id(what: str, value: int) -> None:
    if not 0 < value <= ID_MAX:
        raise InvalidInput(f"invalid {what} id {value}: ask for one with AllocID")


def _check_store(store: StoreMeta) -> None:
    _check_id("store", store.id)
    if not store.address:
        raise InvalidInput(f"store {store.id} has no address")


def _check_first_region(store: StoreMeta, region: Region) -> Peer:
    _check_id("region", region.id)
    if region.start_key or region.end_key:
        raise InvalidInput(
            f"first region {region.id} must cover all keys, not [{region.start_key!r}, {region.end_key!r})"
        )
    if len(region.peers) != 1:
        raise InvalidInput(f"first region {region.id} must have exactly one peer, not {len(region.peers)}")
    (peer,) = region.peers
    _check_id("peer", peer.id)
    if peer.store_id != store.id:
        raise InvalidInput(f"peer {peer.id} of first region {region.id} must live on store {store.id}")
    return peer


def _put_store(state: State, command: PutStore) -> Transition:
    if not state.meta.bootstrapped:
        raise NotBootstrapped
    store = command.store
    _check_store(store)
    known = state.stores.get(store.id)
    if known is not None and known.is_tombstone:
        raise StoreTombstone(store.id)
    owner = state.store_at(store.address, other_than=store.id)
    displaced: tuple[tuple[bytes, bytes], ...] = ()
    if owner is not None:
        if owner.id != command.takes_from:
            raise DuplicateAddress(store.address, store.id, owner.id)
        lost = _with_store(state, msgspec.structs.replace(owner, address="", peer_address="", start_timestamp=0))
        state, displaced = lost.state, lost.writes
    decided = StoreState.UP if known is None else known.state
    store = msgspec.structs.replace(store, state=decided)
    if store == known:
        return Transition(state, store, displaced)
    step = _with_store(state, store)
    return msgspec.structs.replace(step, writes=displaced + step.writes)


def _store_stopped(state: State, command: StoreStopped) -> Transition:
    store = state.stores.get(command.store_id)
    if store is None or store.start_timestamp != command.start_timestamp:
        return Transition(state)
    return _with_store(state, msgspec.structs.replace(store, start_timestamp=0))


def _set_store_state(state: State, command: SetStoreState) -> Transition:
    store = state.store(command.store_id)
    if store.state is command.state:
        return Transition(state, store)
    if store.is_tombstone:
        raise StoreTombstone(store.id)
    if command.state is StoreState.TOMBSTONE and store.state is StoreState.UP:
        raise InvalidInput(f"store {store.id} is up: take it offline first, so that its peers move away")
    return _with_store(state, msgspec.structs.replace(store, state=command.state))


def _put_cluster_config(state: State, command: PutClusterConfig) -> Transition:
    if not state.meta.bootstrapped:
        raise NotBootstrapped
    if command.max_peer_count < 1:
        raise InvalidInput(f"max_peer_count must be at least 1, not {command.max_peer_count}")
    return _with_meta(state, max_peer_count=command.max_peer_count)


def _update_gc_safe_point(state: State, command: UpdateGcSafePoint) -> Transition:
    safe_point = max(state.meta.gc_safe_point, command.safe_point)
    return _with_meta(state, safe_point, gc_safe_point=safe_point)


def minimum_service_safe_point(meta: Meta, now_s: int) -> ServiceSafePoint:
    """Return the service that holds garbage collection back most (the GC worker itself if no other does)."""
    worker = ServiceSafePoint(GC_WORKER, 0, FOREVER_S)
    services = {one.service_id: one for one in meta.services if one.expires_at_s > now_s}
    services.setdefault(GC_WORKER, worker)
    return min(services.values(), key=lambda one: (one.safe_point, one.service_id))


def _update_service_safe_point(state: State, command: UpdateServiceSafePoint) -> Transition:
    """Take the service's new safe point unless that is already behind the minimum; the outcome is the minimum now."""
    if not command.service_id:
        raise InvalidInput("a service safe point needs a service id")
    if command.service_id == GC_WORKER and command.expires_at_s <= command.now_s:
        raise InvalidInput(f"the safe point of {GC_WORKER} can't be removed")
    kept = {one.service_id: one for one in state.meta.services if one.expires_at_s > command.now_s}
    minimum = minimum_service_safe_point(state.meta, command.now_s)
    if command.expires_at_s <= command.now_s:
        kept.pop(command.service_id, None)
    elif command.safe_point >= minimum.safe_point:
        expires = FOREVER_S if command.service_id == GC_WORKER else command.expires_at_s
        kept[command.service_id] = ServiceSafePoint(command.service_id, command.safe_point, expires)
    services = tuple(kept[name] for name in sorted(kept))
    meta = msgspec.structs.replace(state.meta, services=services)
    return _with_meta(state, minimum_service_safe_point(meta, command.now_s), services=services)
