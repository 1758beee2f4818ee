"""`tinykv doctor`: ask a live server what is wrong with it, also one whose event loop is blocked.

The status port is served by a thread that needs nothing from the loop, so an answer comes as long as the interpreter runs.
When there is none, that too is a finding: nothing listens (the process is gone), or it takes connections and stays silent
(the process is stopped, or compiled code keeps the interpreter).

Exit status: 0 well, 1 something is wrong, 2 bad usage.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from pytinykv.cli.config_file import config_option
from pytinykv.cli.diagnosis import diagnose
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import ListenAddress, Number, json_option, option
from pytinykv.cli.session import Target, run_client
from pytinykv.transport.address import parse_address

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient


class Answer(NamedTuple):
    """What a status port answered."""

    status: int
    body: bytes


class SilentError(Exception):
    """A status port did not answer; the message says what that means."""


class NotStatusPortError(Exception):
    """Something else than a status port answered."""


@click.command()
@click.argument("address", type=ListenAddress(), metavar="ADDR")
@option(
    "--scheduler",
    default=None,
    metavar="HOST:PORT[,…]",
    help="The scheduler to ask for the status address, if ADDR is where a store serves.",
)
@option("--all", "shows_all", is_flag=True, help="Show every task and thread, where it is, and what it waits for.")
@json_option
@option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each answer.",
)
@log_options("error")
@config_option
def doctor(*, address: str, scheduler: str | None, shows_all: bool, as_json: bool, timeout: float) -> None:
    """Say what is wrong with a live server, in which line, and what to do; with --all, what waits for what.

    Exit status: 0 well; 1 something is wrong, or nothing answers; 2 bad usage.

    ADDR is the server's --status-addr. The address at which a store serves will do if the store has a status port and
    --scheduler says where to ask for it.
    """
    try:
        try:
            sys.exit(examine(address, timeout, as_json=as_json, shows_all=shows_all))
        except NotStatusPortError:  # the scheduler is asked only now: it may be what is stuck
            if scheduler is None:
                raise
        status = find_status_address(address, scheduler, timeout)
        sys.exit(examine(status, timeout, as_json=as_json, shows_all=shows_all))
    except (SilentError, NotStatusPortError) as error:
        print(f"tinykv doctor: {error}", file=sys.stderr)
    sys.exit(1)


def examine(address: str, timeout_s: float, *, as_json: bool, shows_all: bool = False) -> int:
    """Print what the status port at `address` tells, all of it if wanted; return the exit status.

    Raises:
        SilentError: nothing answers there, for the reason that the message gives.
        NotStatusPortError: what answers is no status port.
    """
    health = fetch(address, "/healthz", timeout_s)
    graph = json.loads(_expect(address, fetch(address, "/debug/tasks?format=json", timeout_s)))
    owned = json.loads(_expect(address, fetch(address, "/debug/owned", timeout_s)))
    problem = "" if health.status == http.client.OK else health.body.decode(errors="replace").strip()
    if as_json:
        print(json.dumps({"health": problem or "ok", "tasks": graph, "owned": owned}, indent=2, ensure_ascii=False))
    else:
        text = _expect(address, fetch(address, "/debug/tasks", timeout_s)).decode(errors="replace")
        found = diagnose(address, problem, graph, owned, text)
        print("\n".join(found.lines[:-1] if shows_all else found.lines))
        if shows_all:
            print(f"\n{text.rstrip()}")
    return 1 if problem or graph["cycles"] else 0


def fetch(address: str, path: str, timeout_s: float) -> Answer:
    """Get a page of a status port. Raises SilentError, NotStatusPortError."""
    host, port = parse_address(address)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.connect()
    except socket.gaierror as error:
        raise SilentError(f"no machine is called {host}: {error.strerror}") from error
    except OSError as error:
        raise SilentError(f"nothing listens at {address}: {error.strerror or error}; is the process gone?") from error
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except TimeoutError as error:
        raise SilentError(
            f"{address} takes connections and does not answer: the process is stopped (SIGSTOP, a debugger), or "
            "compiled code keeps the interpreter; `py-spy dump --native --pid PID` shows where"
        ) from error
    except (http.client.HTTPException, OSError) as error:
        raise NotStatusPortError(
            f"{address} is no status port ({type(error).__name__}); give the server's --status-addr, "
            "or --scheduler to look it up"
        ) from error
    finally:
        connection.close()


def find_status_address(address: str, scheduler: str, timeout_s: float) -> str:
    """Return the status address of the store that serves at `address`, asking the scheduler.

    Raises:
        NotStatusPortError: the scheduler knows no such store, or it has no status port.
    """
    from pytinykv.client.addresses import parse_addresses

    found, known = list[str](), list[str]()

    async def body(client: AsyncClient) -> int:
        stores = await client.scheduler.get_all_stores()
        found.extend(store.status_address for store in stores if store.address == address)
        known.extend(store.address for store in stores)
        return 0

    if run_client(Target("doctor", parse_addresses(scheduler), timeout_s), body) != 0:
        raise NotStatusPortError(f"the scheduler at {scheduler} could not be asked")
    if not found:
        raise NotStatusPortError(
            f"the scheduler at {scheduler} knows no store at {address}, but at {', '.join(known) or 'none'}"
        )
    if not found[0]:
        raise NotStatusPortError(f"the store at {address} has no status port; start it with --status-addr")
    return found[0]


def _expect(address: str, answer: Answer) -> bytes:
    if answer.status != http.client.OK:
        raise NotStatusPortError(f"{address} answers with {answer.status}; is it a status port of this version?")
    return answer.body
