"""Options that several commands share, and where their values come from.

A value comes from the flag, else from the environment variable (`--data-dir`: `TINYKV_DATA_DIR`), else from the file that
`--config` names, else from the default. In the file a table with the command's name holds its options, spelt as the
flags without dashes in front; `[client]` holds them for all commands that talk to a cluster. An unknown key is
an error: a setting that is silently ignored is worse than none.

    [store]
    data-dir = "/var/lib/tinykv"
    scheduler = "127.0.0.1:2379"

    [store.raftstore]           # settings of the component: RaftStoreConfig
    tick_s = 0.05

    [scheduler.settings]        # SchedulerConfig
    max_replicas = 5

    [client]
    scheduler = "127.0.0.1:2379"
"""

from __future__ import annotations

import difflib
import functools
import logging
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:  # generic for the type checker; at run time only in the newest click
    _AddressType = click.ParamType[str]
    _AddressesType = click.ParamType[tuple[str, ...]]
else:
    _AddressType = _AddressesType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
CLIENT_TABLE: Final = "client"
CLIENT_KEYS: Final = frozenset({"scheduler", "timeout", "cf", "hex", "json", "log_level"})
"""What `[client]` may hold; a command takes from it what it has an option for."""
ON_STDIN: Final = ("-",)
"""In place of the scheduler's addresses: the first line on standard input has them."""
_COMPONENTS: Final = {"store": frozenset({"raftstore"}), "scheduler": frozenset({"settings"})}
"""The tables that a command's table may hold."""
_TABLES: Final = "pytinykv.config-tables"
_FILE: Final = "pytinykv.config-file"


class _Option(click.Option):
    """An option whose errors say where the value came from, and name the variable only if it was that."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        source = None if ctx is None or self.name is None else ctx.get_parameter_source(self.name)
        flags = " / ".join(f"'{flag}'" for flag in self.opts)
        if source is ParameterSource.ENVIRONMENT:
            return f"{flags} (from the variable {self.envvar})"
        if source is ParameterSource.DEFAULT_MAP and ctx is not None and _FILE in ctx.meta:
            return f"{flags} (from {ctx.meta[_FILE]})"
        return flags


def option(*flags: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option that can also come from the environment and from the configuration file."""
    name = flags[0].partition("/")[0].lstrip("-").replace("-", "_").upper()
    settings.setdefault("envvar", f"TINYKV_{name}")
    settings.setdefault("show_envvar", True)
    settings.setdefault("cls", _Option)
    return click.option(*flags, **settings)


json_option = option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class SuggestingGroup(click.Group):
    """A group that names the nearest of its commands when there is none of that name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            ctx.fail(f"no such command: {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def _read_config(
    context: click.Context, _parameter: click.Parameter, path: Path | None, *, is_client: bool
) -> Path | None:
    if path is None:
        return None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not valid TOML: {error}") from error
    _check_tables(path, document)
    command = context.info_name or ""
    names = _names(context.command)
    shared = _options(path, CLIENT_TABLE, document.get(CLIENT_TABLE, {}), CLIENT_KEYS)
    own = document.get(command, {})
    tables = {name: value for name, value in own.items() if isinstance(value, dict)}
    allowed = _COMPONENTS.get(command, frozenset())
    for name in tables:
        if name not in allowed:
            raise click.BadParameter(f"{path}: [{command}.{name}] is not known{_instead(allowed)}")
    scalars = {name: value for name, value in own.items() if name not in tables}
    values = _options(path, command, scalars, names)
    if is_client:
        values = {key: value for key, value in shared.items() if key in names} | values
    defaults = {names[key]: value for key, value in values.items()}
    context.default_map = {**(context.default_map or {}), **defaults}
    context.meta[_TABLES] = tables
    context.meta[_FILE] = path
    return path


def _names(command: click.Command) -> dict[str, str]:
    """Return, for each option as a file spells it, its parameter's name."""
    return {
        flag.lstrip("-").replace("-", "_"): parameter.name or ""
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for flag in parameter.opts
        if flag != "--config"
    }


