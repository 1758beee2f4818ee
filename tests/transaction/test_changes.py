"""What single changes are in the engine: keys, families, bytes (TinyKV's part 4A)."""

from __future__ import annotations

import pytest

from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.storage.changes import DELETE, PUT, add_changes
from pytinykv.transaction import ConcurrencyManager, MvccReader
from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.records import Lock, LockKind, Write, WriteKind
from pytinykv.transaction.results import DONE
from pytinykv.transaction.stored_keys import encode_bytes, user_key

KEY = encode_bytes(b"k")
LOCK = Lock(kind=LockKind.PUT, primary=b"k", start_ts=5, ttl_ms=100)
AT_5 = bytes.fromhex("fffffffffffffffa")


@pytest.fixture
def changes() -> TxnChanges:
    return TxnChanges(ConcurrencyManager())


@pytest.mark.tinykv("TestPutLock4A")
def test_a_lock_stands_at_the_encoded_key(changes: TxnChanges) -> None:
    changes.put_lock(b"k", KEY, LOCK, is_new=True)
    assert changes.finish(DONE).changes == [(PUT, 1, b"k\0\0\0\0\0\0\0\xf8", b"P\x02k\x05d")]
    assert [info.key for info in changes.new_locks] == [b"k"]


@pytest.mark.tinykv("TestDeleteLock4A")
def test_unlocking_deletes_it_and_tells_who_is_released(changes: TxnChanges) -> None:
    changes.unlock(b"k", KEY, 5, 7)  # type: ignore[arg-type]
    assert changes.changes == [(DELETE, 1, KEY)]
    assert [(lock.key, lock.start_ts, lock.commit_ts) for lock in changes.released] == [(b"k", 5, 7)]


@pytest.mark.tinykv("TestPutWrite4A")
def test_a_record_stands_behind_its_inverted_commit_ts(changes: TxnChanges) -> None:
    changes.put_write(KEY, 5, Write(kind=WriteKind.DELETE, start_ts=3))  # type: ignore[arg-type]
    assert changes.changes == [(PUT, 2, KEY + AT_5, b"D\x03")]


@pytest.mark.tinykv("TestPutValue4A")
def test_a_long_value_stands_behind_its_inverted_start_ts(changes: TxnChanges) -> None:
    changes.put_value(KEY, 5, b"value")  # type: ignore[arg-type]
    assert changes.changes == [(PUT, 0, KEY + AT_5, b"value")]


@pytest.mark.tinykv("TestDeleteValue4A")
def test_a_long_value_is_deleted_by_its_start_ts(changes: TxnChanges) -> None:
    changes.delete_value(KEY, 5)  # type: ignore[arg-type]
    assert changes.changes == [(DELETE, 0, KEY + AT_5)]


@pytest.mark.tinykv("TestGetLock4A")
def test_a_lock_is_read_back(changes: TxnChanges) -> None:
    engine = MemoryEngine()
    changes.put_lock(b"k", KEY, LOCK, is_new=True)
    batch = engine.write_batch()
    add_changes(batch, changes.changes)
    engine.write(batch)
    reader = MvccReader(engine)
    assert reader.load_lock(KEY) == LOCK
    assert reader.load_lock(encode_bytes(b"other")) is None
    assert engine.get(ColumnFamily.LOCK, KEY) is not None
    reader.close()
    engine.close()


@pytest.mark.parametrize("key", [b"", b"1234567", b"12345678", b"123456789", bytes(16), b"\xff" * 24])
def test_user_keys_come_back_from_stored_ones(key: bytes) -> None:
    assert user_key(encode_bytes(key)) == key
