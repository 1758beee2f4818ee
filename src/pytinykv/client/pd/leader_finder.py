"""Finds the scheduler's leader, and keeps to one cluster.

    endpoints given ──GetMembers──► members' urls, leader
         ▲                                │
         └── leader lost or unknown: ask all endpoints again, with pauses, until the deadline

An answer of another cluster is refused for good (`ClusterMismatchError`): addresses are used again, for other clusters too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from random import Random

from pytinykv.client.addresses import bare_address, parse_addresses
from pytinykv.client.backoff import Backoff
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    ClientClosedError,
    ClusterMismatchError,
    NotASchedulerError,
    SchedulerUnavailableError,
)
from pytinykv.wire import Connector, RpcError, StatusCode
from pytinykv.wire.pb import pdpb_pb2

_log = logging.getLogger(__name__)

GET_MEMBERS = "/pdpb.PD/GetMembers"
SAY_AFTER_S = 1.0
"""After so long without a scheduler the log says that one is waited for."""


class LeaderFinder:
    """What calls and streams to one cluster's scheduler share. All methods belong to the event loop's thread."""

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        connector: Connector,
        rng: Random,
        config: ClientConfig,
        caller_id: str,
        cluster_id: int,
    ) -> None:
        """Nothing is sent yet. `cluster_id`: the cluster the addresses must lead to; 0 takes the first that answers."""
        self._given = parse_addresses(addresses)
        self._endpoints = list(self._given)
        """The addresses given, then those that members have; none is ever dropped."""
        self._connector = connector
        self._rng = rng
        self._config = config
        self._caller_id = caller_id
        self.cluster_id = cluster_id
        """The cluster's id; 0 before the first answer."""
        self.leader: str | None = None
        """The leader's address; None while unknown. Set here, cleared by `lose`."""
        self.last_failure = "no endpoint has answered"
        """What went wrong last, for the message of a call that runs out of time."""
        self._last_answered = False
        """Whether the last endpoint that was asked has answered, though it did not help. Set by `_ask_members`."""
        self._has_said = False
        """Whether it was said that a scheduler is waited for; once for each time that there is none."""
        self._discovery = asyncio.Lock()
        """One caller asks the endpoints, the others wait for what it learns."""
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolved by `close`; ends pauses."""

    def __repr__(self) -> str:
        return f"scheduler at {', '.join(self._given)}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All known endpoints, the given ones first."""
        return tuple(self._endpoints)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.done()

    def header(self) -> pdpb_pb2.RequestHeader:
        """Return the header of a request."""
        return pdpb_pb2.RequestHeader(cluster_id=self.cluster_id, caller_id=self._caller_id)

    def backoff(self, deadline: float) -> Backoff:
        """Return the pauses of a call that ends at `deadline` (loop time)."""
        return Backoff(self._config, deadline=deadline, rng=self._rng, closing=self._closing)

    def attempt_s(self, deadline: float) -> float:
        """Return how many seconds one attempt may take."""
        left_s = deadline - asyncio.get_running_loop().time()
        return max(0.001, min(left_s, self._config.scheduler_timeout_s))

    def close(self) -> None:
        """End all pauses and refuse further waits."""
        if not self._closing.done():
            self._closing.set_result(None)

    def refuse_closed(self) -> None:
        """Raise `ClientClosedError` after `close`."""
        if self._closing.done():
            raise ClientClosedError("the client is closed; make a new one")

    def refuse_late(self, deadline: float) -> None:
        """Raise `SchedulerUnavailableError` from `deadline` (loop time) on."""
        if asyncio.get_running_loop().time() >= deadline:
            what, advice = "no scheduler answered", "check the addresses and that a scheduler runs there"
            if self._last_answered:
                what, advice = "no scheduler was ready", "try again later"
            raise SchedulerUnavailableError(
                f"{what} in time (asked {', '.join(self._endpoints)}; last: {self.last_failure}); {advice}"
            )

    async def wait(self, deadline: float, backoff: Backoff) -> str:
        """Return the leader's address, asking the endpoints until `deadline` (loop time) if need be.

        Raises `SchedulerUnavailableError`, `ClusterMismatchError`, `NotASchedulerError`, `ClientClosedError`.
        """
        if (leader := self.leader) is not None:
            return leader
        saying = asyncio.get_running_loop().call_later(SAY_AFTER_S, self._say_waiting)
        try:
            while (leader := self.leader) is None:
                self.refuse_closed()
                await self._discover(deadline)
                if self.leader is None:
                    self.refuse_late(deadline)
                    await backoff.pause()
        finally:
            saying.cancel()
        self._has_said = False
        return leader

    def _say_waiting(self) -> None:
        if not self._has_said:
            self._has_said = True
            _log.warning("waiting for a scheduler at %s; last: %s", ", ".join(self._endpoints), self.last_failure)

    def lose(self, address: str) -> None:
        """Forget the leader if it is still this one: it did not answer, or does not lead any more."""
        if self.leader == address:
            _log.info("scheduler leader %s lost", address)
            self.leader = None

    async def _discover(self, deadline: float) -> None:
        """Ask every endpoint in turn which member leads."""
        try:
            async with asyncio.timeout_at(deadline), self._discovery:
                others = 0
                for endpoint in list(self._endpoints):
                    if self.leader is not None:
                        break
                    others += await self._ask_members(endpoint, deadline)
                if others == len(self._endpoints) and self.cluster_id == 0:
                    raise NotASchedulerError(
                        f"{', '.join(self._endpoints)} is a store, or another gRPC server, and no scheduler; "
                        "give the scheduler's address"
                    )
        except TimeoutError:
            _log.debug("no time left to look for the scheduler's leader")

    async def _ask_members(self, endpoint: str, deadline: float) -> bool:
        """Ask one endpoint; return whether it is something else than a scheduler."""
        try:
            reply = await self._connector.unary(
                endpoint, GET_MEMBERS, pdpb_pb2.GetMembersRequest(), timeout_s=self.attempt_s(deadline)
            )
        except RpcError as error:
            self.last_failure = f"{endpoint}: {error}"
            self._last_answered = error.code is StatusCode.UNIMPLEMENTED
            return self._last_answered
        assert isinstance(reply, pdpb_pb2.GetMembersResponse)
        self.check_cluster(endpoint, reply.header.cluster_id)
        urls = [bare_address(url) for url in reply.leader.client_urls]
        self._last_answered = True
        if not urls:
            self.last_failure = f"{endpoint}: knows no leader"
            return False
        for member in reply.members:
            self._endpoints += [a for url in member.client_urls if (a := bare_address(url)) not in self._endpoints]
        # A single member that answers is the leader at this address too, whatever it advertises (a forwarded port).
        self.leader = endpoint if endpoint in urls or len(reply.members) == 1 else urls[0]
        _log.info("scheduler leader is %s, cluster %d", self.leader, self.cluster_id)
        return False

    def check_cluster(self, endpoint: str, cluster_id: int) -> None:
        """Raise `ClusterMismatchError` if an answer came from another cluster than those before."""
        if self.cluster_id == 0:
            self.cluster_id = cluster_id
        elif cluster_id != self.cluster_id:
            raise ClusterMismatchError(
                f"the scheduler at {endpoint} is of cluster {cluster_id}, not of cluster {self.cluster_id}; "
                f"check the addresses ({', '.join(self._given)})"
            )
