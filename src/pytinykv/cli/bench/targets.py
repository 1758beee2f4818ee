"""What is measured: a playground's cluster through our own client."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient


class PytinykvTarget:
    """A running cluster; one client, as an application would have."""

    name = "pytinykv"

    def __init__(self, client: AsyncClient) -> None:
        raw = client.raw
        self.put = raw.put
        self.get = raw.get
