"""Stops on a machine that is so busy that the loop itself comes late."""

from __future__ import annotations

import asyncio
import time

from tests.helpers import forever

from pytinykv.lifecycle import Scope, StageOutcome


async def test_a_step_that_keeps_its_own_deadline_has_not_overrun(scope: Scope) -> None:
    async def say_goodbye() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 0.2)  # as if other processes had the processor
        try:
            await asyncio.wait_for(forever(), 0.01)
        except TimeoutError:
            for _ in range(5):
                await asyncio.sleep(0)

    scope.on_stop("goodbye", say_goodbye, deadline_s=0.05)
    report = await scope.stop()
    assert [(stage.name, stage.outcome) for stage in report.stages] == [("goodbye", StageOutcome.OK)]
