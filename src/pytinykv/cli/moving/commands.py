"""`tinykv export` and `tinykv import`: all data in a file, and back."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytinykv.cli.config_file import NamedPath
from pytinykv.cli.options import OutputFile, option
from pytinykv.cli.progress import Progress
from pytinykv.cli.ranges import range_arguments, range_of
from pytinykv.cli.session import NOT_DONE, Target, client_options, run_client, run_with
from pytinykv.client.arguments import checked_range
from pytinykv.lifecycle import Scope

if TYPE_CHECKING:
    from pytinykv.cli.moving.export_file import ExportWriter, Header
    from pytinykv.cli.moving.exporting import Wanted
    from pytinykv.client.async_base import AsyncBase

_data_option = option(
    "--data",
    type=NamedPath(file_okay=False),
    default=None,
    metavar="DIR",
    help="An embedded database (`pytinykv.open(DIR)`) instead of a cluster.",
)


@click.command("export")
@click.argument("file", type=OutputFile())
@range_arguments
@option(
    "--only",
    type=click.Choice(["transactions", "raw"]),
    default=None,
    help="One kind of data. On a TiKV cluster, which keeps both in one place, name the kind that it holds.",
)
@option("--hex", "is_hex", is_flag=True, help="START, END and --prefix in hexadecimal.")
@option("--ttl/--no-ttl", "ttls", default=True, show_default=True, help="Ask when each raw key vanishes.")
@_data_option
@client_options
def export_(
    file: Path,
    start: str,
    end: str,
    *,
    prefix: str | None,
    only: str | None,
    is_hex: bool,
    ttls: bool,
    data: Path | None,
    target: Target,
) -> None:
    """Write all data into FILE: what transactions see, of one moment, and the raw keys of all column families.

    Or only the keys from START on, below END, or with --prefix. While it is written the file is called FILE.part; the same
    command carries on one that was interrupted, at the same moment, for an hour at least. Raw keys have no versions: they are
    read as they are when their turn comes. docs/formats.md describes the file.
    """
    from pytinykv.cli.moving.export_file import ExportFileError, ExportWriter
    from pytinykv.cli.moving.exporting import FAMILIES, Wanted

    arguments = range_of(start, end, prefix, is_hex=is_hex)
    range_ = checked_range(arguments.start, arguments.end, arguments.prefix)
    if range_ is None:
        raise click.UsageError("no key can be in this range")
    if data is not None and not data.exists():
        raise click.UsageError(f"--data: there is no directory {data}")
    wanted = Wanted(range_.start, range_.end, only != "raw", FAMILIES if only != "transactions" else (), ttls=ttls)

    async def body(client: AsyncBase) -> int:
        try:
            with ExportWriter(file) as writer:
                return await _export(client, writer, wanted, _name_of(client, data))
        except ExportFileError as error:
            return _failed("export", str(error))

    sys.exit(_run(target, data, body))


def _run(target: Target, data: Path | None, body: Callable[[AsyncBase], Awaitable[int]]) -> int:
    """Run `body` with a client of the cluster, or with the embedded database."""
    if data is None:
        return run_client(target, body)
    from pytinykv import aio
    from pytinykv.cli.moving.exporting import HOLD_S

    return run_with(target, lambda: aio.open(data, history_s=HOLD_S, timeout=target.timeout_s), body)


async def _export(client: AsyncBase, writer: ExportWriter, wanted: Wanted, source: str) -> int:
    from pytinykv.cli.moving.exporting import check_same, export, header_for
    from pytinykv.client import SnapshotTooOldError

    left = writer.left()
    if left is None:
        header = header_for(wanted, source, await client.timestamp() if wanted.transactions else 0)
    else:
        check_same(left, wanted, source, writer.part)
        header = left.header
        rows = left.transaction_rows + left.raw_rows
        print(f"tinykv export: going on behind {rows:,} rows of {writer.part}", file=sys.stderr)
    progress = Progress(is_shown=sys.stderr.isatty())
    try:
        await export(client, writer, header, left, progress, ttls=wanted.ttls)
        size = writer.finish()
    except SnapshotTooOldError as error:
        return _failed("export", f"{error}\nRemove {writer.part} and export anew: it can't be carried on any more")
    except OSError as error:
        return _failed("export", f"can't write {writer.part}: {error.strerror or error}\n{_carry_on(writer)}")
    except BaseException:
        print(f"tinykv export: {_carry_on(writer)}", file=sys.stderr)
        raise
    finally:
        progress.close()
    print(_exported(writer, header, size))
    return 0


def _carry_on(writer: ExportWriter) -> str:
    rows = writer.transaction_rows + writer.raw_rows
    return f"{writer.part} has {rows:,} rows so far; the same command goes on from there"


def _exported(writer: ExportWriter, header: Header, size: int) -> str:
    transactional = f"{writer.transaction_rows:,} transactional rows as of {header.ts}" if header.ts else ""
    raw = f"{writer.raw_rows:,} raw rows" if header.families else ""
    return f"{writer.path}: {', '.join(filter(None, (transactional, raw)))}; {size:,} bytes"


@click.command("import")
@click.argument("file", type=NamedPath(exists=True, dir_okay=False, readable=True))
@option("--overwrite", is_flag=True, help="Also if the target has keys within the range of the file.")
@_data_option
@client_options
def import_(file: Path, *, overwrite: bool, data: Path | None, target: Target) -> None:
    """Write all rows of FILE, which `tinykv export` has made.

    First the whole file is checked, and whether the target has keys in its range. Then rows come in portions, each a
    transaction of its own, and are visible at once. An import that is interrupted says how far it came; the same command goes
    on there. Raw keys vanish when they would have vanished where they came from.
    """
    from pytinykv.cli.moving.export_file import ExportFileError

    async def body(client: AsyncBase) -> int:
        try:
            return await _import(client, file, _name_of(client, data), overwrite=overwrite)
        except ExportFileError as error:
            return _failed("import", str(error))
        except OSError as error:
            return _failed("import", f"{error.filename or file}: {error.strerror or error}")

    sys.exit(_run(target, data, body))


async def _import(client: AsyncBase, file: Path, name: str, *, overwrite: bool) -> int:
    from pytinykv.cli.moving.importing import (
        Counts,
        Import,
        ImportStoppedError,
        check,
        check_free,
        journal_path,
        read_journal,
    )

    survey = await check(file)
    journal = read_journal(file)
    first = 0
    if journal is not None and (journal.export_id, journal.target) == (survey.header.export_id.hex(), name):
        first = journal.blocks
        print(f"tinykv import: going on behind {first} of {survey.row_blocks} blocks", file=sys.stderr)
    elif journal is not None:
        return _failed(
            "import",
            f"{journal_path(file)} belongs to an import into {journal.target} that did not come to its end; finish it, or "
            "remove that file",
        )
    elif not overwrite:
        await check_free(client, survey)
    rows = survey.end.transaction_rows + survey.end.raw_rows
    progress = Progress(is_shown=sys.stderr.isatty(), total=rows, before=rows * first // max(1, survey.row_blocks))
    counts = Counts()
    try:
        async with Scope("import") as scope:
            await Import(scope, client, file, survey, name, progress, counts).run(first)
    except ImportStoppedError as error:
        progress.close()
        print(f"tinykv import: {error}", file=sys.stderr)
        raise error.why from None
    finally:
        progress.close()
    expired = f" ({counts.expired:,} more had expired)" if counts.expired else ""
    print(f"{counts.transaction_rows:,} transactional rows, {counts.raw_rows:,} raw rows imported{expired}")
    return 0


def _name_of(client: AsyncBase, data: Path | None) -> str:
    return f"cluster {client.cluster_id}" if data is None else f"database {data.resolve()}"


def _failed(command: str, text: str) -> int:
    print(f"tinykv {command}: {text}", file=sys.stderr)
    return NOT_DONE
