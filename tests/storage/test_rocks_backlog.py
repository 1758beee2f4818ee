"""How long a write is held back while RocksDB lags behind, and that RocksDB itself never holds one back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.storage.engines import put

from pytinykv.storage import ColumnFamily, RocksConfig, RocksEngine
from pytinykv.storage.rocks_backlog import CHECKS_A_BUFFER, LEVEL_0_FILES_MAX, POLL_S, Backlog

RAW = ColumnFamily.RAW
CONFIG = RocksConfig(write_buffer_bytes=8000, unflushed_bytes_max=20_000, hold_back_max_s=0.5)
CHECKED = CONFIG.write_buffer_bytes // CHECKS_A_BUFFER + 1
"""A write of so many bytes is one before which it looks."""


class Column:
    """Stands in for rocksdict's object of a column family: says how far RocksDB is."""

    def __init__(self) -> None:
        self.unflushed_bytes = 0
        self.level_0_files = 0
        self.errors = 0

    def property_int_value(self, name: str) -> int:
        return {"rocksdb.cur-size-all-mem-tables": self.unflushed_bytes, "rocksdb.background-errors": self.errors}[name]

    def property_value(self, name: str) -> str:
        return {"rocksdb.num-files-at-level0": str(self.level_0_files)}[name]


class Time:
    """A clock that goes on only while the backlog sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens during each sleep."""

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        self.meanwhile()


def make(columns: int = 2) -> tuple[Backlog, list[Column], Time]:
    found, time = [Column() for _ in range(columns)], Time()
    return Backlog(found, CONFIG, now=lambda: time.now_s, sleep=time.sleep), found, time


def test_a_small_backlog_holds_nothing_back() -> None:
    backlog, (first, second), time = make()
    first.unflushed_bytes = second.unflushed_bytes = CONFIG.unflushed_bytes_max // 2
    first.level_0_files = LEVEL_0_FILES_MAX
    backlog.before_write(CHECKED)
    assert time.slept_s == []


def test_a_write_waits_until_memtables_were_flushed() -> None:
    backlog, (first, second), time = make()
    first.unflushed_bytes = second.unflushed_bytes = 15_000

    def flush() -> None:
        second.unflushed_bytes -= 3000

    time.meanwhile = flush
    backlog.before_write(CHECKED)
    assert time.slept_s == [POLL_S] * 4


def test_a_write_waits_until_level_0_was_compacted() -> None:
    backlog, (_, second), time = make()
    second.level_0_files = LEVEL_0_FILES_MAX + 3

    def compact() -> None:
        second.level_0_files = 1

    time.meanwhile = compact
    backlog.before_write(CHECKED)
    assert time.slept_s == [POLL_S]


def test_the_wait_has_an_end_though_nothing_is_flushed() -> None:
    backlog, (first, _), time = make()
    first.unflushed_bytes = 10**9
    backlog.before_write(CHECKED)
    assert abs(sum(time.slept_s) - CONFIG.hold_back_max_s) <= 2 * POLL_S


def test_the_wait_ends_when_a_flush_fails() -> None:
    """The write is to meet the error."""
    backlog, (first, _), time = make()
    first.unflushed_bytes = 10**9

    def fail() -> None:
        first.errors += len(time.slept_s) == 3

    time.meanwhile = fail
    backlog.before_write(CHECKED)
    assert time.slept_s == [POLL_S] * 3


def test_small_writes_are_counted_together() -> None:
    """A look costs as much as a small write, so not each of them looks."""
    backlog, (first, _), time = make()
    first.unflushed_bytes = 10**9
    waited_at = []
    for number in range(1, 31):
        before = len(time.slept_s)
        backlog.before_write(100)
        if len(time.slept_s) > before:
            waited_at.append(number)
    assert waited_at == [11, 22]


def test_rocksdb_itself_holds_no_write_back(tmp_path: Path) -> None:
    """With more files in level 0 than RocksDB suffers by default, and no compaction that could take them away."""
    config = RocksConfig(write_buffer_bytes=64 * 1024, hold_back_max_s=POLL_S)
    engine = RocksEngine.open(tmp_path / "db", config)
    column = engine._columns[RAW]
    column.set_options({"disable_auto_compactions": "true"})
    for number in range(40):
        put(engine, RAW, (b"%d" % number, b"x" * 10_000))
        column.flush()
    assert int(column.property_value("rocksdb.num-files-at-level0")) == 40
    assert column.property_int_value("rocksdb.is-write-stopped") == 0
    assert column.property_int_value("rocksdb.actual-delayed-write-rate") == 0
    put(engine, RAW, (b"goes", b"on"))
    engine.close()


def test_a_memtable_kept_for_a_cursor_holds_nothing_back(tmp_path: Path) -> None:
    """It was flushed: no wait would free it."""
    engine = RocksEngine.open(tmp_path / "db", RocksConfig(unflushed_bytes_max=1 << 20))
    put(engine, RAW, *((b"%06d" % number, b"x" * 1000) for number in range(2000)))
    column = engine._columns[RAW]
    with engine.cursor(RAW) as cursor:
        assert engine._backlog._too_much()
        column.flush()
        assert column.property_int_value("rocksdb.size-all-mem-tables") > 1 << 20
        assert not engine._backlog._too_much()
        assert cursor.seek_to_first() == b"000000"
    engine.close()
