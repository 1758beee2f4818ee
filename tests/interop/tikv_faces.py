"""tikv-python's two faces behind one shape, so that each test runs with both."""

from __future__ import annotations

from typing import Any, Protocol

import tikv


class Face(Protocol):
    """What the tests use; keyword arguments are tikv-python's own."""

    async def get(self, key: bytes) -> bytes | None: ...
    async def get_many(self, keys: list[bytes]) -> dict[bytes, bytes]: ...
    async def put(self, key: bytes, value: bytes, **options: Any) -> None: ...
    async def put_many(self, items: Any, **options: Any) -> None: ...
    async def delete(self, key: bytes) -> None: ...
    async def delete_many(self, keys: list[bytes]) -> None: ...
    async def delete_range(self, start: bytes | None = None, end: bytes | None = None, **options: Any) -> None: ...
    async def scan(self, start: bytes | None = None, end: bytes | None = None, **options: Any) -> list[Any]: ...
    async def scan_keys(self, start: bytes | None = None, end: bytes | None = None, **options: Any) -> list[Any]: ...
    async def ttl(self, key: bytes) -> int | None: ...
    async def checksum(self, **options: Any) -> tikv.Checksum: ...
    async def compare_and_swap(self, key: bytes, expected: bytes | None, new: bytes) -> tikv.CasResult: ...
    async def close(self) -> None: ...


class SyncFace:
    """The blocking client. It blocks this test's loop, on which nothing else runs."""

    def __init__(self, address: str, **options: Any) -> None:
        self._client = tikv.RawClient([address], **options)

    async def scan(self, *args: Any, **options: Any) -> list[Any]:
        return list(self._client.scan(*args, **options))

    async def scan_keys(self, *args: Any, **options: Any) -> list[Any]:
        return list(self._client.scan_keys(*args, **options))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(*args: Any, **options: Any) -> Any:
            return method(*args, **options)

        return call


class AsyncFace:
    """The asyncio client."""

    def __init__(self, address: str, **options: Any) -> None:
        self._client = tikv.AsyncRawClient([address], **options)

    async def scan(self, *args: Any, **options: Any) -> list[Any]:
        return [pair async for pair in self._client.scan(*args, **options)]

    async def scan_keys(self, *args: Any, **options: Any) -> list[Any]:
        return [key async for key in self._client.scan_keys(*args, **options)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


FACES = {"sync": SyncFace, "async": AsyncFace}
