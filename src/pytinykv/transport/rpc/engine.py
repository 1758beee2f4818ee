"""What every user of grpc.aio shares: options, statuses, and an engine that is never shut down.

grpc.aio runs one poller thread for the whole process. It hands each event over by writing a byte into a socket pair that
the event loop reads, and grpc.aio ends and joins the thread when the last server and channel are gone. If at that moment
nothing reads any more and the socket is full, the thread is blocked in `write` for ever, and so is what joins it: the
collector that happened to free the last channel, or `asyncio.run` on its way out (grpc issue 40989). Therefore the engine
is started once and kept (`keep_engine`): its thread is a daemon, costs nothing while idle, and is never joined.

Any loop that uses gRPC hands over the events of all of them, by `call_soon_threadsafe` of the loop that an event is for. If
that loop has been closed, with the event of a cancelled call still to come, this raises in the loop that hands over, maybe
that of another client (`Exception in callback PollerCompletionQueue._handle_events … Event loop is closed`). Nothing tells
whether an event is still to come. So a loop that has used the engine drops what gRPC has for it once its close
has begun.

A forked child has the engine's memory without its threads, and the parent's poll set: a call in the child hangs or crashes
it, and may take the parent's connections away. So a child whose parent has started the engine is refused one
(`refuse_forked`).

The price: grpc keeps every event loop it has met. A process has one or a few; a test run has one per test that uses gRPC.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import grpc
import grpc.aio

from pytinykv.lifecycle import LifecycleError
from pytinykv.lifecycle.census import excuse_descriptors, excuse_threads, open_descriptors
from pytinykv.transport.status import RpcError, StatusCode

Options = Sequence[tuple[str, int | str]]

UNLIMITED_MESSAGES: Final[Options] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)

KEEPALIVE: Final[Options] = (
    # A peer is pinged after 10 s of silence. If its machine is gone (power, cable) the kernel gives it up
    # after 3 s more, which is all that gRPC does with keepalive_timeout by now; one that is stopped (SIGSTOP) is given up
    # after 10 s more, instead of 60.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER_OPTIONS: Final[Options] = (
    *UNLIMITED_MESSAGES,
    *KEEPALIVE,
    # A client that is gone is noticed also between its calls.
    ("grpc.keepalive_permit_without_calls", 1),
    # Two servers on one port would share its connections without noticing; the second one has to fail instead.
    ("grpc.so_reuseport", 0),
    # Foreign clients ping every 10 s, some without a call under way; the defaults answer that with GOAWAY too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

CHANNEL_OPTIONS: Final[Options] = (
    *UNLIMITED_MESSAGES,
    *KEEPALIVE,
    # Servers in Go, of which PD and etcd are, end a connection that pings without a call under way (GOAWAY too_many_pings).
    # Ours ping by themselves; and if the peer is gone, the next call notices it as above.
    ("grpc.keepalive_permit_without_calls", 0),
    # A restarted peer is found again quickly; the default backs off up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # In spite of its name: how long an attempt to connect may take, until the peer's first word. At 50 it was the pause
    # above, and a peer that took longer than 0.5 s, far away or busy, was never reached.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Channels to one address do not share a connection, so closing one cannot disturb another.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class ForkedEngineError(LifecycleError):
    """gRPC was to be used in a forked child whose parent had used it; the message says what to do instead."""


_GRPC_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
_engine_lock: Final = threading.Lock()
_engine_pid: int | None = None
"""The process in which the engine was started."""
_loops: Final[weakref.WeakSet[asyncio.AbstractEventLoop]] = weakref.WeakSet()
"""Those that have used the engine."""
_deliver: Final = next(
    filter(
        None,
        (
            getattr(importlib.import_module("grpc._cython.cygrpc"), name, None)
            for name in ("_handle_callback_wrapper", "_handle_direct_functor")  # until 1.85, and what is to replace it
        ),
    ),
    None,
)
"""What gRPC has another loop call with an event for it."""
excuse_threads("_poll_wrapper")  # the engine's


def grpc_code(code: StatusCode) -> grpc.StatusCode:
    """Return grpc's own object for a status code."""
    return _GRPC_CODES[code]


def rpc_error(error: grpc.RpcError) -> RpcError:
    """Return what an exception of grpc means, without grpc's types."""
    if isinstance(error, grpc.aio.AioRpcError):
        return RpcError(StatusCode(error.code().value[0]), error.details() or "")
    return RpcError(StatusCode.UNKNOWN, repr(error))


def refuse_forked() -> None:
    """Raise `ForkedEngineError` in a child of a process that had used gRPC before it forked."""
    if _engine_pid not in (None, os.getpid()):
        raise ForkedEngineError(
            f"process {_engine_pid} used gRPC before it forked this one, where gRPC can't work: connect only after the fork, "
            "or start the child afresh, as multiprocessing's spawn and forkserver do"
        )


def keep_engine() -> None:
    """Start grpc.aio's engine, if it is not running, and see to it that it is never shut down. To be called in each loop.

    Raises:
        ForkedEngineError: as `refuse_forked`.
    """
    global _engine_pid  # noqa: PLW0603 - it mirrors the one engine that grpc.aio has
    refuse_forked()  # before the lock, which a thread may have held in the parent
    loop = asyncio.get_running_loop()
    with _engine_lock:
        if loop not in _loops:
            _loops.add(loop)
            _drop_events_after_close(loop)
        if _engine_pid is None:
            before = open_descriptors()
            cast("Any", grpc.aio).init_grpc_aio()  # public, but the stubs do not know it
            _engine_pid = os.getpid()
            # By number and target: a number may be that of a file which another thread, RocksDB's say, has just closed.
            new = open_descriptors().items() - before.items()
            excuse_descriptors(number for number, target in new if not target.startswith("/"))


def _drop_events_after_close(loop: asyncio.AbstractEventLoop) -> None:
    """See to it that handing an event to `loop` is no error once its close has begun. While it is open nothing changes.

    Closing takes a while, in which other threads run: an event may come when the loop takes none any more.
    """
    close = loop.close
    hand_over = loop.call_soon_threadsafe

    def call_soon_threadsafe(callback: Callable[..., object], *args: object, **options: Any) -> object:
        try:
            return hand_over(callback, *args, **options)
        except RuntimeError:
            if callback is not _deliver:
                raise
            return None

    def drop_and_close() -> None:
        cast("Any", loop).call_soon_threadsafe = call_soon_threadsafe
        close()

    cast("Any", loop).close = drop_and_close
