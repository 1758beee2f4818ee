"""`tinykv get`, `put`, `delete`, `cas`, `ttl`: raw keys and values from the shell."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from pytinykv.cli.options import json_option, option
from pytinykv.cli.output import write_json_line
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


def pair_to_data(key: bytes, value: bytes | None, *, is_hex: bool) -> dict[str, str]:
    """Return a pair for JSON: "key" and "value", each as "…_hex" if it is not UTF-8 or `is_hex`; no value for None."""
    named = {"key": key} if value is None else {"key": key, "value": value}
    return dict(_for_json(name, content, is_hex=is_hex) for name, content in named.items())


def _for_json(name: str, content: bytes, *, is_hex: bool) -> tuple[str, str]:
    if not is_hex:
        try:
            return name, content.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return f"{name}_hex", content.hex()


ttl_option = option(
    "--ttl", type=click.IntRange(1, TTL_S_MAX), default=None, metavar="SECONDS", help="Let it vanish after this time."
)


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
@json_option
@data_options
def get(
    key: str,
    *,
    raw: bool,
    as_json: bool,
    cf: str,
    is_hex: bool,
    target: Target,
) -> None:
    """Print the value of KEY. Exit status 1 if there is no such key.

    A KEY that begins with a dash goes behind `--`, as in: tinykv get -- -5

    With --json it prints an object with "key" and "value"; "key_hex" and "value_hex" where they are not UTF-8, or with --hex.
    """
    if raw and as_json:
        raise click.UsageError("give either --raw or --json, not both")
    name = checked_name(key, is_hex=is_hex)

    async def body(client: AsyncClient) -> int:
        value = await client.raw.get(name, cf=cf)
        if value is None:
            return _no_such_key("get", name, is_hex=is_hex)
        if as_json:
            write_json_line(pair_to_data(name, value, is_hex=is_hex))
        elif raw:
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
@ttl_option
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
@click.argument("key")
@click.argument("value")
@option("--expect", default=None, metavar="OLD", help="Only if this is its value now.")
@option("--absent", is_flag=True, help="Only if there is no such key.")
@ttl_option
@json_option
@data_options
def cas(
    key: str,
    value: str,
    *,
    expect: str | None,
    absent: bool,
    ttl: int | None,
    as_json: bool,
    cf: str,
    is_hex: bool,
    target: Target,
) -> None:
    """Compare and swap: set KEY to VALUE if it is as expected, atomically. Exit status 1 if it is not.

    Say what is expected with --expect OLD or --absent. With - for VALUE, it is what standard input holds. Without --ttl
    the new value stays, even if the old one was to end.
    """
    if (expect is None) is not absent:
        raise click.UsageError("say what is expected: either --expect OLD or --absent")
    name = checked_name(key, is_hex=is_hex)
    content = value_from(value, "VALUE", is_hex=is_hex)
    expected = None if expect is None else from_text(expect, "--expect", is_hex=is_hex)

    async def body(client: AsyncClient) -> int:
        swapped, before = await client.raw.compare_and_swap(name, expected, content, ttl=ttl, cf=cf)
        if as_json:
            holds = {} if before is None else dict([_for_json("previous", before, is_hex=is_hex)])
            write_json_line({"swapped": swapped, **holds})
        elif not swapped:
            holds_text = (
                "does not exist" if before is None else f"has the value {shorten(shown(before, is_hex=is_hex))}"
            )
            print(f"tinykv cas: not set: {shorten(shown(name, is_hex=is_hex))} {holds_text}", file=sys.stderr)
        return int(not swapped)

    sys.exit(run_client(target, body))


@click.command()
@click.argument("key")
@json_option
@data_options
def ttl(key: str, *, as_json: bool, cf: str, is_hex: bool, target: Target) -> None:
    """Print after how many seconds KEY vanishes; "never" if it stays. Exit status 1 if there is no such key.

    With --json: {"ttl_s": SECONDS}, null for a key that stays.
    """
    name = checked_name(key, is_hex=is_hex)

    async def body(client: AsyncClient) -> int:
        left = await client.raw.ttl(name, cf=cf)
        if left is None:
            return _no_such_key("ttl", name, is_hex=is_hex)
        stays = math.isinf(left)
        if as_json:
            write_json_line({"ttl_s": None if stays else left})
        else:
            print("never" if stays else f"{left:g}")
        return 0

    sys.exit(run_client(target, body))


def _no_such_key(command: str, name: bytes, *, is_hex: bool) -> int:
    print(f"tinykv {command}: no such key: {shorten(shown(name, is_hex=is_hex))}", file=sys.stderr)
    return 1
