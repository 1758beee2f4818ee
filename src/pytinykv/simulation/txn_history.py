"""What transactions have read and written, and whether that was snapshot isolation.

Every write is an append of an element of its own, so a value tells which transactions it holds. At the end the
versions that the cluster keeps of each key, with both timestamps, are set beside what clients were told:

1. one fate      a transaction has a version of all the keys that it wrote, with one commit timestamp, or of none (G1b); what
                 was acknowledged is there at the timestamp that was named, what was refused is not (G1a)
2. one chain     each version is the one before it and one element more: no append was lost or came twice (G0, lost update)
3. one moment    each read returned the newest version at or before the snapshot (read skew, long fork, G1c, stale reads)
4. first wins    of two optimistic transactions that wrote a key, the later one began after the other had committed
5. real time     a transaction that began after another's acknowledgement has a later snapshot

Write skew is allowed. A read at a timestamp is held against the truth at that timestamp, which is stricter than what could be
found out from values alone. (Adya: Weak Consistency, 1999; Cerone and Gotsman: Analysing Snapshot Isolation, 2016.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from pytinykv.simulation.errors import Violation

CHECKER = "snapshot isolation"
Elements = tuple[int, ...]


class Fate(Enum):
    """What a client was told of its transaction."""

    COMMITTED = "committed"
    NOT = "not committed"
    UNKNOWN = "unknown"


class TxnRecord(msgspec.Struct, kw_only=True):
    """One transaction as its client saw it."""

    element: int
    """What it appends, everywhere: its name."""
    start_ts: int
    acknowledged_before: int = 0
    """The greatest commit timestamp that any client had been told when this one began."""
    is_pessimistic: bool = False
    reads: dict[bytes, Elements] = {}
    """What it read from its snapshot, before it wrote."""
    writes: frozenset[bytes] = frozenset()
    fate: Fate = Fate.UNKNOWN
    commit_ts: int = 0


class StoredVersion(NamedTuple):
    """A version that the cluster keeps in the end."""

    start_ts: int
    commit_ts: int
    elements: Elements


def encode_elements(elements: Elements) -> bytes:
    """Return a list of elements as a value."""
    return b",".join(b"%d" % element for element in elements)


def decode_elements(value: bytes | None) -> Elements:
    """Return the list of elements that a value holds; none for a key that does not exist."""
    return tuple(int(part) for part in value.split(b",")) if value else ()


def check_snapshot_isolation(records: Sequence[TxnRecord], stored: Mapping[bytes, Sequence[StoredVersion]]) -> None:
    """Raise `Violation` unless the history is one of snapshot isolation; `stored`: the versions of each key, in any order."""
    chains = {key: sorted(versions, key=lambda version: version.commit_ts) for key, versions in stored.items()}
    by_start = {record.start_ts: record for record in records}
    if len(by_start) != len(records):
        raise Violation(CHECKER, "two transactions began at one timestamp")
    for key, chain in chains.items():
        _check_chain(key, chain, by_start)
    for record in records:
        _check_fate(record, chains)
        _check_reads(record, chains)
        if record.start_ts <= record.acknowledged_before:
            raise Violation(
                CHECKER,
                f"transaction {record.element} began at {record.start_ts}, when a commit at "
                f"{record.acknowledged_before} had been acknowledged already",
            )


def _check_chain(key: bytes, chain: Sequence[StoredVersion], by_start: Mapping[int, TxnRecord]) -> None:
    before = StoredVersion(0, 0, ())
    for version in chain:
        record = by_start.get(version.start_ts)
        if record is None or key not in record.writes:
            raise Violation(
                CHECKER, f"no transaction has written the version of {key!r} at {version.commit_ts}: {version}"
            )
        if version.elements != (*before.elements, record.element):
            raise Violation(
                CHECKER,
                f"lost update: transaction {record.element} has made {list(version.elements)} of {key!r}, which was "
                f"{list(before.elements)}",
            )
        if not record.is_pessimistic and version.start_ts < before.commit_ts:
            raise Violation(
                CHECKER,
                f"transaction {record.element} began at {version.start_ts} and has written {key!r}, which was committed "
                f"at {before.commit_ts}",
            )
        before = version


def _check_fate(record: TxnRecord, chains: Mapping[bytes, Sequence[StoredVersion]]) -> None:
    found = {
        key: version.commit_ts
        for key in record.writes
        for version in chains.get(key, ())
        if version.start_ts == record.start_ts
    }
    name = f"transaction {record.element} ({record.fate.value}, began at {record.start_ts})"
    if found and set(found) != record.writes:
        raise Violation(CHECKER, f"{name} is there by half: it wrote {sorted(record.writes)}, found {sorted(found)}")
    if len(set(found.values())) > 1:
        raise Violation(CHECKER, f"{name} was committed at several timestamps: {found}")
    if record.fate is Fate.NOT and found:
        raise Violation(CHECKER, f"{name} is there: {found}")
    if record.fate is Fate.COMMITTED and record.writes:
        if not found:
            raise Violation(CHECKER, f"{name} is not there: it wrote {sorted(record.writes)}")
        if record.commit_ts != next(iter(found.values())):
            raise Violation(CHECKER, f"{name} was said to commit at {record.commit_ts}, and is there at {found}")


def _check_reads(record: TxnRecord, chains: Mapping[bytes, Sequence[StoredVersion]]) -> None:
    for key, elements in record.reads.items():
        seen = [version for version in chains.get(key, ()) if version.commit_ts <= record.start_ts]
        truth = seen[-1].elements if seen else ()
        if elements != truth:
            raise Violation(
                CHECKER,
                f"transaction {record.element} has read {list(elements)} from {key!r} at {record.start_ts}; that was "
                f"{list(truth)} then",
            )
