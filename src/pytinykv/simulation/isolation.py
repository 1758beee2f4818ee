"""Judges whether transactions that append to lists were under snapshot isolation, from what their clients saw alone.

    T1: append x 1           T2: read x [1], append x 2           T3: read x [1, 2], read y []

A list tells who wrote before whom: the read [1, 2] shows that 1 was appended first. So the dependencies between transactions
follow from the reads (Adya's thesis, 4.4; Elle, VLDB 2020):

    ww  a's append stands right before b's                  b overwrites a
    wr  the last that b's read shows is a's append          b has seen a
    rw  a's read lacks b's append                           a has seen the state before b ("anti-dependency")

Snapshot isolation allows a cycle of them only where two rw follow each other (Fekete et al. 2005; Cerone & Gotsman 2016):
that is write skew. Every other cycle is an anomaly, named by what it is made of:

    G0            ww only                    dirty write
    G1c           ww and wr                  circular information flow
    lost update   one rw, all on one key     both have read the same state and overwritten it
    read skew     one rw                     parts of two states were seen (G-single)
    long fork     several rw, never two in a row

Without a graph: G1a, the read of an append that was rolled back; G1b, the read of a state in the middle of a transaction;
a transaction that does not see its own appends; two reads of a key of which neither begins like the other; an append that
is there twice, or that no transaction has made.

An append that was never read stands behind all that was read of its key.

A transaction of unknown outcome counts as committed once some committed one has seen an append of it. Let a history end with
a read of every key (`is_final`), so that lost appends are seen.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class Outcome(Enum):
    """What a client was told of its transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Append:
    """A value is put at the end of a key's list. No two transactions append the same value to one key."""

    key: bytes
    value: Hashable


@dataclass(frozen=True)
class ListRead:
    """The whole list of a key, as the transaction saw it: with its own appends before."""

    key: bytes
    values: tuple[Hashable, ...]


@dataclass(frozen=True)
class ListTxn:
    """One transaction: its operations in their order."""

    name: str
    operations: tuple[Append | ListRead, ...]
    outcome: Outcome = Outcome.COMMITTED
    is_final: bool = False
    """It began after all others had ended, so it has seen every committed append of the keys that it reads."""


@dataclass(frozen=True)
class Anomaly:
    """A promise that the history broke."""

    kind: str
    transactions: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class _Edge:
    """`target` depends on `source`."""

    source: str
    target: str
    kind: str
    """ww, wr or rw."""
    key: bytes

    def __str__(self) -> str:
        return f"{self.source} -{self.kind}({self.key.decode(errors='replace')})→ {self.target}"


_Appends = dict[tuple[bytes, Hashable], ListTxn]


def check_isolation(transactions: Sequence[ListTxn]) -> list[Anomaly]:
    """Return the anomalies of a history, an empty list if it was under snapshot isolation.

    Dependencies are looked at only if single reads are right: after wrong ones they mean nothing.
    """
    appends = {
        (operation.key, operation.value): txn
        for txn in transactions
        for operation in txn.operations
        if isinstance(operation, Append)
    }
    committed = _committed(transactions, appends)
    found = [anomaly for txn in committed for anomaly in _check_reads(txn, appends)]
    orders, disorder = _orders(committed)
    found += disorder
    found += _lost(committed, orders)
    return found or _check_cycles(list(_dependencies(committed, orders, appends)))


def _committed(transactions: Sequence[ListTxn], appends: _Appends) -> list[ListTxn]:
    """Return the transactions that are committed: those known to be, and those of unknown outcome that they have seen."""
    names = {txn.name for txn in transactions if txn.outcome is Outcome.COMMITTED}
    to_do = [txn for txn in transactions if txn.name in names]
    while to_do:
        for read in _external_reads(to_do.pop()):
            for value in read.values:
                writer = appends.get((read.key, value))
                if writer is not None and writer.outcome is Outcome.UNKNOWN and writer.name not in names:
                    names.add(writer.name)
                    to_do.append(writer)
    return [txn for txn in transactions if txn.name in names]


def _own(txn: ListTxn, key: bytes) -> list[Hashable]:
    return [operation.value for operation in txn.operations if isinstance(operation, Append) and operation.key == key]


