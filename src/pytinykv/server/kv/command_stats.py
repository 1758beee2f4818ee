"""What a store counts of its clients' commands: how long each kind takes, and what they are refused for.

A frame reads the clock once when it comes and once for each batch of answers, never per command: all commands of a batch took
as long, as its answers leave together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pytinykv.lifecycle.histogram import Histogram
from pytinykv.wire.errors import RegionError

if TYPE_CHECKING:
    from pytinykv.server.kv.kinds import CommandKind


class CommandStats:
    """Counts of one store. Written on the event loop, read by the status thread."""

    def __init__(self) -> None:
        self.commands: Final[dict[str, Histogram]] = {}
        """By the kind's name: from the frame that brought a command to its answer, success or not."""
        self.proposals: Final = Histogram()
        """From proposing the writes of a frame for a region until they are applied, and their answers made."""
        self.region_errors: Final[dict[str, int]] = {}
        """By the error's name in the protocol's spelling, how many commands were refused with it."""

    def observe(self, kind: CommandKind, seconds: float, times: int = 1) -> None:
        """Count commands of a kind that took so long."""
        histogram = self.commands.get(kind.name)
        if histogram is None:
            histogram = self.commands[kind.name] = Histogram()
        histogram.observe(seconds, times)

    def observe_all(self, kinds: Sequence[CommandKind], seconds: float) -> None:
        """Count commands that were answered together; almost always they are of one kind."""
        first = kinds[0]
        if kinds.count(first) == len(kinds):
            self.observe(first, seconds, len(kinds))
            return
        for kind in kinds:
            self.observe(kind, seconds)

    def refused(self, error: Exception, times: int = 1) -> None:
        """Count commands that were answered with a region error; any other is none."""
        if isinstance(error, RegionError):
            name = error.kind
            self.region_errors[name] = self.region_errors.get(name, 0) + times
