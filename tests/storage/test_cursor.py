"""What every engine's cursor must do, on the engine, on a snapshot, and on a snapshot that a write has pinned."""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.storage.engines import Harness, make_harness, put
from tests.storage.test_rocks_traps import close_damaged, damaged_database

from pytinykv.storage import ColumnFamily, CorruptionError, Cursor, EngineClosedError, RocksEngine
from pytinykv.storage.engine import Reader

RAW, LOCK = ColumnFamily.RAW, ColumnFamily.LOCK
PAIRS = [(b"k%03d" % number, b"v%d" % number) for number in range(0, 40, 2)]
BOUNDS = [(b"", None), (b"k010", None), (b"", b"k030"), (b"k010", b"k030"), (b"k011", b"k029"), (b"k020", b"k010")]


@pytest.fixture(params=["memory", "rocks"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    harness = make_harness(request.param, tmp_path)
    put(harness.engine, RAW, *PAIRS)
    put(harness.engine, LOCK, (b"k005", b"of another family"))
    yield harness
    harness.close()


@pytest.fixture(params=["engine", "snapshot", "pinned snapshot"])
def reader(request: pytest.FixtureRequest, harness: Harness) -> Reader:
    if request.param == "engine":
        return harness.engine
    snapshot = harness.engine.snapshot()
    if request.param == "pinned snapshot":
        put(harness.engine, RAW, (b"k007", b"later"))
    return snapshot


class Model:
    """What a cursor does, on a list."""

    def __init__(self, start: bytes, end: bytes | None) -> None:
        self.keys = [key for key, _ in PAIRS if key >= start and (end is None or key < end)]
        self.at: int | None = None

    def _go(self, index: int) -> bytes | None:
        self.at = index if 0 <= index < len(self.keys) else None
        return None if self.at is None else self.keys[self.at]

    def seek(self, key: bytes) -> bytes | None:
        return self._go(bisect_left(self.keys, key))

    def seek_for_prev(self, key: bytes) -> bytes | None:
        return self._go(bisect_right(self.keys, key) - 1)

    def seek_to_first(self) -> bytes | None:
        return self._go(0)

    def seek_to_last(self) -> bytes | None:
        return self._go(len(self.keys) - 1)

    def next(self) -> bytes | None:
        return None if self.at is None else self._go(self.at + 1)

    def prev(self) -> bytes | None:
        return None if self.at is None else self._go(self.at - 1)


def walk_at_random(cursors: list[tuple[Cursor, Model]], rng: Random, steps: int) -> None:
    """Move cursors in turns; each must stand where its model does, whatever the others do."""
    for _ in range(steps):
        cursor, model = rng.choice(cursors)
        move = rng.choice(
            ["seek", "seek_for_prev", "next", "next", "next", "prev", "prev", "seek_to_first", "seek_to_last"]
        )
        arguments = [b"k%03d" % rng.randrange(-1, 42)] if move in {"seek", "seek_for_prev"} else []
        expected = getattr(model, move)(*arguments)
        assert getattr(cursor, move)(*arguments) == expected, (move, arguments)
        assert cursor.key == expected
        if expected is not None:
            assert cursor.value() == dict(PAIRS)[expected]


def test_a_cursor_goes_where_it_is_sent(reader: Reader) -> None:
    for start, end in BOUNDS:
        cursor = reader.cursor(RAW, start, end)
        assert cursor.key is cursor.next() is cursor.prev() is None
        walk_at_random([(cursor, Model(start, end))], Random(1), 400)


def test_cursors_of_one_family_do_not_disturb_each_other(reader: Reader) -> None:
    walk_at_random([(reader.cursor(RAW, start, end), Model(start, end)) for start, end in BOUNDS], Random(2), 2000)


def test_a_value_can_be_read_after_another_cursor_has_moved(reader: Reader) -> None:
    one, other = reader.cursor(RAW), reader.cursor(RAW)
    one.seek(b"k010")
    other.seek(b"k020")
    assert (one.value(), other.value()) == (b"v10", b"v20")
    assert (one.next(), one.prev(), other.prev()) == (b"k012", b"k010", b"k018")


@pytest.mark.parametrize("reverse", [False, True])
def test_pairs_that_alternate_with_other_cursors_are_complete(reader: Reader, reverse: bool) -> None:
    other = reader.cursor(RAW)
    seen = []
    for pair in reader.cursor(RAW, b"k010", b"k030").pairs(reverse=reverse):
        other.seek(b"k034")
        seen.append(pair)
    assert seen == (PAIRS[5:15][::-1] if reverse else PAIRS[5:15])


def test_pairs_begin_where_they_are_told(reader: Reader) -> None:
    for start, end in BOUNDS:
        within = [pair for pair in PAIRS if pair[0] >= start and (end is None or pair[0] < end)]
        for seek in (b"", b"k009", b"k010", b"k011", b"k012", b"k029", b"k030", b"z"):
            cursor = reader.cursor(RAW, start, end)
            forwards, backwards = list(cursor.pairs(seek=seek)), list(cursor.pairs(reverse=True, seek=seek))
            assert forwards == [pair for pair in within if pair[0] >= seek], (start, end, seek)
            assert backwards == [pair for pair in within[::-1] if pair[0] <= seek], (start, end, seek)


def test_an_iteration_that_was_given_up_can_be_begun_elsewhere(reader: Reader) -> None:
    cursor = reader.cursor(RAW, b"k010", b"k030")
    for _ in cursor.pairs():
        break
    assert next(iter(cursor.pairs(seek=b"k020")))[0] == b"k020"
    assert cursor.seek(b"k013") == b"k014"


def test_a_cursor_keeps_its_state_while_everything_changes(reader: Reader, harness: Harness) -> None:
    cursor = reader.cursor(RAW)
    cursor.seek(b"k010")
    batch = harness.engine.write_batch()
    batch.delete_range(RAW, b"k", b"l")
    batch.put(RAW, b"k013", b"new")
    harness.engine.write(batch)
    assert cursor.value() == b"v10"
    walk_at_random([(cursor, Model(b"", None))], Random(3), 200)


MOVES: list[Callable[[Cursor], object]] = [
    lambda cursor: cursor.seek(b"k010"),
    lambda cursor: cursor.seek_for_prev(b"k010"),
    lambda cursor: cursor.seek_to_first(),
    lambda cursor: cursor.seek_to_last(),
    lambda cursor: cursor.next(),
    lambda cursor: cursor.prev(),
    lambda cursor: next(cursor.pairs()),
    lambda cursor: next(cursor.pairs(seek=b"k010")),
]


@pytest.mark.parametrize("closed", ["cursor", "with", "reader", "engine"])
def test_a_closed_cursor_says_so(reader: Reader, harness: Harness, closed: str) -> None:
    cursor = reader.cursor(RAW)
    cursor.seek_to_first()
    scan = reader.cursor(RAW).pairs()
    next(scan)
    match closed:
        case "cursor":
            cursor.close()
            cursor.close()
        case "with":
            with cursor:
                pass
        case "reader":
            reader.close()  # type: ignore[attr-defined]  # an engine or a snapshot
        case _:
            harness.engine.close()
    assert cursor.key is None
    for move in MOVES:
        with pytest.raises(EngineClosedError):
            move(cursor)
    if closed in {"reader", "engine"}:
        with pytest.raises(EngineClosedError):
            next(scan)
        with pytest.raises(EngineClosedError):
            reader.cursor(RAW)


def test_a_cursor_that_is_dropped_is_gone_at_once(reader: Reader) -> None:
    """What it holds keeps old versions on the disk: that must not wait for the garbage collector."""
    cursor = reader.cursor(RAW)
    cursor.seek_to_first()
    dropped = weakref.ref(cursor)
    del cursor
    assert dropped() is None


def test_the_value_of_nowhere_is_a_programming_error(reader: Reader) -> None:
    cursor = reader.cursor(RAW, b"k010", b"k012")
    cursor.seek_to_first()
    cursor.next()
    with pytest.raises(AssertionError, match="stands on no pair"):
        cursor.value()


def walk_to_the_end(cursor: Cursor, move: str) -> None:
    if move == "prev":
        cursor.seek_to_last()
    else:
        cursor.seek_to_first()
    while (key := cursor.key) is not None:
        if move == "seek":
            cursor.seek(key + b"\x00")
        else:
            getattr(cursor, move)()


@pytest.mark.parametrize("move", ["next", "prev", "seek"])
def test_a_cursor_names_the_damaged_file(tmp_path: Path, move: str) -> None:
    path, file = damaged_database(tmp_path)
    engine = RocksEngine.open(path)
    with pytest.raises(CorruptionError) as caught:
        walk_to_the_end(engine.cursor(RAW), move)
    assert caught.value.file == file
    del caught  # its traceback holds frames that hold RocksDB's iterators
    close_damaged(engine)
