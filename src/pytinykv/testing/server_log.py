"""What the servers of a cluster in this process log: kept for the report of a test that fails, and else not shown.

While such a cluster lives, the loggers of our modules let everything from INFO on through to one filter here. It keeps what
the threads of a cluster write, and lets handlers have what they would have got without it: a test that looks at what was
logged sees no more than before. (Handlers can't be kept out otherwise: pytest's go also to loggers that don't propagate.)
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

LINES_KEPT: Final = 2_000
_OURS: Final = "pytinykv."


class ServerLog:
    """The last lines that were logged in the threads of one cluster."""

    def __init__(self, threads: str) -> None:
        """`threads`: what the names of the cluster's threads begin with."""
        self.threads: Final = threads
        self._lines: Final[deque[str]] = deque(maxlen=LINES_KEPT)
        """The newest lines; added by the threads that log."""

    def open(self) -> None:
        """Begin to keep what is logged."""
        _router.add(self)

    def close(self) -> None:
        """Keep no more; what there is stays. Idempotent."""
        _router.remove(self)

    def add(self, line: str) -> None:
        """Keep a line."""
        self._lines.append(line)

    def text(self) -> str:
        """Return what was kept."""
        return "\n".join(list(self._lines))


class _Router(logging.Filter):
    """See the module. There is one, which is a filter of our loggers while any cluster lives."""

    def __init__(self) -> None:
        super().__init__()
        self._format: Final = logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s").format
        self._logs: tuple[ServerLog, ...] = ()
        """Those of the clusters that live. Replaced under `_change`, read in any thread."""
        self._change: Final = threading.Lock()
        """Held to change what is remembered here."""
        self._before: dict[str, tuple[logging.Logger, int, int]] = {}
        """By name: each logger that has the filter, its level before, and the level that held for it."""

    def add(self, log: ServerLog) -> None:
        with self._change:
            self._logs = (*self._logs, log)
            for name, logger in list(logging.root.manager.loggerDict.items()):
                if name.startswith(_OURS) and isinstance(logger, logging.Logger) and name not in self._before:
                    shown_from = logger.getEffectiveLevel()
                    self._before[name] = (logger, logger.level, shown_from)
                    logger.addFilter(self)
                    logger.setLevel(min(logging.INFO, shown_from))

    def remove(self, log: ServerLog) -> None:
        with self._change:
            self._logs = tuple(one for one in self._logs if one is not log)
            if self._logs:
                return
            before, self._before = self._before, {}
            for logger, level, _ in before.values():
                logger.setLevel(level)
                logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record of a cluster's thread; say whether handlers are to have it."""
        thread = record.threadName or ""
        for log in self._logs:
            if thread.startswith(log.threads):
                log.add(self._format(record))
        known = self._before.get(record.name)
        return known is None or record.levelno >= known[2]


_router: Final = _Router()
