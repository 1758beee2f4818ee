"""`tinykv scan`, `count`, `delete-range`: ranges of raw keys from the shell."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pytinykv.cli.data import data_options, pair_to_data
from pytinykv.cli.options import json_option, option
from pytinykv.cli.output import write_json_line
from pytinykv.cli.progress import Progress
from pytinykv.cli.session import Target, run_client
from pytinykv.cli.text import from_text, shown

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient


class Range(NamedTuple):
    """What START, END and --prefix say."""

    start: bytes
    end: bytes | None
    prefix: bytes | None


def range_arguments(function: Callable[..., None]) -> Callable[..., None]:
    """Add START, END and --prefix."""
    prefix = option("--prefix", default=None, help="Only keys that begin with this; instead of START and END.")
    end = click.argument("end", default="")
    return click.argument("start", default="")(end(prefix(function)))


def range_of(start: str, end: str, prefix: str | None, *, is_hex: bool) -> Range:
    """Return the range that the arguments mean. Raises UsageError."""
    if prefix is not None and (start or end):
        raise click.UsageError("give either --prefix or START and END, not both")
    first = from_text(start, "START", is_hex=is_hex)
    last = from_text(end, "END", is_hex=is_hex)
    if first and last and first >= last:
        raise click.UsageError(f"no key can be in it: START ({start}) is not below END ({end})")
    stem = None if prefix is None else from_text(prefix, "--prefix", is_hex=is_hex)
    return Range(first, last or None, stem)


@click.command()
@range_arguments
@option("--limit", type=click.IntRange(min=0), default=None, help="At most so many.  [default: all]")
@option("--reverse", is_flag=True, help="From the last key to the first.")
@option("--keys-only", is_flag=True, help="Keys without values.")
@json_option
@data_options
def scan(
    start: str,
    end: str,
    *,
    prefix: str | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    as_json: bool,
    cf: str,
    is_hex: bool,
    target: Target,
) -> None:
    r"""List keys and values from START on, below END, in key order: KEY, tab, VALUE.

    Tabs, line ends, backslashes, control characters and bytes that are not UTF-8 are shown as \t \n \\ \x1b; --hex shows
    all bytes. --timeout holds for each page that is fetched. With --json, each line is an object with "key" and "value", or
    "key_hex" and "value_hex" where they are not UTF-8, or with --hex.
    """
    wanted = range_of(start, end, prefix, is_hex=is_hex)

    async def body(client: AsyncClient) -> None:
        pairs = client.raw.scan(
            wanted.start, wanted.end, prefix=wanted.prefix, limit=limit, reverse=reverse, key_only=keys_only, cf=cf
        )
        await print_pairs(pairs, keys_only=keys_only, as_json=as_json, is_hex=is_hex)

    sys.exit(run_client(target, body))


async def print_pairs(
    pairs: AsyncIterable[tuple[bytes, bytes]], *, keys_only: bool, as_json: bool, is_hex: bool
) -> None:
    """Print a line for each pair, and on a terminal how far it is if the lines go elsewhere."""

    def show(key: bytes, value: bytes) -> None:
        if as_json:
            write_json_line(pair_to_data(key, None if keys_only else value, is_hex=is_hex))
            return
        cells = (key,) if keys_only else (key, value)
        sys.stdout.buffer.write("\t".join(shown(cell, is_hex=is_hex) for cell in cells).encode() + b"\n")

    await _over(pairs, Progress(is_shown=sys.stderr.isatty() and not sys.stdout.isatty()), show)


@click.command()
@range_arguments
@json_option
@data_options
def count(start: str, end: str, *, prefix: str | None, as_json: bool, cf: str, is_hex: bool, target: Target) -> None:
    """Count the keys from START on and below END, or those with a prefix; without either, all keys.

    It reads all of them, page by page, as scan does: it is no snapshot, and on a terminal it shows how far it is.
    """
    wanted = range_of(start, end, prefix, is_hex=is_hex)

    async def body(client: AsyncClient) -> None:
        progress = Progress(is_shown=sys.stderr.isatty())
        pairs = client.raw.scan(wanted.start, wanted.end, prefix=wanted.prefix, key_only=True, cf=cf)
        await _over(pairs, progress, lambda _key, _value: None)
        if as_json:
            write_json_line({"keys": progress.keys})
        else:
            print(progress.keys)

    sys.exit(run_client(target, body))


async def _over(
    pairs: AsyncIterable[tuple[bytes, bytes]], progress: Progress, show: Callable[[bytes, bytes], Any]
) -> None:
    """Show all pairs, and how far it is."""
    try:
        async for key, value in pairs:
            show(key, value)
            progress.add(key)
    finally:
        progress.close()


@click.command("delete-range")
@range_arguments
@option("--everything", is_flag=True, help="All keys of the column family.")
@data_options
def delete_range(
    start: str, end: str, *, prefix: str | None, everything: bool, cf: str, is_hex: bool, target: Target
) -> None:
    """Remove the keys from START on and below END, or those with a prefix.

    Not atomic: an error in the middle leaves a part of the range deleted. Without START, END and --prefix it wants
    --everything.
    """
    wanted = range_of(start, end, prefix, is_hex=is_hex)
    if everything and (start or end or prefix is not None):
        raise click.UsageError("give either --everything or a range, not both")
    if not everything and not (start or end or prefix):
        raise click.UsageError("say what: START and END, --prefix, or --everything for all keys of the column family")

    async def body(client: AsyncClient) -> None:
        await client.raw.delete_range(wanted.start, wanted.end, prefix=wanted.prefix, everything=everything, cf=cf)

    sys.exit(run_client(target, body))