def _check_tables(path: Path, document: dict[str, Any]) -> None:
    """Refuse what no command would ever read."""
    from pytinykv.cli.catalog import COMMANDS

    for name, value in document.items():
        if name not in {*COMMANDS, CLIENT_TABLE} - {"ctl"}:  # whose commands have no options of their own
            what = f"the table [{name}]" if isinstance(value, dict) else f"{name!r}, which stands in no table,"
            raise click.BadParameter(f"{path}: {what} is not known; tables are [{CLIENT_TABLE}] and [COMMAND]")
        if not isinstance(value, dict):
            raise click.BadParameter(f"{path}: {name} must be a table, as in [{name}]")


def _options(path: Path, table: str, values: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the values by the names of options. Raises BadParameter for an unknown one, or one that is no value."""
    known = set(known)
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            options = [name.replace("_", "-") for name in sorted(known)]
            raise click.BadParameter(f"{path}: [{table}] has no option {key!r}{_instead(options)}")
        if not isinstance(value, str | int | float | bool):
            raise click.BadParameter(f"{path}: [{table}] {key} must be a single value, not {value!r}")
        found[name] = value
    return found


def _instead(names: Iterable[str]) -> str:
    text = ", ".join(sorted(names))
    return f"; it can have {text}" if text else ""


def config_option(function: F) -> F:
    """Add `--config FILE.toml`."""
    return _config_option(function, is_client=False)


def client_config_option(function: F) -> F:
    """Add `--config FILE.toml` to a command that talks to a cluster: the file's table `[client]` is for it as well."""
    return _config_option(function, is_client=True)


def _config_option(function: F, *, is_client: bool) -> F:
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=functools.partial(_read_config, is_client=is_client),
        envvar="TINYKV_CONFIG",
        show_envvar=True,
        metavar="FILE.toml",
        help="Read options from a file; flags and variables win over it.",
    )(function)


def component_settings(context: click.Context, name: str) -> dict[str, Any]:
    """Return the configuration file's table for a component of the command, {} without one."""
    tables: dict[str, Any] = context.meta.get(_TABLES, {})
    return dict(tables.get(name, {}))


def config_file(context: click.Context) -> Path | None:
    """Return the configuration file that was read."""
    path: Path | None = context.meta.get(_FILE)
    return path


def _set_log_level(_context: click.Context, _parameter: click.Parameter, level: str) -> str:
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT)
    return level


def log_option(default: str) -> Callable[[F], F]:
    """Return what adds `--log-level`; logs go to standard error."""
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default=default,
        show_default=True,
        expose_value=False,
        callback=_set_log_level,
        help="How much to log to standard error.",
    )


class ListenAddress(_AddressType):
    """An address to listen on, or one to announce; empty where an option may be. Port 0 is fine for listening."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as `host:port`, without a scheme. Fails, naming it, if it is none."""
        from pytinykv.transport.address import AddressError, parse_address

        if not value:
            return ""
        try:
            return str(parse_address(str(value)))
        except AddressError as error:
            self.fail(str(error), param, ctx)


class SchedulerAddresses(_AddressesType):
    """Where schedulers are: one address, or several separated by commas; `-`, where that may be: told later."""

    name = "addresses"

    def __init__(self, *, later: bool = False) -> None:
        self._later = later

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the addresses. Fails, naming the one that is none."""
        if isinstance(value, tuple):
            return value
        if self._later and value == ON_STDIN[0]:
            return ON_STDIN
        from pytinykv.client.addresses import parse_addresses
        from pytinykv.client.errors import InvalidArgumentError

        try:
            return parse_addresses(str(value))
        except InvalidArgumentError as error:
            self.fail(str(error), param, ctx)


def scheduler_option(*, later: bool = False, **settings: Any) -> Callable[[F], F]:
    """Return what adds `--scheduler`. `later`: it may be `-`, and is `ON_STDIN` then."""
    return option(
        "--scheduler",
        type=SchedulerAddresses(later=later),
        metavar="HOST:PORT[,…]",
        help="Where the scheduler is." + " `-`: a line on standard input tells." * later,
        **settings,
    )
