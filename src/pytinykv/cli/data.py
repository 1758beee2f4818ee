"""`tinykv get`, `put`, `delete`, `scan`: raw keys and values from the shell."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from pytinykv.cli.options import option
from pytinykv.cli.session import NOT_DONE, Target, client_options, run_client
from pytinykv.cli.text import escaped, from_text, shorten, shown, value_from
from pytinykv.wire.limits import TTL_S_MAX

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient

FAMILIES: Final = ("default", "lock", "write")


def data_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what the commands for data take."""
    family = option(
        "--cf",
        type=click.Choice(FAMILIES),
        default="default",
        show_default=True,
        help="Column family: name spaces that share nothing.",
    )
    in_hex = option("--hex", "is_hex", is_flag=True, help="Keys and values in hexadecimal, for binary ones.")
    return client_options(family(in_hex(function)))


def checked_name(text: str, *, is_hex: bool) -> bytes:
    """Return the key that an argument names. Raises `click.UsageError` for what can be none."""
    from pytinykv.wire.limits import key_problem

    key = from_text(text, "KEY", is_hex=is_hex)
    if problem := key_problem(key):
        raise click.UsageError(f"KEY: {problem}")
    return key


@click.command()
@click.argument("key")
@option("--raw", is_flag=True, help="Print the value's bytes and nothing else, no line end either.")
@data_options
def get(
    key: str,
    *,
    raw: bool,
    cf: str,
    is_hex: bool,
    target: Target,
) -> None:
    """Print the value of KEY. Exit status 1 if there is no such key.

    A KEY that begins with a dash goes behind `--`, as in: tinykv get -- -5
    """
    name = checked_name(key, is_hex=is_hex)

    async def body(client: AsyncClient) -> int:
        value = await client.raw.get(name, cf=cf)
        if value is None:
            print(f"tinykv get: no such key: {shorten(shown(name, is_hex=is_hex))}", file=sys.stderr)
            return 1
        if raw:
            sys.stdout.buffer.write(value)
        elif is_hex:
            print(value.hex())
        else:
            return print_text(value, "get")
        return 0

    sys.exit(run_client(target, body))


def print_text(value: bytes, command: str) -> int:
    """Print a value as it is; to a terminal, with control characters made harmless."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        print(
            f"tinykv {command}: the value ({len(value)} bytes) is not UTF-8 text; --hex shows it, --raw prints the bytes",
            file=sys.stderr,
        )
        return NOT_DONE
    if sys.stdout.isatty():
        text = "\n".join(escaped(line.encode()) if not line.isprintable() else line for line in text.split("\n"))
    sys.stdout.buffer.write(text.encode() + b"\n")
    return 0


@click.command()
@click.argument("key")
@click.argument("value")
@option(
    "--ttl", type=click.IntRange(1, TTL_S_MAX), default=None, metavar="SECONDS", help="Let it vanish after this time."
)
@data_options
def put(
    key: str,
    value: str,
    *,
    ttl: int | None,
    cf: str,
    is_hex: bool,
    target: Target,
) -> None:
    """Set KEY to VALUE; with - for VALUE, to what standard input holds.

    When it returns with status 0, a majority of the region's stores has it on disk. A KEY or VALUE that begins with a
    dash goes behind `--`, as in: tinykv put -- temperature -5
    """
    name = checked_name(key, is_hex=is_hex)
    content = value_from(value, "VALUE", is_hex=is_hex)

    async def body(client: AsyncClient) -> None:
        await client.raw.put(name, content, ttl=ttl, cf=cf)

    sys.exit(run_client(target, body))


@click.command()
@click.argument("key")
@data_options
def delete(key: str, *, cf: str, is_hex: bool, target: Target) -> None:
    """Remove KEY. Fine if it does not exist."""
    name = checked_name(key, is_hex=is_hex)

    async def body(client: AsyncClient) -> None:
        await client.raw.delete(name, cf=cf)

    sys.exit(run_client(target, body))


@click.command()
@click.argument("start", default="")
@click.argument("end", default="")
@option("--prefix", default=None, help="Only keys that begin with this; instead of START and END.")
@option("--limit", type=click.IntRange(min=0), default=None, help="At most so many.  [default: all]")
@option("--reverse", is_flag=True, help="From the last key to the first.")
@option("--keys-only", is_flag=True, help="Keys without values.")
@data_options
def scan(
    start: str,
    end: str,
    *,
    prefix: str | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    cf: str,
    is_hex: bool,
    target: Target,
) -> None:
    r"""List keys and values from START on, below END, in key order: KEY, tab, VALUE.

    Tabs, line ends, backslashes, control characters and bytes that are not UTF-8 are shown as \t \n \\ \x1b; --hex shows
    all bytes. --timeout holds for each page that is fetched.
    """
    if prefix is not None and (start or end):
        raise click.UsageError("give either --prefix or START and END, not both")
    first = from_text(start, "START", is_hex=is_hex)
    last = from_text(end, "END", is_hex=is_hex)
    if first and last and first >= last:
        raise click.UsageError(f"no key can be in it: START ({start}) is not below END ({end})")
    stem = None if prefix is None else from_text(prefix, "--prefix", is_hex=is_hex)

    async def body(client: AsyncClient) -> None:
        pairs = client.raw.scan(
            first, last or None, prefix=stem, limit=limit, reverse=reverse, key_only=keys_only, cf=cf
        )
        async for key, value in pairs:
            line = (
                shown(key, is_hex=is_hex) if keys_only else "\t".join(shown(it, is_hex=is_hex) for it in (key, value))
            )
            sys.stdout.buffer.write(line.encode() + b"\n")

    sys.exit(run_client(target, body))
