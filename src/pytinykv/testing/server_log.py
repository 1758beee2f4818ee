"""What the servers of a cluster in this process log: the last lines, for the report of a test that fails."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

LINES_KEPT: Final = 2_000


class ServerLog(logging.Handler):
    """Keeps the last lines that loggers of pytinykv have written in the threads of one cluster."""

    def __init__(self, threads: str) -> None:
        """`threads`: what the names of the cluster's threads begin with."""
        super().__init__()
        self._threads: Final = threads
        self._lines: Final[deque[str]] = deque(maxlen=LINES_KEPT)
        """The newest lines; added by the threads that log."""
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"))

    def open(self) -> None:
        """Begin to keep what is logged."""
        logging.getLogger("pytinykv").addHandler(self)

    def close(self) -> None:
        """Keep no more; what there is stays."""
        logging.getLogger("pytinykv").removeHandler(self)
        super().close()

    def text(self) -> str:
        """Return what was kept."""
        return "\n".join(list(self._lines))

    def emit(self, record: logging.LogRecord) -> None:
        if (record.threadName or "").startswith(self._threads):
            self._lines.append(self.format(record))
