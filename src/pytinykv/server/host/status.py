"""The status port: a small HTTP server in a thread of its own, so that it answers also while the event loop is stuck.

/              a short index of these pages
/healthz       200 "ok" while the process serves and its loop turns, else 503 and the reason
/metrics       the Prometheus text format
/debug/tasks   what waits for what, as text; as JSON with ?format=json. Drawn in the thread of the request
/debug/owned   how many tasks, threads, calls and file descriptors there are, by owner and the line that started them, as JSON
/debug/…       what the owner has to tell, as JSON
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pytinykv.lifecycle.resource_counts import count_resources
from pytinykv.transport.address import bind_sockets, check_may_listen, parse_address
from pytinykv.waitgraph import graph_to_data, render_graph

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

_log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5.0

Health = Callable[[], str]
"""Returns why the process does not serve, or an empty string if it does. Called from the status thread."""
Pages = Mapping[str, Callable[[], object]]
"""By path, what returns a page's content, to be shown as JSON. Called from the status thread."""


class StatusServer:
    """Serves the status port from `start` until its scope stops."""

    def __init__(
        self, scope: Scope, *, registry: CollectorRegistry, health: Health, pages: Pages | None = None
    ) -> None:
        self._scope = scope
        self._registry = registry
        self._health = health
        self._pages = {"/debug/owned": self._owned, **(pages or {})}

    def start(self, address: str, *, insecure: bool = False) -> str:
        """Listen and return the address with its real port. Raises AddressError."""
        parsed = parse_address(address)
        check_may_listen(parsed, insecure=insecure)
        handler = _handler(self._registry, self._health, self._pages, self._tasks)
        sockets = bind_sockets(parsed)
        port: int = sockets[0].getsockname()[1]
        for number, one in enumerate(sockets, 1):
            server = _Server(one, handler)
            name = "status-port" if number == 1 else f"status-port-{number}"
            self._scope.start_thread(name, _serve, server, wake=server.shutdown)
        return str(parsed.with_port(port))

    def _tasks(self, *, as_json: bool) -> bytes:
        graph = self._scope.root.explain()
        return msgspec.json.encode(graph_to_data(graph)) if as_json else render_graph(graph).encode()

    def _owned(self) -> object:
        counts = sorted(count_resources(self._scope.root).items())
        return [
            {"kind": str(what.kind), "owner": what.owner, "started_at": what.started_at, "count": count}
            for what, count in counts
        ]


class _Server(ThreadingHTTPServer):
    pause_s = 0.5
    """How long it rests when a connection can't be taken: no file descriptor is left, and that may go on."""

    daemon_threads = True  # a slow reader must not hold up the stop; its socket dies with the process
    block_on_close = False

    def __init__(self, bound: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        """Serve at a socket that listens already; it is closed with the server."""
        super().__init__(bound.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound

    def get_request(self) -> tuple[socket.socket, object]:
        """Take a connection. Raises OSError, at once only where trying again at once makes sense."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                _log.debug("status port: can't take a connection: %s", error)  # the watch tells it, once
                time.sleep(self.pause_s)
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what ended a request; one whose reader has gone away is no news. Called in its `except` clause."""
        if isinstance(sys.exception(), ConnectionError):
            _log.debug("status port: %s went away", client_address)
        else:
            _log.exception("status port: the request of %s failed", client_address)


def _serve(server: ThreadingHTTPServer) -> None:
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()


def _handler(
    registry: CollectorRegistry, health: Health, pages: Pages, tasks: Callable[..., bytes]
) -> type[BaseHTTPRequestHandler]:
    all_pages = ("/", "/healthz", "/metrics", "/debug/tasks", *pages)

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            """Answer as `do_GET` does, without a body."""
            self.do_GET()

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/":
                self._answer(
                    HTTPStatus.OK, "text/plain; charset=utf-8", "".join(f"{page}\n" for page in all_pages).encode()
                )
            elif path == "/healthz":
                problem = health()
                status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
                self._answer(status, "text/plain; charset=utf-8", (problem or "ok").encode() + b"\n")
            elif path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path == "/debug/tasks":
                as_json = query == "format=json"
                kind = "application/json" if as_json else "text/plain; charset=utf-8"
                self._answer(HTTPStatus.OK, kind, tasks(as_json=as_json) + b"\n")
            elif path in pages:
                self._answer(HTTPStatus.OK, "application/json", msgspec.json.encode(pages[path]()) + b"\n")
            else:
                self._answer(
                    HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"try {', '.join(all_pages[1:])}\n".encode()
                )

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            _log.debug(format, *args)

    return Handler
