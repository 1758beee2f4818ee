"""`tinykv doctor`: ask a live server what waits for what, also one whose event loop is blocked.

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
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pytinykv.cli.config_file import config_option
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import ListenAddress, option
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
@option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each answer.",
)
@log_options("error")
@config_option
def doctor(*, address: str, scheduler: str | None, as_json: bool, timeout: float) -> None:
    """Show what waits for what in a live server, what each scope owns, and what is wrong.

    ADDR is the server's --status-addr. The address at which a store serves will do if the store has a status port and
    --scheduler says where to ask for it.
    """
    try:
        try:
            sys.exit(examine(address, timeout, as_json=as_json))
        except NotStatusPortError:  # the scheduler is asked only now: it may be what is stuck
            if scheduler is None:
                raise
        sys.exit(examine(find_status_address(address, scheduler, timeout), timeout, as_json=as_json))
    except (SilentError, NotStatusPortError) as error:
        print(f"tinykv doctor: {error}", file=sys.stderr)
    sys.exit(1)


def examine(address: str, timeout_s: float, *, as_json: bool) -> int:
    """Print what the status port at `address` tells; return the exit status.

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
        print(f"health     {problem or 'ok'}")
        print(f"deadlocks  {len(graph['cycles']) or 'none'}")
        print(f"owned      {_summary(owned)}")
        print()
        print(text.rstrip())
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


def _summary(owned: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for entry in owned:
        counts[entry["kind"]] = counts.get(entry["kind"], 0) + entry["count"]
    return ", ".join(
        f"{count} {kind}{'' if count == 1 else 'es' if kind.endswith('ss') else 's'}"
        for kind, count in sorted(counts.items())
    )
