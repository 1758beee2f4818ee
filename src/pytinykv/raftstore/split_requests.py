"""Splits that were asked for, by a client, the scheduler or the store itself, from the wish to the regions that came of it.

    split ──▶ ids from the scheduler ──▶ ADMIN entry ──▶ applied ──▶ told to the scheduler and the one who asked
                  ▲                                        │
                  └──────── more keys than an entry holds ─┘

Only the leader splits, and one split of a region is under way at a time. What changes the region in between ends it: the
one who asked looks at what there is now, and asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytinykv.raftstore import splits
from pytinykv.raftstore.splits import SplitRefusedError
from pytinykv.wire.errors import RegionError, RegionNotFound, ServerIsBusy
from pytinykv.wire.keys import is_plain

if TYPE_CHECKING:
    from pytinykv.model import Region, RegionEpoch, RegionId, SplitIds
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.pending import Results
    from pytinykv.raftstore.ports import SchedulerLink
    from pytinykv.raftstore.turn import Turn

_log = logging.getLogger(__name__)

OnSplitDone = Callable[[Exception | None, Sequence["Region"]], None]
"""Called once: with None and all regions in key order, or with a RegionError or SplitRefusedError.

After an error of a later portion, the regions of the earlier ones are there all the same.
"""


@dataclass(eq=False)
class _Request:
    region_id: RegionId
    epoch: RegionEpoch
    """The region's when the keys were checked."""
    keys: Sequence[bytes]
    """Where it is still to be split."""
    on_done: OnSplitDone
    made: list[Region] = field(default_factory=list)
    """What the portions so far have split off."""


class SplitRequests:
    """Belongs to the store loop. `peers` is shared with the store."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        link: SchedulerLink,
        config: RaftStoreConfig,
        *,
        in_turn: Callable[[Callable[[Turn], None]], None],
        touch: Callable[[RegionPeer], None],
    ) -> None:
        """`in_turn` has the next turn do something, `touch` has it collect from a peer."""
        self._peers = peers
        self._link = link
        self._config = config
        self._in_turn = in_turn
        self._touch = touch
        self._requests: dict[int, _Request] = {}
        """By region, the split under way. What is no longer here has been answered."""
        self.is_transactional = False
        """Whether the cluster is known to hold transactions, so that regions are split at memcomparable keys only. Set by
        those who hear of it; never goes back."""
        self._ended: Exception | None = None
        """What new requests are told once the store takes none."""

    def is_splitting(self, region_id: int) -> bool:
        """Return whether a split of this region is under way."""
        return region_id in self._requests

    def split(
        self, region_id: RegionId, keys: Sequence[bytes], on_done: OnSplitDone, *, epoch: RegionEpoch | None = None
    ) -> None:
        """Split a region that is led here at these keys. `epoch`: that of the region for which they were chosen."""
        error = self._ended or self._why_not(region_id, keys, epoch)
        if error is not None:
            on_done(error, ())
            return
        region = self._peers[region_id].region
        self._requests[region_id] = request = _Request(region_id, region.epoch, list(keys), on_done)
        self._ask_ids(request, region)

    def fail_all(self, error: RegionError) -> None:
        """Answer all requests, and every later one, that it is too late."""
        self._ended = error
        for request in list(self._requests.values()):
            self._end(request, error)

    def _why_not(self, region_id: RegionId, keys: Sequence[bytes], epoch: RegionEpoch | None) -> Exception | None:
        peer = self._peers.get(region_id)
        if peer is None or not peer.is_initialized:
            return RegionNotFound(region_id=region_id)
        if not peer.is_leader:
            return peer.not_leader()
        if epoch is not None and epoch != peer.region.epoch:
            return peer.epoch_not_match(epoch.version)
        if (problem := splits.problem(peer.region, keys)) is not None:
            return SplitRefusedError(problem)
        if region_id in self._requests:
            return ServerIsBusy(reason=f"region {region_id} is being split already", backoff_ms=100)
        return None

    def _ask_ids(self, request: _Request, region: Region) -> None:
        portion = splits.portion(request.keys, self._config.append_bytes_max)

        def on_answer(answer: Sequence[SplitIds] | str) -> None:
            if self._requests.get(request.region_id) is not request:
                return
            if isinstance(answer, str):
                self._end(request, ServerIsBusy(reason=f"no ids to split region {region.id}: {answer}", backoff_ms=500))
            else:
                self._in_turn(lambda turn: self._propose(turn, request, portion, answer))

        self._link.ask_split(region, portion, on_answer)

    def _propose(self, turn: Turn, request: _Request, portion: Sequence[bytes], new_ids: Sequence[SplitIds]) -> None:
        peer = self._peers.get(request.region_id)
        if peer is None:
            self._end(request, RegionNotFound(region_id=request.region_id))
            return

        def on_applied(error: RegionError | None, results: Results) -> None:
            if error is None:
                self._on_applied(request, results or ())  # type: ignore[arg-type]  # an applied split's results are regions
            else:
                self._end(request, error)

        if request.epoch != peer.region.epoch:
            self._end(request, peer.epoch_not_match(request.epoch.version))
            return
        if self.is_transactional and any(map(is_plain, portion)):
            refusal = "the cluster has come to hold transactions, and is split at memcomparable keys only"
            self._end(request, SplitRefusedError(refusal))
            return
        peer.calls.propose_admin(turn, splits.encode_split(request.epoch, portion, new_ids), on_applied)
        self._touch(peer)

    def _on_applied(self, request: _Request, regions: Sequence[Region]) -> None:
        self._link.report_split(regions)
        if self._requests.get(request.region_id) is not request:
            return
        *made, rest = regions
        request.made += made
        request.keys = request.keys[len(made) :]
        if not request.keys:
            self._end(request, None, [*request.made, rest])
            return
        request.epoch = rest.epoch
        self._ask_ids(request, rest)

    def _end(self, request: _Request, error: Exception | None, regions: Sequence[Region] = ()) -> None:
        if self._requests.get(request.region_id) is request:
            del self._requests[request.region_id]
            request.on_done(error, regions)
