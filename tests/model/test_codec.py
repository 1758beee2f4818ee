"""The version byte that leads every stored record; the golden bytes of each record are beside its package's tests."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.strategies import regions

from pytinykv.model import FormatError, Region, RegionId, encode, record_decoder

decode = record_decoder(Region, "region")


@given(regions)
def test_what_is_encoded_decodes_to_the_same(region: Region) -> None:
    assert decode(encode(region)) == region


@pytest.mark.parametrize("stored", [b"", b"\x00\x91\x01", b"\x02\x91\x01"])
def test_another_version_is_refused_by_name(stored: bytes) -> None:
    with pytest.raises(FormatError, match=f"^region: format version {stored[0] if stored else 'missing'} is not 1"):
        decode(stored)


@given(st.binary(max_size=40))
def test_garbage_raises_nothing_but_the_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode(b"\x01" + data)


def test_fields_of_a_newer_version_are_ignored_and_missing_ones_have_their_defaults() -> None:
    assert decode(bytes.fromhex("019602c400c400920000902a")) == Region(RegionId(2))
    assert decode(bytes.fromhex("019102")) == Region(RegionId(2))
