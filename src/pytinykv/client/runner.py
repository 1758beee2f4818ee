"""Who runs single commands: the executor of a cluster's client, or an embedded database."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, TypeVar

from pytinykv.client.answer_sizes import AnswerSizes
from pytinykv.client.commands import Command
from pytinykv.client.config import ClientConfig

_T = TypeVar("_T")


class Checked(Protocol):
    """What knows where a client can be used."""

    def check(self) -> None:
        """Raise `ClientForkedError` or `WrongEventLoopError` elsewhere."""


class CommandRunner(Protocol):
    """Runs commands. Deadlines are in its own time, `deadline` makes them; methods raise `ClientError`."""

    @property
    def config(self) -> ClientConfig: ...

    @property
    def origin(self) -> Checked: ...

    @property
    def answer_sizes(self) -> AnswerSizes:
        """For scans and batches, which bound the bytes of their answers."""

    def deadline(self, timeout_s: float | None) -> float:
        """Return the deadline of a call that begins now. Raises where none can begin."""

    async def execute(self, command: Command[_T], deadline: float) -> _T:
        """Run a command and return its result."""

    def submit(self, command: Command[Any], deadline: float) -> asyncio.Future[Any] | None:
        """Send a command ahead of need; None if that can't be done now."""

    async def finish(self, command: Command[_T], future: asyncio.Future[Any], deadline: float) -> _T:
        """Return the result of a command that was submitted."""