def _external_reads(txn: ListTxn) -> Iterator[ListRead]:
    """Yield what a transaction has seen of others: its reads without what it had appended itself by then."""
    own: dict[bytes, list[Hashable]] = {}
    for operation in txn.operations:
        if isinstance(operation, Append):
            own.setdefault(operation.key, []).append(operation.value)
        else:
            mine = len(own.get(operation.key, ()))
            yield ListRead(operation.key, operation.values[: len(operation.values) - mine])


# --- single reads -------------------------------------------------------------------------------------------------


def _check_reads(txn: ListTxn, appends: _Appends) -> Iterator[Anomaly]:
    yield from _check_own(txn)
    for read in _external_reads(txn):
        if len(set(read.values)) != len(read.values):
            yield Anomaly("duplicate", (txn.name,), f"{txn.name} read {read.key!r} with a value twice: {read.values}")
        for value in read.values:
            writer = appends.get((read.key, value))
            if writer is None:
                yield Anomaly(
                    "garbage", (txn.name,), f"{txn.name} read {value!r} in {read.key!r}, which was never appended"
                )
            elif writer.outcome is Outcome.ABORTED:
                text = f"{txn.name} read {value!r} in {read.key!r} of {writer.name}, which was rolled back"
                yield Anomaly("G1a", (writer.name, txn.name), text)
        writer = appends.get((read.key, read.values[-1])) if read.values else None
        if writer is not None and writer.name != txn.name and _own(writer, read.key)[-1] != read.values[-1]:
            text = f"{txn.name} read {read.key!r} up to {read.values[-1]!r}, in the middle of {writer.name}"
            yield Anomaly("G1b", (writer.name, txn.name), text)


def _check_own(txn: ListTxn) -> Iterator[Anomaly]:
    """Check that a transaction sees its own appends, and reads what it has read before."""
    before: dict[bytes, tuple[Hashable, ...]] = {}
    """What the next read of a key has to be, or to end with if it is the first."""
    was_read: set[bytes] = set()
    for operation in txn.operations:
        key, known = operation.key, before.get(operation.key, ())
        if isinstance(operation, Append):
            before[key] = (*known, operation.value)
            continue
        seen = operation.values
        if seen != known if key in was_read else (known and seen[-len(known) :] != known):
            yield Anomaly("internal", (txn.name,), f"{txn.name} read {seen} in {key!r}, where it knew of {known}")
        before[key] = seen
        was_read.add(key)


# --- orders -------------------------------------------------------------------------------------------------------


def _orders(committed: Sequence[ListTxn]) -> tuple[dict[bytes, tuple[Hashable, ...]], list[Anomaly]]:
    """Return the longest list that was read of each key, and the reads that don't begin like it."""
    reads = [
        (operation.key, operation.values, txn.name)
        for txn in committed
        for operation in txn.operations
        if isinstance(operation, ListRead)
    ]
    longest: dict[bytes, tuple[Hashable, ...]] = {}
    for key, values, _ in reads:
        if len(values) > len(longest.get(key, ())):
            longest[key] = values
    wrong = [
        Anomaly("order", (name,), f"{name} read {values} in {key!r}, and others {longest[key]}")
        for key, values, name in reads
        if longest.get(key, ())[: len(values)] != values
    ]
    return longest, wrong


def _lost(committed: Sequence[ListTxn], orders: Mapping[bytes, tuple[Hashable, ...]]) -> Iterator[Anomaly]:
    """Yield the committed appends that the final reads don't show."""
    final_keys = {
        operation.key
        for txn in committed
        if txn.is_final
        for operation in txn.operations
        if isinstance(operation, ListRead)
    }
    for txn in committed:
        for operation in txn.operations:
            if not isinstance(operation, Append) or operation.key not in final_keys:
                continue
            if operation.value not in orders.get(operation.key, ()):
                text = f"{operation.value!r}, appended to {operation.key!r} by {txn.name}, is not there in the end"
                yield Anomaly("lost append", (txn.name,), text)


def _dependencies(
    committed: Sequence[ListTxn], orders: Mapping[bytes, tuple[Hashable, ...]], appends: _Appends
) -> Iterator[_Edge]:
    unread = _unread(committed, orders)
    for key, values in orders.items():
        for first, second in itertools.pairwise(values):
            yield _Edge(appends[key, first].name, appends[key, second].name, "ww", key)
        for name in unread.get(key, ()):
            yield _Edge(appends[key, values[-1]].name, name, "ww", key)
    for txn in committed:
        for read in _external_reads(txn):
            if read.values:
                yield _Edge(appends[read.key, read.values[-1]].name, txn.name, "wr", read.key)
            later = [appends[read.key, value].name for value in orders.get(read.key, ())[len(read.values) :]]
            # To the next one of another transaction only: ww lead on from there.
            known = next((name for name in later if name != txn.name), None)
            for name in unread.get(read.key, ()) if known is None else (known,):
                yield _Edge(txn.name, name, "rw", read.key)


