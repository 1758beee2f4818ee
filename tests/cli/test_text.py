from __future__ import annotations

import time

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.cli.text import escaped, from_text, shorten, shown


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"user:1", "user:1"),
        ("Grüße 東京".encode(), "Grüße 東京"),
        (b"a\tb\nc\r", "a\\tb\\nc\\r"),
        (b"C:\\dir", "C:\\\\dir"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xff\x00", "\\xff\\x00"),
        ("\x9b31m\u2028".encode(), "\\xc2\\x9b31m\\xe2\\x80\\xa8"),
    ],
)
def test_what_would_break_a_line_or_move_a_cursor_is_escaped(data: bytes, text: str) -> None:
    assert escaped(data) == text
    assert shown(data, is_hex=False) == text
    assert shown(data, is_hex=True) == data.hex()


@given(st.binary(max_size=40))
def test_escaping_loses_nothing_and_stays_on_one_line(data: bytes) -> None:
    text = escaped(data)
    assert len(text.splitlines()) <= 1
    assert text.encode().decode("unicode_escape").encode("latin-1") == data


@given(st.binary(max_size=40))
def test_bytes_from_the_shell_arrive_as_they_are(data: bytes) -> None:
    assert from_text(data.decode("utf-8", "surrogateescape"), "KEY", is_hex=False) == data
    assert from_text(data.hex(), "KEY", is_hex=True) == data


@pytest.mark.parametrize("text", ["6", "zz", "0x6b", "kéy"])
def test_bad_hexadecimal_is_named(text: str) -> None:
    with pytest.raises(click.UsageError, match=f"KEY: {text!r} is not hexadecimal"):
        from_text(text, "KEY", is_hex=True)


def test_long_texts_are_cut() -> None:
    assert shorten("a" * 60) == "a" * 60
    assert shorten("a" * 61) == "a" * 59 + "…"


def test_a_large_binary_value_is_escaped_in_no_time() -> None:
    before = time.process_time()
    assert len(escaped(bytes(range(256)) * 8000)) > 2048000
    assert time.process_time() - before < 1
