"""The region lookups of `pdpb.PD`. They answer in full or not at all (`LookupIncomplete`)."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from pytinykv.scheduler.cluster_view import require_leader
from pytinykv.scheduler.errors import InvalidInput, LookupIncomplete
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.server.pd.convert import lookup_to_pb, queried_to_pb, scan_response, scanned_to_pb
from pytinykv.wire.pb import pdpb_pb2


class RegionQueries:
    """Answers questions about where keys are. `header` makes the header of a response."""

    def __init__(self, scheduler: Scheduler, header: Callable[[], pdpb_pb2.ResponseHeader]) -> None:
        self._scheduler = scheduler
        self._header = header

    async def get_region(self, request: pdpb_pb2.GetRegionRequest) -> Message:
        return lookup_to_pb(self._header(), self._scheduler.cluster.lookup(request.region_key))

    async def get_prev_region(self, request: pdpb_pb2.GetRegionRequest) -> Message:
        """Answer with the region before the one that holds the key; without one if that is the first."""
        region = self._scheduler.cluster.lookup_previous(request.region_key)
        if region is None:
            return pdpb_pb2.GetRegionResponse(header=self._header())
        return lookup_to_pb(self._header(), region)

    async def get_region_by_id(self, request: pdpb_pb2.GetRegionByIDRequest) -> Message:
        """Answer without a region if there is none of that id: it may have been merged away, asking again won't help."""
        region = self._scheduler.cluster.regions.get(request.region_id)
        if region is None:
            return pdpb_pb2.GetRegionResponse(header=self._header())
        return lookup_to_pb(self._header(), require_leader(region))

    async def scan_regions(self, request: pdpb_pb2.ScanRegionsRequest) -> Message:
        found = self._scheduler.cluster.lookup_range(request.start_key, request.end_key, max(request.limit, 0))
        return scan_response(self._header(), found)

    async def batch_scan_regions(self, request: pdpb_pb2.BatchScanRegionsRequest) -> Message:
        """Answer with the regions of all ranges, each region once. The ranges must be in order and not overlap."""
        limit = max(request.limit, 0)
        found: list[ReportedRegion] = []
        for wanted in self._checked_ranges(request):
            start = wanted.start_key
            if found and found[-1].meta.contains(start):
                start = found[-1].meta.end_key
                if not start or (wanted.end_key and start >= wanted.end_key):
                    continue
            if limit and len(found) >= limit:
                break
            found.extend(self._scheduler.cluster.lookup_range(start, wanted.end_key, limit and limit - len(found)))
        return pdpb_pb2.BatchScanRegionsResponse(header=self._header(), regions=[scanned_to_pb(one) for one in found])

    def query(self, request: pdpb_pb2.QueryRegionRequest) -> pdpb_pb2.QueryRegionResponse:
        """Answer many questions at once; what is not known (or has no known leader) gets id 0, or is left out by id."""
        response = pdpb_pb2.QueryRegionResponse(header=self._header())
        cluster = self._scheduler.cluster

        def add(region: ReportedRegion | None) -> int:
            if region is None or region.leader is None:
                return 0
            if region.id not in response.regions_by_id:
                response.regions_by_id[region.id].CopyFrom(queried_to_pb(region))
            return region.id

        response.key_id_map.extend(add(cluster.regions.find(key)) for key in request.keys)
        response.prev_key_id_map.extend(add(self._previous(key)) for key in request.prev_keys)
        for region_id in request.ids:
            add(cluster.regions.get(region_id))
        return response

    def _previous(self, key: bytes) -> ReportedRegion | None:
        try:
            return self._scheduler.cluster.lookup_previous(key)
        except LookupIncomplete:
            return None

    def _checked_ranges(self, request: pdpb_pb2.BatchScanRegionsRequest) -> list[pdpb_pb2.KeyRange]:
        ranges = list(request.ranges)
        for index, one in enumerate(ranges):
            if one.end_key and one.start_key > one.end_key:
                raise InvalidInput(f"range {index} ends before it starts")
            if index and (not ranges[index - 1].end_key or ranges[index - 1].end_key > one.start_key):
                raise InvalidInput(f"range {index} overlaps the one before, or they are not in order")
        return ranges
