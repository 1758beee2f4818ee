"""What a scope owns: the interface of its members, the stages of its stop, and the books that it keeps."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.lifecycle.report import Leak, StopReport
from pytinykv.waitgraph import CallSite, Label
from pytinykv.waitgraph.stacks import UNKNOWN_SITE

MOMENT_S: Final = 0.05
"""What a step of a stop gets when all of the time has been used up."""

StageFunction = Callable[[], Awaitable[object] | object]


class Member(ABC):
    """Something a scope owns besides tasks and threads: a server, a channel, a child process, another scope."""

    stop_margin_s: float = MOMENT_S
    """What `stop_member` may take past its deadline before it is cancelled."""

    def __init__(self, name: str, made_at: CallSite = UNKNOWN_SITE) -> None:
        """Give it its name, and the line that made it if that is known."""
        self.name: Final = name
        """What it is called in logs and reports: the names of the scopes above it, and its own, joined by slashes."""
        self.made_at: Final = made_at
        """Shown in reports and in the wait-for graph; read from any thread."""

    @abstractmethod
    async def stop_member(self, deadline_s: float) -> None:
        """End it within `deadline_s` seconds; idempotent."""

    @abstractmethod
    def leaks(self) -> Sequence[Leak]:
        """Return what of it is still there."""

    @property
    def report(self) -> StopReport | None:
        """The report of its stop, if it has one of its own; a part of the scope's report then."""
        return None

    # What follows is for explaining and counting, and is called from any thread.

    def labels(self) -> Sequence[Label]:
        """Return the tasks, threads and child processes that run on its behalf."""
        return ()

    @property
    def port(self) -> int | None:
        """The port that it listens on, if it does."""
        return None


class Stage(NamedTuple):
    """One registered step of a stop."""

    name: str
    function: StageFunction
    deadline_s: float
    registered_at: CallSite


@dataclass(slots=True)
class Books:
    """What a scope owns. What has ended is removed; a stop goes through the fields from the first to the last."""

    stages: list[Stage] = field(default_factory=list)
    """In the order in which they run."""
    members: dict[Member, None] = field(default_factory=dict)
    """The newest last; stopped newest first."""
    tasks: dict[asyncio.Task[Any], OwnedTask[Any]] = field(default_factory=dict)
    """Those that have not ended."""
    excused: set[asyncio.Task[Any]] = field(default_factory=set)
    """Of the tasks, those that called `stop`, and so are neither cancelled nor waited for."""
    threads: dict[OwnedThread, None] = field(default_factory=dict)
    """Those whose target has not returned."""
    last_stages: list[Stage] = field(default_factory=list)
    """Run when all of the above is over, the newest first."""
