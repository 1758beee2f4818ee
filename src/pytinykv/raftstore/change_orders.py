"""Membership changes that the scheduler ordered: proposed at once, or kept until they can be.

An order is kept where what stands against it will pass: a learner that has not caught up, an admin entry under way. The
scheduler repeats an order only with its next look at the region, which may be seconds away.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytinykv.raft import ConfChangeKind, NotLeading, ProposalDropped
from pytinykv.raftstore import membership

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytinykv.model import Peer, Region
    from pytinykv.raft import RawNode
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.followers import FollowerWatch

_log = logging.getLogger(__name__)


class OrderedPeer(Protocol):
    """The peer that carries the orders out, as far as they need it."""

    peer: Peer
    node: RawNode
    is_leader: bool

    @property
    def region(self) -> Region: ...

    def pending_peers(self) -> Iterable[Peer]: ...

    def offer_leadership(self, now: float) -> bool: ...


class _Order(NamedTuple):
    """A membership change that the scheduler wants and that can't be proposed yet."""

    change: membership.MembershipChange
    conf_ver: int
    """The membership that it was made for."""
    since: float


class ChangeOrders:
    """Belongs to one peer, which calls `retry` whenever something has changed."""

    def __init__(self, peer: OrderedPeer, followers: FollowerWatch, config: RaftStoreConfig) -> None:
        self._peer = peer
        self._followers = followers
        self._config = config
        self._order: _Order | None = None
        """What `take` could not propose at once; gone once it is proposed or refused for good, the membership is another
        one, this peer does not lead, or after `peer_down_s`."""

    @property
    def has_any(self) -> bool:
        """Return whether an order waits."""
        return self._order is not None

    def take(self, change: membership.MembershipChange, conf_ver: int | None, now: float) -> None:
        """Propose a membership change that the scheduler ordered for `conf_ver` (None: whatever it is now), or keep it."""
        region = self._peer.region
        order = _Order(change, region.epoch.conf_ver if conf_ver is None else conf_ver, now)
        reason = self._propose(order, now)
        if reason:
            kind, keeps = change.kind.name, " yet" if self._order is not None else ""
            _log.info("region %d: %s of peer %d not proposed%s: %s", region.id, kind, change.peer.id, keeps, reason)
        if self._order is not None and change.kind is ConfChangeKind.ADD_VOTER:
            self._peer.node.ping(now)

    def retry(self, now: float) -> None:
        """Try again to propose what is kept, if anything is."""
        if (order := self._order) is None:
            return
        if now - order.since <= self._config.peer_down_s:
            self._propose(order, now)
        else:
            self._order = None

    def _propose(self, order: _Order, now: float) -> str:
        """Propose a change, or keep the order if the reason against it will pass; return that reason, empty if none."""
        self._order, change, peer = None, order.change, self._peer
        if order.conf_ver != peer.region.epoch.conf_ver:
            return f"it was ordered for conf_ver {order.conf_ver}, this is {peer.region.epoch.conf_ver}"
        reason = membership.refusal(peer.region, change)
        if reason is not None:
            return reason
        if change.kind is ConfChangeKind.REMOVE and change.peer.id == peer.peer.id and peer.offer_leadership(now):
            return "it leads, and hands leadership over first"
        if not peer.is_leader:
            return "this peer does not lead"
        if change.kind is ConfChangeKind.ADD_VOTER:
            trouble = self._followers.why_not_promote(
                peer.region, change.peer, peer.pending_peers(), ordered_at=order.since, now=now
            )
            if trouble:
                self._order = order
                return trouble
        try:
            peer.node.propose_conf_change(change.to_raft(peer.region.epoch), now)
        except (NotLeading, ProposalDropped) as error:
            self._order = order
            return str(error)
        return ""
