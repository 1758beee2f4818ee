from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytinykv.wire.keys import (
    KeyCodecError,
    decode_bytes,
    decode_bytes_prefix,
    decode_key_with_ts,
    describe_key,
    encode_bytes,
    encode_key_with_ts,
    next_key,
    prefix_successor,
    strip_ts,
)
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

KEYS = st.binary(max_size=40)
TIMESTAMPS = st.integers(min_value=0, max_value=MAX_TIMESTAMP).map(Timestamp)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        (b"", "0000000000000000f7"),
        (b"a", "6100000000000000f8"),
        (b"1234567", "31323334353637 00fe"),
        (b"12345678", "3132333435363738ff 0000000000000000f7"),
        (b"123456789", "3132333435363738ff 3900000000000000f8"),
        (b"\xff" * 8, "ffffffffffffffffff 0000000000000000f7"),
    ],
)
def test_encoding_has_the_published_bytes(key: bytes, encoded: str) -> None:
    assert encode_bytes(key) == bytes.fromhex(encoded)
    assert decode_bytes(bytes.fromhex(encoded)) == key


@pytest.mark.tinykv("TestEncodeKey")
@pytest.mark.parametrize(
    ("key", "timestamp", "encoded"),
    [
        (b"", 0, "0000000000000000f7 ffffffffffffffff"),
        (b"\x2a", 0, "2a00000000000000f8 ffffffffffffffff"),
        (b"\x2a\x00\x05", 0, "2a00050000000000fa ffffffffffffffff"),
        (b"\x2a", MAX_TIMESTAMP - 43543258743295, "2a00000000000000f8 0000279a347841ff"),
        (b"\x2a\x00\x05", MAX_TIMESTAMP - 98753868, "2a00050000000000fa 0000000005e2dd4c"),
    ],
)
def test_a_version_is_stored_as_encoded_key_and_inverted_timestamp(key: bytes, timestamp: int, encoded: str) -> None:
    assert encode_key_with_ts(key, Timestamp(timestamp)) == bytes.fromhex(encoded)


@pytest.mark.tinykv("TestEncodeKey")
def test_versions_sort_by_key_first_whatever_their_timestamps() -> None:
    assert encode_key_with_ts(b"\x2a", Timestamp(238)) < encode_key_with_ts(b"\xc8", Timestamp(0))
    assert encode_key_with_ts(b"\x2a", Timestamp(238)) < encode_key_with_ts(b"\x2a\x00", Timestamp(0))


@pytest.mark.tinykv("TestDecodeKey")
@given(key=KEYS, timestamp=TIMESTAMPS)
@example(key=b"", timestamp=Timestamp(0))
@example(key=b"\x2a", timestamp=Timestamp(2342342355436234))
@example(key=b"\x2a\x00\x05", timestamp=Timestamp(234234))
def test_decoding_a_version_gives_back_key_and_timestamp(key: bytes, timestamp: Timestamp) -> None:
    encoded = encode_key_with_ts(key, timestamp)
    assert decode_key_with_ts(encoded) == (key, timestamp)
    assert strip_ts(encoded) == encode_bytes(key)


@given(one=KEYS, other=KEYS)
@example(one=b"a", other=b"a\x00")
@example(one=b"a" * 8, other=b"a" * 8 + b"\x00")
@example(one=b"\xff" * 8, other=b"\xff" * 9)
def test_encoding_keeps_the_order_and_no_encoded_key_is_a_prefix_of_another(one: bytes, other: bytes) -> None:
    """Invariant 1 of `wire.keys`."""
    assert (one < other) == (encode_bytes(one) < encode_bytes(other))
    assert one == other or not encode_bytes(one).startswith(encode_bytes(other))


@given(one=st.tuples(KEYS, TIMESTAMPS), other=st.tuples(KEYS, TIMESTAMPS))
def test_versions_sort_by_key_then_newest_first(one: tuple[bytes, Timestamp], other: tuple[bytes, Timestamp]) -> None:
    wanted = (one[0], -one[1]) < (other[0], -other[1])
    assert wanted == (encode_key_with_ts(*one) < encode_key_with_ts(*other))


GARBAGE = st.one_of(
    st.binary(max_size=40),
    # Nearly right: a valid encoding with one byte changed, cut or added.
    st.builds(
        lambda key, at, byte: (encoded := bytearray(encode_bytes(key)), encoded.__setitem__(at % len(encoded), byte))[
            0
        ],
        KEYS,
        st.integers(0, 100),
        st.integers(0, 255),
    ).map(bytes),
    st.builds(lambda key, cut: encode_bytes(key)[:cut], KEYS, st.integers(0, 45)),
    st.builds(lambda key, rest: encode_bytes(key) + rest, KEYS, st.binary(max_size=10)),
)


@given(garbage=GARBAGE)
def test_every_key_has_one_encoding_and_garbage_raises_only_the_decode_error(garbage: bytes) -> None:
    """Invariant 2 of `wire.keys`: what decodes, encodes to the same bytes again."""
    try:
        key = decode_bytes(garbage)
    except KeyCodecError:
        return
    assert encode_bytes(key) == garbage


@given(garbage=GARBAGE)
def test_garbage_for_a_version_raises_only_the_decode_error(garbage: bytes) -> None:
    try:
        key, timestamp = decode_key_with_ts(garbage)
    except KeyCodecError:
        with pytest.raises(KeyCodecError):
            strip_ts(garbage)
    else:
        assert encode_key_with_ts(key, timestamp) == garbage


@pytest.mark.parametrize(
    ("encoded", "problem"),
    [
        ("", "ends within a group"),
        ("6100000000000000", "ends within a group"),
        ("3132333435363738ff", "ends within a group"),
        ("6100000000000000f6", "marker byte 0xf6"),
        ("6100000000000001f8", "padding is not zero"),
        ("0100000000000000f7", "padding is not zero"),
        ("6100000000000000f8 00", "1 bytes follow"),
    ],
)
def test_the_decode_error_says_what_is_wrong(encoded: str, problem: str) -> None:
    with pytest.raises(KeyCodecError, match=problem):
        decode_bytes(bytes.fromhex(encoded))


def test_a_boundary_with_a_truncated_timestamp_is_refused() -> None:
    with pytest.raises(KeyCodecError, match="8-byte timestamp"):
        strip_ts(encode_key_with_ts(b"k", Timestamp(1))[:-1])


def test_a_prefix_decodes_with_what_follows_it() -> None:
    assert decode_bytes_prefix(encode_bytes(b"table") + b"rest") == (b"table", b"rest")


@given(key=KEYS, other=KEYS)
def test_nothing_sorts_between_a_key_and_the_next(key: bytes, other: bytes) -> None:
    assert not key < other < next_key(key)


@given(prefix=st.binary(max_size=4), key=st.binary(max_size=6))
@example(prefix=b"", key=b"")
@example(prefix=b"\xff", key=b"\xff\xff")
@example(prefix=b"a\xff", key=b"b")
def test_the_successor_of_a_prefix_bounds_exactly_its_keys(prefix: bytes, key: bytes) -> None:
    end = prefix_successor(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end == b"" or key < end))


def test_a_long_key_is_shown_cut_and_with_its_length() -> None:
    assert describe_key(b"user\x00") == r"b'user\x00'"
    assert describe_key(b"k" * 65) == f"{b'k' * 64!r}… (65 bytes)"
