"""What happened in one simulated history, as a digest and, on request, as lines.

Two runs of one seed must agree on every event: what was sent and delivered when, which disk write became durable, which
process fell, what each client saw. Each event goes into a running BLAKE2 digest, so a run is compared with another by
sixteen hex digits, and the place where two runs part is found by comparing their lines.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, deque
from collections.abc import Callable
from zlib import crc32

LINES_KEPT = 20_000
_MESSAGE = struct.Struct("<dII")


class Trace:
    """The running digest of all events, and the last lines of them when `keep_lines` is set.

    Events are built from names, numbers and times only: never from `id()`, `hash()` of a string, or a default task name,
    which differ between interpreters.
    """

    def __init__(self, now: Callable[[], float], *, keep_lines: bool = False) -> None:
        self._now = now
        self._digest = hashlib.blake2b(digest_size=8)
        self._links: dict[tuple[str, str], bytes] = {}
        """Link -> its name as bytes."""
        self.events = 0
        """Events recorded, messages included."""
        self.counts: Counter[str] = Counter()
        """How often each kind of event was recorded, messages aside."""
        self.lines: deque[str] | None = deque(maxlen=LINES_KEPT) if keep_lines else None
        """The last lines, if they are kept."""

    def record(self, kind: str, *details: object) -> None:
        """Add one event. `details` need a `str` that is the same in every interpreter."""
        self.events += 1
        self.counts[kind] += 1
        line = f"{self._now():.9f} {kind} {' '.join(map(str, details))}"
        self._digest.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    def record_message(self, kind: str, link: tuple[str, str], payload: bytes) -> None:
        """Add what happened to one message on a link; the same as `record`, but quick, for there are many of these."""
        self.events += 1
        check = crc32(payload)
        self._digest.update(_MESSAGE.pack(self._now(), len(payload), check))
        self._digest.update(self._links.get(link) or self._name(link))
        if self.lines is not None:
            self.lines.append(f"{self._now():.9f} {kind} {link[0]} {link[1]} {len(payload)} {check:08x}")

    def _name(self, link: tuple[str, str]) -> bytes:
        name = self._links[link] = f"{link[0]} {link[1]}".encode()
        return name

    def digest(self) -> str:
        """Return the digest of everything recorded so far, 16 hex digits."""
        return self._digest.copy().hexdigest()
