"""A client of transactions that speaks to a `Desk`, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.server.kv.kv_harness import Desk

from pytinykv.wire.pb import kvrpcpb_pb2 as pb


class TxnDesk(Desk):
    """A `Desk` with the commands of transactions; each returns the response."""

    async def prewrite(self, start_ts: int, values: Mapping[bytes, bytes], **fields: Any) -> pb.PrewriteResponse:
        """Prewrite puts, the first key as the primary."""
        mutations = [pb.Mutation(op=pb.Op.Put, key=key, value=value) for key, value in values.items()]
        wanted = {
            "mutations": mutations,
            "primary_lock": next(iter(values)),
            "start_version": start_ts,
            "lock_ttl": 3000,
        }
        return await self.call("KvPrewrite", **{**wanted, **fields})

    async def commit(self, start_ts: int, commit_ts: int, *keys: bytes) -> pb.CommitResponse:
        return await self.call("KvCommit", start_version=start_ts, commit_version=commit_ts, keys=keys)

    async def put(self, start_ts: int, commit_ts: int, values: Mapping[bytes, bytes]) -> None:
        """Commit puts."""
        assert await self.prewrite(start_ts, values) == pb.PrewriteResponse()
        assert await self.commit(start_ts, commit_ts, *values) == pb.CommitResponse(commit_version=commit_ts)

    async def get(self, key: bytes, version: int, **fields: Any) -> pb.GetResponse:
        return await self.call("KvGet", key=key, version=version, **fields)

    def lock_request(
        self, start_ts: int, *keys: bytes, for_update_ts: int = 0, **fields: Any
    ) -> pb.PessimisticLockRequest:
        """Return the request for pessimistic locks, the first key as the primary."""
        wanted = {
            "mutations": [pb.Mutation(op=pb.Op.PessimisticLock, key=key) for key in keys],
            "primary_lock": keys[0],
            "start_version": start_ts,
            "for_update_ts": for_update_ts or start_ts,
            "lock_ttl": 20_000,
            "wait_timeout": -1,
        }
        request = self.request("KvPessimisticLock", **{**wanted, **fields})
        assert isinstance(request, pb.PessimisticLockRequest)
        return request

    async def lock(self, start_ts: int, *keys: bytes, **fields: Any) -> pb.PessimisticLockResponse:
        return await self.finish(self.send("KvPessimisticLock", self.lock_request(start_ts, *keys, **fields)))

    async def send(self, name: str, request: Any) -> Any:
        """Send a request; the caller has to let happen what it needs."""
        path = f"/tikvpb.Tikv/{name}"
        return self.service.methods[path].response_type.FromString(await self.service.unary(path, request))
