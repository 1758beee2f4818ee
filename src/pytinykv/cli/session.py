"""What every command does that asks a cluster: connect, do its work, tell errors in words, leave with the right status.

    0    done                     2    bad usage, which click tells
    1    the answer is no: no such key, something is wrong with the cluster
    4    not done: no answer, refused, output can't be written
    130  interrupted (Ctrl-C, SIGTERM)

A reader that goes away (`tinykv scan | head`) has what it wanted: the command ends quietly, with status 0.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from pytinykv.cli.config_file import client_config_option
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import Number, option, scheduler_option
from pytinykv.cli.output import drop_output

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient
    from pytinykv.client.async_base import AsyncBase
    from pytinykv.lifecycle import Scope

_ClientT = TypeVar("_ClientT", bound="AsyncBase")

INTERRUPTED: Final = 130
NOT_DONE: Final = 4
STATUSES: Final = (
    "Exit status: 0 done; 1 the answer is no; 2 bad usage; 4 not done (no answer, refused); 130 interrupted."
)
DEFAULT_SCHEDULER: Final = "127.0.0.1:2379"
_HINT: Final = (
    "(--scheduler or TINYKV_SCHEDULER say where the scheduler is; `tinykv playground` runs a cluster on this machine)"
)


class Target(NamedTuple):
    """Which cluster to ask, and how long to wait for each answer."""

    command: str
    scheduler: tuple[str, ...]
    timeout_s: float


def client_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what every command of a client takes; the function gets it as `target`."""

    @functools.wraps(function)
    def command(*args: Any, scheduler: tuple[str, ...], timeout: float, **kwargs: Any) -> None:
        context = click.get_current_context()
        name = context.command_path.partition(" ")[2] or context.info_name or ""
        function(*args, target=Target(name, scheduler, timeout), **kwargs)

    command.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{STATUSES}"
    for add in reversed(
        (
            scheduler_option(default=DEFAULT_SCHEDULER, show_default=True),
            option(
                "--timeout",
                type=Number(min=0, min_open=True),
                default=10.0,
                show_default=True,
                metavar="SECONDS",
                help="How long to wait for an answer.",
            ),
            log_options("error"),
            client_config_option,
        )
    ):
        command = add(command)
    return command


def run_client(target: Target, body: Callable[[AsyncClient], Awaitable[int | None]]) -> int:
    """Run `body` with a client of the target's cluster; return the exit status, None of `body` counting as 0."""
    from pytinykv import aio

    return run_with(target, lambda: aio.connect(target.scheduler, timeout=target.timeout_s), body)


def run_with(target: Target, connect: Callable[[], _ClientT], body: Callable[[_ClientT], Awaitable[int | None]]) -> int:
    """As `run_client`, with any asynchronous client, which `connect` makes within the event loop."""
    from pytinykv.lifecycle import run_process

    status = INTERRUPTED
    logging.getLogger("pytinykv.client.pd.leader_finder").setLevel(
        logging.WARNING
    )  # that it waits is said at any level

    async def main(_scope: Scope) -> int:
        nonlocal status
        try:
            status = await _attempt(target, connect, body)
        except asyncio.CancelledError:
            print(f"tinykv {target.command}: interrupted", file=sys.stderr, flush=True)
            raise
        return status

    ended = run_process(main, name=target.command)
    return status or ended


async def _attempt(
    target: Target, connect: Callable[[], _ClientT], body: Callable[[_ClientT], Awaitable[int | None]]
) -> int:
    from pytinykv.client import ClientError, SchedulerUnavailableError, UndeterminedError
    from pytinykv.lifecycle import LifecycleError

    try:
        async with connect() as client:
            status = await body(client)
            sys.stdout.flush()
    except UndeterminedError as error:
        return _fail(target, f"it may or may not have happened: {error}")
    except SchedulerUnavailableError as error:
        return _fail(target, f"{error}\n{_HINT}")
    except (ClientError, LifecycleError) as error:
        return _fail(target, str(error))
    except BrokenPipeError:
        drop_output()
        return 0
    except OSError as error:
        drop_output()
        return _fail(target, f"can't write the output: {error.strerror or error}")
    return status or 0


def _fail(target: Target, text: str) -> int:
    print(f"tinykv {target.command}: {text}", file=sys.stderr, flush=True)
    return NOT_DONE
