"""The end of a playground with the process that started it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

PARENT_INTERVAL_S: Final = 0.5
"""How often it is looked whether the parent is there."""


async def end_with_parent(parent: int) -> None:
    """Ask this process to stop once `parent` is not its parent any more.

    (The kernel could tell, but does so when the parent's *thread* that started this process ends.)
    """
    while os.getppid() == parent:  # noqa: ASYNC110 - of the end of a parent there is no event
        await asyncio.sleep(PARENT_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
