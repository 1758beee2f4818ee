"""Are there file descriptors left? A process without any takes no connections, and mostly can't even say so.

Without this, it shows as clients that wait, and as nothing else: gRPC, the event loop and the status port try again later.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from typing import Final, NamedTuple

NEAR: Final = 0.9
"""From this share of the limit on a warning is logged."""
FAR: Final = 0.8
"""Below this share the shortage counts as over."""


class Notice(NamedTuple):
    """What is to be logged."""

    level: int
    message: str


def count_descriptors() -> tuple[int, int]:
    """Return how many file descriptors this process has open, and how many it may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return len(os.listdir("/proc/self/fd")) - 1, limit  # noqa: PTH208 - names only; one is that of the list itself
    except OSError as error:
        return (limit if error.errno in {errno.EMFILE, errno.ENFILE} else 0), limit


class DescriptorWatch:
    """Says once that they run out, once that they are out, and once that it is over."""

    def __init__(self) -> None:
        self._told = logging.NOTSET
        """The level of what was told last, NOTSET while all is well."""

    def observe(self, count: int, limit: int) -> Notice | None:
        """Take note of how many are open; return what is news."""
        level = self._told
        if limit == resource.RLIM_INFINITY or count < FAR * limit:
            level = logging.NOTSET
        elif count >= limit - 1:  # a connection needs one, and so does whatever else is done to serve it
            level = logging.ERROR
        elif count >= NEAR * limit:
            level = max(logging.WARNING, self._told)
        if level == self._told:
            return None
        self._told = level
        many = f"{count} of {limit} file descriptors are open"
        advice = "close connections, or raise the limit (ulimit -n, LimitNOFILE=)"
        if level == logging.ERROR:
            return Notice(level, f"out of file descriptors, so that new connections wait: {many}; {advice}")
        if level == logging.WARNING:
            return Notice(level, f"file descriptors run out: {many}; {advice}")
        return Notice(logging.WARNING, f"there are file descriptors again: {many}")
