from __future__ import annotations

import pytest

from pytinykv.wire.cf import DEFAULT, RAW_COLUMN_FAMILIES, InvalidRawFamilyError, raw_column_family
from pytinykv.wire.keys import next_key
from pytinykv.wire.limits import KEY_BYTES_MAX, bound_problem, key_problem


def test_the_longest_key_is_accepted_and_one_byte_more_is_not() -> None:
    assert key_problem(b"k" * KEY_BYTES_MAX) is None
    assert key_problem(b"k" * (KEY_BYTES_MAX + 1)) == "key is too long: 8193 bytes, at most 8192 are allowed"


def test_an_empty_key_is_refused_but_bounds_a_range() -> None:
    assert key_problem(b"") == "key is empty: a key has at least one byte"
    assert bound_problem(b"") is None


def test_every_range_of_keys_can_be_bounded() -> None:
    assert bound_problem(next_key(b"k" * KEY_BYTES_MAX)) is None


def test_the_upper_bound_that_a_foreign_client_sends_for_no_bound_is_accepted() -> None:
    assert bound_problem(b"\xff" * 8193) is None
    assert bound_problem(b"\xff" * 8194) == "bound is too long: 8194 bytes, at most 8193 are allowed"


def test_an_empty_column_family_is_the_default_one() -> None:
    assert raw_column_family("") == DEFAULT
    assert [raw_column_family(name) for name in RAW_COLUMN_FAMILIES] == ["default", "lock", "write"]


@pytest.mark.parametrize("name", ["raft", "raw", "Default", " ", "default\0"])
def test_an_unknown_column_family_is_named_together_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidRawFamilyError, match="use default, lock or write") as raised:
        raw_column_family(name)
    assert repr(name) in str(raised.value)
