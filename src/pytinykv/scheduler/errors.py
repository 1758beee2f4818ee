"""What the scheduler refuses. Each of these leaves the state as it was.

Refusal
├── NotBootstrapped         the cluster has no store and region yet; only bootstrap, ids and timestamps work
├── AlreadyBootstrapped     another store has bootstrapped the cluster
├── StoreNotFound           no store of this id was ever registered
├── StoreTombstone          the store was removed for good
├── DuplicateAddress        another living store has this address
├── StoreInUse              another process serves this store
├── InvalidInput            the request contradicts itself or the rules; sending it again is pointless
├── UnknownRegion           no such region
├── CannotRemove            the store's peers have nowhere to go
├── CannotTransfer          the region can't be led from that store now
├── StaleRegion             the report describes a past state of the region
├── LookupIncomplete        a key range is not known at the moment, or its leader is not (retryable)
├── TimestampUnavailable    the clock or the disk did not allow a timestamp in time (retryable)
├── SchedulerStopped        the scheduler is stopping (retryable: with the next one)
└── StateCorrupted          what is on disk can't be read by this version
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

STORES_LISTED_MAX: Final = 20
"""How many stores a message names at most."""


class Refusal(Exception):
    """Base of the errors of this package. `retryable`: the same request can succeed later."""

    retryable: ClassVar[bool] = False


class NotBootstrapped(Refusal):
    """The cluster has no first store and region yet."""

    retryable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__("cluster is not bootstrapped: start a store first")


class AlreadyBootstrapped(Refusal):
    """The cluster has a first store; this one has to join."""

    def __init__(self) -> None:
        super().__init__("cluster is already bootstrapped")


class StoreNotFound(Refusal):
    """No store with this id. The message names those that there are."""

    def __init__(self, store_id: int, known: Iterable[int] = ()) -> None:
        """`known`: the ids of all registered stores, tombstones left out."""
        ids = sorted(known)
        listed = ", ".join(map(str, ids[:STORES_LISTED_MAX])) + (", …" if len(ids) > STORES_LISTED_MAX else "")
        # Go clients recognise both halves of the first part.
        super().__init__(
            f"invalid store ID {store_id}, not found: " + (f"there are stores {listed}" if ids else "there is no store")
        )
        self.store_id = store_id


class StoreTombstone(Refusal):
    """The store was removed; it must come back with an empty data directory, and so with a new id."""

    def __init__(self, store_id: int) -> None:
        super().__init__(
            f"store {store_id} is tombstone: it was removed from the cluster and its id is not used again; to join as a new"
            " store, start with an empty data directory"
        )
        self.store_id = store_id


class DuplicateAddress(Refusal):
    """Two living stores can't be dialled at one address."""

    def __init__(self, address: str, store_id: int, owner_id: int, *, silence: str = "") -> None:
        """`silence` says how long the owner has been silent, and must have been for its address to be free."""
        super().__init__(
            f"duplicated store address: store {store_id} wants {address}, which store {owner_id} has{silence}: start with"
            f" another address (--addr, --advertise-addr). If store {owner_id} is gone, its address is free after a while,"
            f" and `tinykv ctl store remove {owner_id}` takes it out of the cluster"
        )
        self.owner_id = owner_id


class StoreInUse(Refusal):
    """Another process serves the store: only one may, or both would vote and acknowledge in its name."""


class InvalidInput(Refusal):
    """The request is wrong in itself."""


class UnknownRegion(Refusal):
    """No region with this id."""

    def __init__(self, region_id: int) -> None:
        super().__init__(f"region {region_id} is not known")
        self.region_id = region_id


class CannotRemove(Refusal):
    """A store can't be taken out of service; the message says why."""

    def __init__(self, store_id: int, why: str) -> None:
        super().__init__(f"store {store_id} can't be removed: {why}")


class CannotTransfer(Refusal):
    """A region's leader can't be moved to that store; the message says why."""

    def __init__(self, region_id: int, store_id: int, why: str) -> None:
        super().__init__(f"the leader of region {region_id} can't be moved to store {store_id}: {why}")


class StaleRegion(Refusal):
    """A report or request whose epoch or term is older than what is known."""


class LookupIncomplete(Refusal):
    """The answer would be partial: a gap in the region map, or a region whose leader is unknown."""

    retryable: ClassVar[bool] = True


class TimestampUnavailable(Refusal):
    """No timestamp within `tso_wait_max_s`."""

    retryable: ClassVar[bool] = True


class SchedulerStopped(Refusal):
    """The scheduler is stopping, or its disk has failed."""

    retryable: ClassVar[bool] = True

    def __init__(self, reason: str = "scheduler is stopping") -> None:
        super().__init__(reason)


class StateCorrupted(Refusal):
    """A stored record can't be decoded."""
