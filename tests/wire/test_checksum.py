from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.wire.checksum import RangeChecksum, checksum_pairs

PAIRS = st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=6)


def test_one_pair_has_the_catalogued_check_value_of_crc64_xz() -> None:
    for split in range(10):
        pair = (b"123456789"[:split], b"123456789"[split:])
        assert checksum_pairs([pair]) == RangeChecksum(checksum=0x995DC9BBDF1939FA, total_kvs=1, total_bytes=9)


def test_an_empty_range_has_checksum_zero() -> None:
    assert checksum_pairs([]) == RangeChecksum(checksum=0, total_kvs=0, total_bytes=0)


@given(one=PAIRS, other=PAIRS)
def test_checksums_of_parts_combine_to_the_checksum_of_the_whole(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    assert checksum_pairs(one) ^ checksum_pairs(other) == checksum_pairs(other + one)
