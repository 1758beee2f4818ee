"""Options that several commands share, and where their values come from.

A value comes from the flag, else from the environment variable (`--data-dir`: `TINYKV_DATA_DIR`), else from the file that
`--config` names, else from the default. In the file a table with the command's name holds its options, spelt as the
flags without dashes in front:

    [store]
    data-dir = "/var/lib/tinykv"
    scheduler = "127.0.0.1:2379"

    [store.raftstore]           # settings of the component, see RaftStoreConfig
    tick_s = 0.05
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_TABLES = "pytinykv.config-tables"


def option(*flags: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option that can also come from the environment and from the configuration file."""
    name = flags[0].lstrip("-").replace("-", "_").upper()
    settings.setdefault("envvar", f"TINYKV_{name}")
    settings.setdefault("show_envvar", True)
    return click.option(*flags, **settings)


def _read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not valid TOML: {error}") from error
    values = document.get(context.info_name or "", {})
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path}: {context.info_name} must be a table")
    known = {parameter.name for parameter in context.command.params}
    defaults: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            tables[name] = value
        elif name in known:
            defaults[name] = value
        else:
            raise click.BadParameter(f"{path}: {context.info_name} has no option {key!r}")
    context.default_map = {**(context.default_map or {}), **defaults}
    context.meta[_TABLES] = tables
    return path


def config_option(function: F) -> F:
    """Add `--config FILE.toml`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        envvar="TINYKV_CONFIG",
        show_envvar=True,
        help="Read options from a TOML file; flags and variables win over it.",
    )(function)


def component_settings(context: click.Context, name: str) -> dict[str, Any]:
    """Return the configuration file's table for a component of the command, {} without one."""
    tables: dict[str, Any] = context.meta.get(_TABLES, {})
    settings: dict[str, Any] = tables.get(name, {})
    return settings


def _set_log_level(_context: click.Context, _parameter: click.Parameter, level: str) -> None:
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT)


def log_option(function: F) -> F:
    """Add `--log-level`; logs go to standard error."""
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
        expose_value=False,
        callback=_set_log_level,
        help="How much to log to standard error.",
    )(function)


def server_options(function: F) -> F:
    """Add what every server takes."""
    for add in reversed(
        (
            option(
                "--data-dir",
                type=click.Path(path_type=Path, file_okay=False),
                required=True,
                help="Where its data lives; made if missing.",
            ),
            option("--addr", required=True, metavar="HOST:PORT", help="Where to listen; port 0 picks a free one."),
            option("--advertise-addr", default="", metavar="HOST:PORT", help="How others reach it, if not at --addr."),
            option("--status-addr", default="", metavar="HOST:PORT", help="Serve /healthz and /metrics here."),
            option("--insecure", is_flag=True, help="Allow addresses that other machines can reach. No encryption!"),
            log_option,
            config_option,
        )
    ):
        function = add(function)
    return function
