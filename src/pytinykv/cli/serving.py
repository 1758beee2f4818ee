"""What `tinykv scheduler` and `tinykv store` have in common: options, settings of components, start, ready line, stop."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

import click
import msgspec

from pytinykv.cli.config_file import NamedPath, config_option, place_of_setting
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import ListenAddress, option
from pytinykv.cli.output import print_if_taken
from pytinykv.lifecycle import LifecycleError, Scope, StopReport, run_process
from pytinykv.lifecycle.ready_line import ready_line
from pytinykv.storage import EngineError
from pytinykv.transport.address import Address, AddressError, check_can_bind, check_may_listen, parse_address

_log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def server_options(port: int) -> Callable[[F], F]:
    """Return what adds the options that every server takes. `port`: the usual one, for examples."""
    address = ListenAddress(f"127.0.0.1:{port}")

    def add_all(function: F) -> F:
        for add in reversed(
            (
                option(
                    "--data-dir",
                    type=NamedPath(file_okay=False),
                    required=True,
                    metavar="DIR",
                    help="Where its data lives; made if missing.",
                ),
                option(
                    "--addr",
                    type=address,
                    required=True,
                    metavar="HOST:PORT",
                    help="Where to listen; port 0 picks a free one.",
                ),
                option(
                    "--advertise-addr",
                    type=address,
                    default="",
                    metavar="HOST:PORT",
                    help="How others reach it, if not at --addr.",
                ),
                option(
                    "--status-addr",
                    type=address,
                    default="",
                    metavar="HOST:PORT",
                    help="Serve /healthz, /metrics and /debug here.",
                ),
                option(
                    "--insecure", is_flag=True, help="Allow addresses that other machines can reach. No encryption!"
                ),
                log_options("info"),
                config_option,
            )
        ):
            function = add(function)
        return function

    return add_all


def check_addresses(*, insecure: bool, advertise: Mapping[str, str] | None = None, **listen: str) -> None:
    """Raise UsageError, naming the option, for an address that is none, or must not be listened on, or leads nowhere.

    `advertise` maps options that tell others where to connect, to what they say, as `listen` does for the others.
    """
    advertise = advertise or {}
    for name, address in advertise.items():
        if address:
            with _naming(name):
                _check_can_reach(parse_address(address))
    for name, address in listen.items():
        if address:
            with _naming(name):
                parsed = parse_address(address)
                check_may_listen(parsed, insecure=insecure)
                if name == "addr" and parsed.is_wildcard and not advertise.get("advertise_addr"):
                    raise AddressError(
                        f"{address} is every address of this machine, and others have to be told one: "
                        "say --advertise-addr HOST:PORT"
                    )
    _check_all_differ(listen)


def _check_all_differ(listen: Mapping[str, str]) -> None:
    names: dict[str, str] = {}
    for name, address in listen.items():
        if address and parse_address(address).port and (other := names.setdefault(address, name)) != name:
            raise click.UsageError(f"{_flag(other)} and {_flag(name)} are the same, {address}: give one another port")


def check_ports(**listen: str) -> None:
    """Raise AddressError, naming the option, for an address that can't be listened on; before anything is made."""
    for name, address in listen.items():
        try:
            if address:
                check_can_bind(parse_address(address))
        except AddressError as error:
            raise AddressError(f"{_flag(name)}: {error}") from error


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except AddressError as error:
        raise click.UsageError(f"{_flag(name)}: {error}") from error


def _check_can_reach(address: Address) -> None:
    if address.port == 0:
        raise AddressError(f"{address} can't be reached: port 0 is no port")
    if address.is_wildcard:
        raise AddressError(f"{address} can't be reached by others: for them it means their own machine")


def component(kind: type[T], settings: dict[str, Any], table: str) -> T:
    """Make a component's configuration. Raises UsageError that names what is wrong."""
    known = getattr(kind, "__struct_fields__", None) or tuple(getattr(kind, "__dataclass_fields__", ()))
    for name in settings:
        if name not in known:
            where = _in_file(table, name, settings)
            raise click.UsageError(f"{where}[{table}] has no setting {name!r}; it can have {', '.join(sorted(known))}")
    try:
        config = msgspec.convert(settings, kind)
        config.validate()  # type: ignore[attr-defined]  # every component's configuration has it
    except (msgspec.ValidationError, ValueError) as error:
        raise click.UsageError(f"{_in_file(table, str(error), settings)}[{table}] {error}") from error
    return config


def _in_file(table: str, message: str, settings: dict[str, Any]) -> str:
    place = place_of_setting(table, message, settings)
    return f"{place}: " if place else ""


def serve(name: str, run: Callable[[Scope], Awaitable[None]], *explained: type[Exception]) -> int:
    """Start a server, serve until told to stop or until `run` returns, and return the exit status.

    `run` brings the server up, and returns only if it is not needed any more. `explained`: errors whose message tells a user
    enough. Any other is a bug and shows its traceback.
    """
    told: tuple[type[Exception], ...] = (EngineError, LifecycleError, OSError, ValueError, *explained)
    refused = ""

    async def main(scope: Scope) -> int:
        nonlocal refused
        try:
            await run(scope)
        except told as error:
            if scope.stopping:  # told to stop while it starts: one of its parts is gone, or must not be made any more
                _log.info("the start ends here: %s", error)
                return 0
            refused = f"tinykv {name}: {error}"
            return 1
        return 0

    def on_report(report: StopReport) -> None:
        if report.forced and refused:  # the process ends with this report
            print(refused, file=sys.stderr, flush=True)
        print(report.render(), file=sys.stderr, flush=True)

    status = run_process(main, name=name, on_report=on_report)
    if refused:  # last, where people look
        print(refused, file=sys.stderr, flush=True)
    return status


def print_ready(facts: dict[str, object]) -> None:
    """Print the one line that says that the server serves, and where. If that can't be printed, the log has it."""
    line = ready_line(facts)
    if problem := print_if_taken(line):
        _log.warning("it serves, but standard output can't be written (%s): %s", problem, line)
