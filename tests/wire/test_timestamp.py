from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.wire import timestamp
from pytinykv.wire.timestamp import LOGICAL_MAX, MAX_TIMESTAMP, PHYSICAL_MAX, compose, decompose

PARTS = st.tuples(st.integers(0, PHYSICAL_MAX), st.integers(0, LOGICAL_MAX))


def test_physical_milliseconds_stand_above_18_bits_of_counter() -> None:
    assert compose(1, 0) == 1 << 18
    assert compose(1_700_000_000_000, 5) == 445_644_800_000_000_005
    assert compose(PHYSICAL_MAX, LOGICAL_MAX) == MAX_TIMESTAMP


@given(parts=PARTS)
def test_taking_apart_undoes_putting_together(parts: tuple[int, int]) -> None:
    stamp = compose(*parts)
    assert decompose(stamp) == parts
    assert (timestamp.physical_ms(stamp), timestamp.logical(stamp)) == parts


@given(one=PARTS, other=PARTS)
def test_timestamps_sort_by_time_then_counter(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (one < other) == (compose(*one) < compose(*other))


@pytest.mark.parametrize(("physical", "logical"), [(0, LOGICAL_MAX + 1), (0, -1), (-1, 0), (PHYSICAL_MAX + 1, 0)])
def test_parts_that_would_overflow_into_each_other_are_refused(physical: int, logical: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        compose(physical, logical)
