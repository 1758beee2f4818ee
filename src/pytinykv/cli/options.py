"""Options that several commands share.

Where values come from: `config_file`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from pytinykv.cli.config_file import place_of_option

if TYPE_CHECKING:  # generic for the type checker; at run time only in the newest click
    _AddressType = click.ParamType[str]
    _AddressesType = click.ParamType[tuple[str, ...]]
else:
    _AddressType = _AddressesType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

ON_STDIN: Final = ("-",)
"""In place of the scheduler's addresses: the first line on standard input has them."""


class _Option(click.Option):
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
