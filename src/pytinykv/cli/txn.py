"""`tinykv txn-get`, `txn-scan`, `mvcc`, `locks`, `gc`: transactional data from the shell, and what lies beneath it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pytinykv.cli.data import checked_name, pair_to_data, print_text
from pytinykv.cli.options import Number, json_option, option
from pytinykv.cli.output import write_json_line
from pytinykv.cli.ranges import print_pairs, range_arguments, range_of
from pytinykv.cli.session import Target, client_options, run_client
from pytinykv.cli.tables import Column, print_table
from pytinykv.cli.text import from_text, shorten, shown
from pytinykv.wire.timestamp import Timestamp, compose, physical_ms

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient
    from pytinykv.client.txn.inspection import KeyHistory, KeyVersion
    from pytinykv.client.txn.records import ForeignLock


def _hex_option(function: Callable[..., None]) -> Callable[..., None]:
    return option("--hex", "is_hex", is_flag=True, help="Keys and values in hexadecimal, for binary ones.")(function)


def _ts_option(function: Callable[..., None]) -> Callable[..., None]:
    return option(
        "--ts", type=click.IntRange(min=1), default=None, metavar="TIMESTAMP", help="As of then.  [default: now]"
    )(function)


SECONDARIES_SHOWN = 8
"""Of an asynchronous commit; `--json` has all."""


@click.command("txn-get")
@click.argument("key")
@option("--raw", is_flag=True, help="Print the value's bytes and nothing else, no line end either.")
@json_option
@_ts_option
@_hex_option
@client_options
def txn_get(key: str, *, raw: bool, as_json: bool, ts: int | None, is_hex: bool, target: Target) -> None:
    """Print the value of KEY that transactions see. Exit status 1 if there is no such key.

    A KEY that begins with a dash goes behind `--`. `tinykv get` reads raw data, which is apart. With --json as that.
    """
    if raw and as_json:
        raise click.UsageError("give either --raw or --json, not both")
    name = checked_name(key, is_hex=is_hex)

    async def body(client: AsyncClient) -> int:
        snapshot = await client.snapshot(ts)
        value = await snapshot.get(name)
        if value is None:
            print(f"tinykv txn-get: no such key: {shorten(shown(name, is_hex=is_hex))}", file=sys.stderr)
            return 1
        if as_json:
            write_json_line(pair_to_data(name, value, is_hex=is_hex))
        elif raw:
            sys.stdout.buffer.write(value)
        elif is_hex:
            print(value.hex())
        else:
            return print_text(value, "txn-get")
        return 0

    sys.exit(run_client(target, body))


@click.command("txn-scan")
@range_arguments
@option("--limit", type=click.IntRange(min=0), default=None, help="At most so many.  [default: all]")
@option("--reverse", is_flag=True, help="From the last key to the first.")
@option("--keys-only", is_flag=True, help="Keys without values.")
@json_option
@_ts_option
@_hex_option
@client_options
def txn_scan(
    start: str,
    end: str,
    *,
    prefix: str | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    as_json: bool,
    ts: int | None,
    is_hex: bool,
    target: Target,
) -> None:
    r"""List keys and values that transactions see, from START on, below END, in key order: KEY, tab, VALUE.

    All of one moment. Tabs, line ends, backslashes, control characters and bytes that are not UTF-8 are shown as
    \t \n \\ \x1b; --hex shows all bytes. With --json, each line is an object as that of `tinykv scan`.
    """
    wanted = range_of(start, end, prefix, is_hex=is_hex)

    async def body(client: AsyncClient) -> None:
        snapshot = await client.snapshot(ts)
        pairs = snapshot.scan(
            wanted.start, wanted.end, prefix=wanted.prefix, limit=limit, reverse=reverse, key_only=keys_only
        )
        await print_pairs(pairs, keys_only=keys_only, as_json=as_json, is_hex=is_hex)

    sys.exit(run_client(target, body))


@click.command()
@click.argument("key")
@json_option
@_hex_option
@client_options
def mvcc(key: str, *, as_json: bool, is_hex: bool, target: Target) -> None:
    """Show every version of KEY, the newest first, and its lock. Exit status 1 if there is nothing."""
    name = checked_name(key, is_hex=is_hex)

    async def body(client: AsyncClient) -> int:
        history = await client.inspector.history(name)
        if as_json:
            print(json.dumps(_history_as_json(history)))
        else:
            _print_history(history, is_hex=is_hex)
        return 0 if history.versions or history.lock else 1

    sys.exit(run_client(target, body))


def _print_history(history: KeyHistory, *, is_hex: bool) -> None:
    key = shown(history.key, is_hex=is_hex)
    if not history.versions and history.lock is None:
        print(f"tinykv mvcc: no version of {shorten(key)}, and no lock", file=sys.stderr)
        return
    print(f"key      {key}")
    if history.lock is None:
        print("lock     none")
    else:
        for name, line in zip(("lock", "", ""), _describe_lock(history.lock, is_hex=is_hex), strict=False):
            print(f"{name:8} {line}")
    if not history.versions:
        print("versions none")
        return
    columns = [
        Column("COMMITTED"),
        Column("COMMIT_TS", is_number=True),
        Column("START_TS", is_number=True),
        Column("KIND"),
        Column("VALUE"),
    ]
    print_table(columns, [_version_row(version, is_hex=is_hex) for version in history.versions])


def _version_row(version: KeyVersion, *, is_hex: bool) -> list[str]:
    value = "" if version.value is None else shorten(shown(version.value, is_hex=is_hex)) or '""'
    is_rollback = version.kind == "rollback"
    kind = version.kind + (" (hides a rollback)" if version.hides_rollback else "")
    moment = "never" if is_rollback else _moment(version.commit_ts)
    return [moment, "" if is_rollback else str(version.commit_ts), str(version.start_ts), kind, value]


def _describe_lock(lock: ForeignLock, *, is_hex: bool) -> list[str]:
    """Return a lock in lines: whose it is, and where it stands."""
    from pytinykv.client.txn.inspection import kind_of

    is_primary = lock.primary == lock.key
    primary = "it is the primary" if is_primary else f"primary {shorten(shown(lock.primary, is_hex=is_hex))}"
    kind = kind_of(lock) + (", async commit" if lock.use_async_commit else "")
    lines = [
        f"{kind}, of transaction {lock.start_ts} ({_moment(lock.start_ts)}), lives {lock.ttl_ms} ms from then on, {primary}"
    ]
    if lock.is_pessimistic:
        lines.append(f"taken at {lock.for_update_ts} ({_moment(lock.for_update_ts)}); nothing is prewritten yet")
    elif lock.min_commit_ts:
        lines.append(f"to be committed at {lock.min_commit_ts} or later")
    if lock.use_async_commit and is_primary:
        keys = [shorten(shown(key, is_hex=is_hex)) for key in lock.secondaries[:SECONDARIES_SHOWN]]
        more = len(lock.secondaries) - len(keys)
        listed = ", ".join(keys) + (f" and {more} more" if more > 0 else "")
        lines.append(f"committed once these are locked, too: {listed}" if keys else "it is the only lock")
    return lines


def _moment(ts: int) -> str:
    try:
        at = datetime.fromtimestamp(physical_ms(Timestamp(ts)) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}"


def _history_as_json(history: KeyHistory) -> dict[str, Any]:
    return {
        "key": history.key.hex(),
        "lock": None if history.lock is None else _lock_as_json(history.lock),
        "versions": [
            {
                "kind": version.kind,
                "start_ts": version.start_ts,
                "commit_ts": version.commit_ts,
                "value": None if version.value is None else version.value.hex(),
                "hides_rollback": version.hides_rollback,
            }
            for version in history.versions
        ],
    }


def _lock_as_json(lock: ForeignLock) -> dict[str, Any]:
    from pytinykv.client.txn.inspection import kind_of

    return {
        "key": lock.key.hex(),
        "kind": kind_of(lock),
        "start_ts": lock.start_ts,
        "primary": lock.primary.hex(),
        "ttl_ms": lock.ttl_ms,
        "for_update_ts": lock.for_update_ts,
        "use_async_commit": lock.use_async_commit,
        "min_commit_ts": lock.min_commit_ts,
        "secondaries": [key.hex() for key in lock.secondaries],
    }


@click.command()
@click.argument("start", default="")
@click.argument("end", default="")
@option("--limit", type=click.IntRange(min=1), default=None, help="At most so many.  [default: all]")
@option("--older-than", type=Number(min=0), default=0.0, metavar="SECONDS", help="Only of transactions so old.")
@json_option
@_hex_option
@client_options
def locks(
    start: str,
    end: str,
    *,
    limit: int | None,
    older_than: float,
    as_json: bool,
    is_hex: bool,
    target: Target,
) -> None:
    """List the locks of transactions on keys from START on, below END.

    A lock that is older than its time to live (AGE_S, TTL_S) has run out, unless its transaction keeps its primary alive; who
    meets it finds out, and so do the stores after the life time of garbage. `tinykv mvcc KEY` tells more of one.
    """
    from pytinykv.client.key_space import KeyRange

    range_ = KeyRange(from_text(start, "START", is_hex=is_hex), from_text(end, "END", is_hex=is_hex))

    async def body(client: AsyncClient) -> None:
        now_ms = physical_ms(Timestamp(await client.timestamp()))
        max_ts = compose(max(0, now_ms - int(older_than * 1000)), (1 << 18) - 1)
        found = [lock async for lock in client.inspector.locks(range_, max_ts, limit=limit)]
        if as_json:
            print(json.dumps([_lock_as_json(lock) for lock in found]))
            return
        columns = [
            Column("KEY"),
            Column("KIND"),
            Column("START_TS", is_number=True),
            Column("AGE_S", is_number=True),
            Column("TTL_S", is_number=True),
            Column("PRIMARY"),
        ]
        print_table(columns, [_lock_row(lock, now_ms, is_hex=is_hex) for lock in found])

    sys.exit(run_client(target, body))


def _lock_row(lock: ForeignLock, now_ms: int, *, is_hex: bool) -> list[str]:
    from pytinykv.client.txn.inspection import kind_of

    age_s = (now_ms - physical_ms(Timestamp(lock.start_ts))) / 1000
    key, primary = (shorten(shown(each, is_hex=is_hex)) for each in (lock.key, lock.primary))
    kind = kind_of(lock) + (", async" if lock.use_async_commit else "")
    return [key, kind, str(lock.start_ts), f"{age_s:.1f}", f"{lock.ttl_ms / 1000:.1f}", primary]


@click.command()
@option(
    "--keep",
    type=Number(min=0),
    default=None,
    metavar="SECONDS",
    help="Collect now what no snapshot of the last SECONDS needs.  [default: only show]",
)
@json_option
@client_options
def gc(keep: float | None, *, as_json: bool, target: Target) -> None:
    """Show before which moment old versions are collected; with --keep, move it, never back.

    The cluster does so by itself. A snapshot older than that can't be read any more. With --json: {"safe_point": TIMESTAMP,
    "age_s": SECONDS}, both null as long as there is none.
    """

    async def body(client: AsyncClient) -> None:
        inspector = client.inspector
        now_ms = physical_ms(Timestamp(await client.timestamp()))
        if keep is None:
            safe_point = await inspector.safe_point()
        else:
            safe_point = await inspector.collect(compose(max(1, now_ms - int(keep * 1000)), 0))
        age_s = (now_ms - physical_ms(Timestamp(safe_point))) / 1000 if safe_point else None
        if as_json:
            print(json.dumps({"safe_point": safe_point or None, "age_s": age_s}))
            return
        if age_s is None:
            print("safe point   none: nothing was collected yet")
            return
        print(f"safe point   {safe_point} ({_moment(safe_point)}, {age_s:.0f} s ago)")

    sys.exit(run_client(target, body))
