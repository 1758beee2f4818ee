from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from pytinykv.lifecycle import Scope
from pytinykv.server.host.leadership_log import tell_leaderships


async def test_how_many_regions_a_store_leads_is_told_when_it_has_changed(
    scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pytinykv.server.host")
    peers = {number: SimpleNamespace(is_leader=number == 2) for number in (2, 3)}
    store: Any = SimpleNamespace(store_id=4, peers=peers)
    scope.start("tell", tell_leaderships, store, 0.0)
    for _ in range(5):
        await asyncio.sleep(0)
    peers[3].is_leader = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert caplog.messages == ["store 4 leads 1 of 2 regions", "store 4 leads 2 of 2 regions"]
