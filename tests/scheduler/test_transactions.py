from __future__ import annotations

from pytinykv.model import Region, RegionId
from pytinykv.scheduler.transactions import PlainSplits, plain_bound
from pytinykv.wire.keys import encode_bytes, is_plain


def test_bounds_of_raw_keys_are_plain_and_encoded_ones_are_not() -> None:
    assert is_plain(b"user:1")
    assert not is_plain(encode_bytes(b"user:1"))
    assert not is_plain(b"")
    assert is_plain(encode_bytes(b"a") + b"12345678"), "with a timestamp it is no bound either"


def test_one_plain_bound_is_enough_to_refuse_and_is_named() -> None:
    regions = [Region(RegionId(1), b"", encode_bytes(b"m")), Region(RegionId(2), encode_bytes(b"m"), b"")]
    assert plain_bound(regions) == ""
    assert "region 3 begins at b'x'" in plain_bound([*regions, Region(RegionId(3), b"x", b"")])


def test_a_plain_split_that_was_begun_may_come_for_a_while() -> None:
    splits = PlainSplits(5.0)
    assert splits.left_s(0.0) == 0.0
    splits.begin([encode_bytes(b"m")], 1.0)
    assert splits.left_s(1.0) == 0.0
    splits.begin([b"m"], 1.0)
    assert splits.left_s(2.0) == 4.0
    assert splits.left_s(6.0) == 0.0
