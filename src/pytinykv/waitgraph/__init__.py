"""Who waits for whom in a running asyncio program: tasks, threads, locks, queues, futures, and the cycle."""

from __future__ import annotations
