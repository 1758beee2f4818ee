"""The configuration file, and which of several values counts.

A value comes from the flag, else from the environment variable (`--data-dir`: `TINYKV_DATA_DIR`), else from the file that
`--config` names, else from the default. In the file a table with the command's name holds its options, spelt as the
flags without dashes in front; `[client]` holds them for all commands that talk to a cluster; `CONFIG_EXAMPLE` shows one. An
unknown key is an error, which names the line: a setting that is silently ignored is worse than none.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from pytinykv.cli.catalog import COMMANDS

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_EXAMPLE: Final = """\
[scheduler]
data-dir = "/var/lib/tinykv/scheduler"
addr = "127.0.0.1:2379"

[store]                         # options of `tinykv store`
data-dir = "/var/lib/tinykv/store"
addr = "127.0.0.1:20160"
status-addr = "127.0.0.1:20180"
scheduler = "127.0.0.1:2379"

[store.raftstore]               # settings for which there is no option
expiry_pause_s = 60

[client]                        # for every command that talks to a cluster
scheduler = "127.0.0.1:2379"
"""
CONFIG_EPILOG: Final = "\b\nA configuration file, for --config:\n\b\n" + "".join(
    f"  {line}\n" if line else "\b\n" for line in CONFIG_EXAMPLE.splitlines()
)
"""The example as the end of a `--help`."""
CLIENT_TABLE: Final = "client"
CLIENT_KEYS: Final = frozenset({"scheduler", "timeout", "cf", "hex", "json", "log_level", "log_format", "log_file"})
"""What `[client]` may hold; a command takes from it what it has an option for."""
_COMPONENTS: Final = {"store": frozenset({"raftstore"}), "scheduler": frozenset({"settings"})}
"""The tables that a command's table may hold."""
_TABLES: Final = "pytinykv.config-tables"
_FILE: Final = "pytinykv.config-file"
_LINES: Final = "pytinykv.config-lines"
_HEADER: Final = re.compile(r"\s*\[\s*([^\[\]#]+?)\s*\]")
_KEY: Final = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")


class ConfigFile(NamedTuple):
    """A file as it was read."""

    path: Path
    text: str

    def at(self, table: str, key: str = "") -> str:
        """Return where a table, or a key in it, stands: the file, and the line as far as it is found."""
        number = next((line.number for line in self._lines() if line.table == table and line.key in {key, "*"}), None)
        if number is None:
            return str(self.path)
        shown = self.text.splitlines()[number - 1].strip()
        return f"{self.path}, line {number} ({shown})"

    def _lines(self) -> Iterator[_Line]:
        """Yield headers and keys; one key in the middle of a text over several lines may look like another."""
        table = ""
        for number, text in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(text):
                table = header[1].replace(" ", "").replace('"', "")
                yield _Line(number, table, "")
            elif key := _KEY.match(text):
                yield _Line(number, table, key[1].replace("-", "_"))


class _Line(NamedTuple):
    number: int
    table: str
    key: str
    """With underscores; empty for the table's header."""


