"""Logs: how much, in which form, and where to.

Text for people on standard error unless told otherwise. A file is opened again when it is moved away (logrotate), so nothing
has to be told to the process. With `--log-format json` every line is an object: time (UTC), level, logger, message, and
exception with its traceback if there is one.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import click
import msgspec

from pytinykv.cli.config_file import NamedPath
from pytinykv.cli.options import option

F = TypeVar("F", bound=Callable[..., Any])

LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(facts).decode()


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the moment: tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # read only
        return sys.stderr


@contextmanager
def logs(level: str, style: str, file: Path | None) -> Iterator[None]:
    """Send the logs of this process where they are wanted, within the block. Raises BadParameter for a file that can't be."""
    handler: logging.Handler
    try:
        handler = _StandardError() if file is None else _file_handler(file)
    except OSError as error:
        raise click.BadParameter(f"can't write {file}: {error.strerror}", param_hint="'--log-file'") from error
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(LOG_FORMAT))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()


def _file_handler(file: Path) -> logging.Handler:
    from logging.handlers import WatchedFileHandler

    return WatchedFileHandler(file, encoding="utf-8")


def log_options(default: str) -> Callable[[F], F]:
    """Return what adds `--log-level`, `--log-format` and `--log-file`, and sets logging up before the command runs."""

    def add(function: F) -> F:
        @functools.wraps(function)
        def command(*args: Any, log_level: str, log_format: str, log_file: Path | None, **kwargs: Any) -> Any:
            with logs(log_level, log_format, log_file):
                return function(*args, **kwargs)

        for one in (
            option(
                "--log-file",
                type=NamedPath(dir_okay=False),
                default=None,
                metavar="FILE",
                help="Where to log.  [default: standard error]",
            ),
            option(
                "--log-format",
                type=click.Choice(["text", "json"], case_sensitive=False),
                default="text",
                show_default=True,
                help="Lines for people, or an object a line.",
            ),
            option(
                "--log-level",
                type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
                default=default,
                show_default=True,
                help="How much to log.",
            ),
        ):
            command = one(command)
        return command  # type: ignore[return-value]  # as the function, but for the options it takes

    return add