def _unread(committed: Sequence[ListTxn], orders: Mapping[bytes, tuple[Hashable, ...]]) -> dict[bytes, list[str]]:
    """Return those who appended what was never read, by key: it stands behind all that was read, in any order."""
    unread: dict[bytes, list[str]] = {}
    for txn in committed:
        for operation in txn.operations:
            if isinstance(operation, Append) and operation.value not in orders.get(operation.key, ()):
                unread.setdefault(operation.key, []).append(txn.name)
    return unread


# --- cycles -------------------------------------------------------------------------------------------------------


@dataclass
class _Steps:
    """From one transaction to the next by a ww or wr, and by at most one rw behind that: cycles of these are anomalies."""

    by_source: dict[str, list[tuple[str, tuple[_Edge, ...]]]] = field(default_factory=dict)

    def add(self, source: str, target: str, edges: tuple[_Edge, ...]) -> None:
        self.by_source.setdefault(source, []).append((target, edges))

    def on_cycles(self) -> list[str]:
        """Return the transactions that may be on a cycle: what is left when all to which nothing leads are taken away."""
        leading_to: dict[str, int] = dict.fromkeys(self.by_source, 0)
        for steps in self.by_source.values():
            for target, _ in steps:
                leading_to[target] = leading_to.get(target, 0) + 1
        to_do = [name for name, count in leading_to.items() if not count]
        while to_do:
            for target, _ in self.by_source.get(to_do.pop(), ()):
                leading_to[target] -= 1
                if not leading_to[target]:
                    to_do.append(target)
        return [name for name, count in leading_to.items() if count]

    def cycle_through(self, start: str) -> tuple[_Edge, ...] | None:
        """Return the edges of a shortest cycle through a transaction, None if it is on none."""
        came: dict[str, tuple[_Edge, ...]] = {}
        to_do: deque[tuple[str, tuple[_Edge, ...]]] = deque([(start, ())])
        while to_do:
            at, path = to_do.popleft()
            for target, edges in self.by_source.get(at, ()):
                if target == start:
                    return (*path, *edges)
                if target not in came:
                    came[target] = (*path, *edges)
                    to_do.append((target, came[target]))
        return None


_KINDS: Final = {0: "G1c", 1: "read skew"}


def _check_cycles(edges: Sequence[_Edge]) -> list[Anomaly]:
    edges = list(dict.fromkeys(edge for edge in edges if edge.source != edge.target))
    found: dict[frozenset[str], Anomaly] = {}
    # The plainest kinds first: a dirty write is a circular flow, too.
    for kinds in (("ww",), ("ww", "wr"), ("ww", "wr", "rw")):
        steps = _steps([edge for edge in edges if edge.kind in kinds])
        for start in steps.on_cycles():
            cycle = steps.cycle_through(start)
            if cycle is not None:
                names = frozenset(edge.source for edge in cycle)
                if not any(known <= names for known in found):
                    found[names] = _anomaly(cycle)
    return list(found.values())


def _steps(edges: Sequence[_Edge]) -> _Steps:
    anti: dict[str, list[_Edge]] = {}
    for edge in edges:
        if edge.kind == "rw":
            anti.setdefault(edge.source, []).append(edge)
    steps = _Steps()
    for edge in edges:
        if edge.kind != "rw":
            steps.add(edge.source, edge.target, (edge,))
            for behind in anti.get(edge.target, ()):
                steps.add(edge.source, behind.target, (edge, behind))
    return steps


def _anomaly(cycle: tuple[_Edge, ...]) -> Anomaly:
    anti = sum(edge.kind == "rw" for edge in cycle)
    if all(edge.kind == "ww" for edge in cycle):
        kind = "G0"
    elif anti == 1 and len({edge.key for edge in cycle}) == 1 and all(edge.kind != "wr" for edge in cycle):
        kind = "lost update"
    else:
        kind = _KINDS.get(anti, "long fork")
    return Anomaly(kind, tuple(edge.source for edge in cycle), ", ".join(map(str, cycle)))