def _read_config(
    context: click.Context, _parameter: click.Parameter, path: Path | None, *, is_client: bool
) -> Path | None:
    if path is None:
        return None
    try:
        file = ConfigFile(path, path.read_text(encoding="utf-8"))
        document = tomllib.loads(file.text)
    except OSError as error:
        raise click.BadParameter(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not valid TOML: {error}") from error
    _check_tables(file, document)
    command = context.info_name or ""
    names = _names(context.command)
    shared = _options(file, CLIENT_TABLE, document.get(CLIENT_TABLE, {}), CLIENT_KEYS)
    own = document.get(command, {})
    tables = {name: value for name, value in own.items() if isinstance(value, dict)}
    allowed = _COMPONENTS.get(command, frozenset())
    for name in tables:
        if name not in allowed:
            table = f"{command}.{name}"
            raise click.BadParameter(f"{file.at(table)}: [{table}] is not known{_instead(allowed)}")
    scalars = {name: value for name, value in own.items() if name not in tables}
    values = _options(file, command, scalars, names)
    places = {names[key]: file.at(command, key) for key in values}
    if is_client:
        of_all = {key: value for key, value in shared.items() if key in names}
        places = {names[key]: file.at(CLIENT_TABLE, key) for key in of_all} | places
        values = of_all | values
    defaults = {names[key]: value for key, value in values.items()}
    context.default_map = {**(context.default_map or {}), **defaults}
    context.meta[_TABLES] = tables
    context.meta[_FILE] = file
    context.meta[_LINES] = places
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


def _check_tables(file: ConfigFile, document: dict[str, Any]) -> None:
    """Refuse what no command would ever read."""
    for name, value in document.items():
        if name not in {*COMMANDS, CLIENT_TABLE} - {"ctl"}:  # whose commands have no options of their own
            if isinstance(value, dict):
                where, what = file.at(name), f"the table [{name}]"
            else:
                where, what = file.at("", name.replace("-", "_")), f"{name!r}, which stands in no table,"
            raise click.BadParameter(f"{where}: {what} is not known; tables are [{CLIENT_TABLE}] and [COMMAND]")
        if not isinstance(value, dict):
            raise click.BadParameter(f"{file.at('', name)}: {name} must be a table, as in [{name}]")


def _options(file: ConfigFile, table: str, values: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the values by the names of options. Raises BadParameter for an unknown one, or one that is no value."""
    known = set(known)
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        where = file.at(table, name)
        if name not in known:
            options = [name.replace("_", "-") for name in sorted(known)]
            raise click.BadParameter(f"{where}: [{table}] has no option {key!r}{_instead(options)}")
        if not isinstance(value, str | int | float | bool):
            raise click.BadParameter(f"{where}: [{table}] {key} must be a single value, not {value!r}")
        found[name] = value
    return found


def _instead(names: Iterable[str]) -> str:
    text = ", ".join(sorted(names))
    return f"; it can have {text}" if text else ""


class SourcedOption(click.Option):
    """An option whose errors say where the value came from, and name the variable only if it was that."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        source = None if ctx is None or self.name is None else ctx.get_parameter_source(self.name)
        flags = " / ".join(f"'{flag}'" for flag in self.opts)
        if source is ParameterSource.ENVIRONMENT:
            return f"{flags} (from the variable {self.envvar})"
        if (
            source is ParameterSource.DEFAULT_MAP
            and ctx is not None
            and (place := place_of_option(ctx, self.name or ""))
        ):
            return f"{flags} (from {place})"
        return flags


class NamedPath(click.Path):
    """A file or directory, which has to be named: an empty text would be the working directory."""

    def __init__(self, **settings: bool) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Fails if there is none, or it is not of the wanted kind."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


def config_option(function: F) -> F:
    """Add `--config FILE.toml`."""
    return _config_option(function, is_client=False)


def client_config_option(function: F) -> F:
    """Add `--config FILE.toml` to a command that talks to a cluster: the file's table `[client]` is for it as well."""
    return _config_option(function, is_client=True)


def _config_option(function: F, *, is_client: bool) -> F:
    return click.option(
        "--config",
        cls=SourcedOption,
        type=NamedPath(dir_okay=False),
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
    file: ConfigFile | None = context.meta.get(_FILE)
    return None if file is None else file.path


def place_of_option(context: click.Context, parameter: str) -> str:
    """Return where in the file an option's value stands; empty if no file was read."""
    file: ConfigFile | None = context.meta.get(_FILE)
    places: dict[str, str] = context.meta.get(_LINES, {})
    return "" if file is None else places.get(parameter, str(file.path))


def place_of_setting(table: str, message: str, settings: Iterable[str]) -> str:
    """Return where in the file the setting of a component stands that an error's message names; empty if none does."""
    context = click.get_current_context(silent=True)
    file: ConfigFile | None = None if context is None else context.meta.get(_FILE)
    named = next((one for one in settings if re.search(rf"\b{one}\b", message)), None)
    return "" if file is None or named is None else file.at(table, named)
