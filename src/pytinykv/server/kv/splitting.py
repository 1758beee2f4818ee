"""`SplitRegion`: a region split where a client says.

Keys are those of pairs. A boundary is the key itself where `is_raw_kv` says that it is a raw one, else its memcomparable
form, which is what transactional clients expect. A plain boundary would break them: once the store holds transactional data,
raw keys stand for their memcomparable form, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytinykv.model import region_to_pb
from pytinykv.raftstore.split_keys import holds_transactional_data
from pytinykv.server.kv.kinds import InvalidRequestError
from pytinykv.wire.errors import KeyNotInRegion, RegionError
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.limits import key_problem
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

if TYPE_CHECKING:
    from pytinykv.model import Region
    from pytinykv.raftstore import RegionPeer
    from pytinykv.server.kv.txn_host import TransactionHost


def split_region(
    host: TransactionHost, peer: RegionPeer, request: pb.SplitRegionRequest, on_answer: Callable[[bytes], None]
) -> None:
    """Split the region; `on_answer` gets the encoded response, now or later.

    Raises InvalidRequestError, KeyNotInRegion.
    """
    store, keys = host.store, list(request.split_keys) or [request.split_key]
    for key in keys:
        if (problem := key_problem(key)) is not None:
            raise InvalidRequestError(f"split {problem}")
    is_plain = request.is_raw_kv and not (store.splits.is_transactional or holds_transactional_data(store.engine))
    bounds = keys if is_plain else [encode_bytes(key) for key in keys]
    region = peer.region
    for bound in bounds:
        if not region.contains(bound):
            raise KeyNotInRegion(key=bound, region_id=region.id, start_key=region.start_key, end_key=region.end_key)

    def on_done(error: Exception | None, regions: Sequence[Region]) -> None:
        on_answer(_response(error, regions).SerializeToString())

    store.splits.split(peer.region.id, bounds, on_done)


def _response(error: Exception | None, regions: Sequence[Region]) -> pb.SplitRegionResponse:
    if isinstance(error, RegionError):
        return pb.SplitRegionResponse(region_error=error.to_pb())
    if error is not None:
        return pb.SplitRegionResponse(errors=[pb.KeyError(abort=str(error))])
    made = [region_to_pb(region) for region in regions]
    return pb.SplitRegionResponse(left=made[0], right=made[-1], regions=made)
