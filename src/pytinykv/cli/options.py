"""Options that several commands share.

Where values come from: `config_file`.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pytinykv.cli.config_file import NamedPath, SourcedOption

if TYPE_CHECKING:  # generic for the type checker; at run time only in the newest click
    _AddressType = click.ParamType[str]
    _AddressesType = click.ParamType[tuple[str, ...]]
else:
    _AddressType = _AddressesType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

ON_STDIN: Final = ("-",)
"""In place of the scheduler's addresses: the first line on standard input has them."""


def option(*flags: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option that can also come from the environment and from the configuration file."""
    name = flags[0].partition("/")[0].lstrip("-").replace("-", "_").upper()
    settings.setdefault("envvar", f"TINYKV_{name}")
    settings.setdefault("show_envvar", True)
    settings.setdefault("cls", SourcedOption)
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


class OutputFile(NamedPath):
    """A file that a long run writes at its end: whether that can't be is told before it begins."""

    def __init__(self, *suffixes: str) -> None:
        """Make the type. `suffixes`: what the name may end in; none: in whatever."""
        super().__init__(dir_okay=False, writable=True)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path. Fails where no file can be made, or not one of that kind."""
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            self.fail(f"{path} must end in {' or '.join(self._suffixes)}", param, ctx)
        if not (parent := path.absolute().parent).is_dir():
            self.fail(f"can't write {path}: there is no directory {parent}", param, ctx)
        if not os.access(parent, os.W_OK):
            self.fail(f"can't write {path}: {parent} is not writable", param, ctx)
        return path


class Number(click.FloatRange):
    """A number within bounds, and neither endless nor none."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is no number to reckon with", param, ctx)
        return number


class ListenAddress(_AddressType):
    """An address to listen on, or one to announce; empty where an option may be. Port 0 is fine for listening."""

    name = "address"

    def __init__(self, example: str = "127.0.0.1:20160") -> None:
        """Make the type. `example`: a right one, for messages."""
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as `host:port`, without a scheme. Fails, naming it, if it is none."""
        from pytinykv.transport.address import AddressError, parse_address

        if not value and not (param is not None and param.required):
            return ""
        try:
            return str(parse_address(str(value), example=self._example))
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
