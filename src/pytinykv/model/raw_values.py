"""The stored form of a raw value: when it expires, and the user's bytes.

    00 value                        never expires
    01 expires_at_s:8 value         expires at that second of the Unix epoch (big-endian)

An expired value is absent for every reader from that second on; some time later `raftstore.expiry` deletes it.
"""

from __future__ import annotations

from typing import TypeVar

from pytinykv.model.codec import FormatError

Stored = TypeVar("Stored", bytes, memoryview)

_FOREVER = b"\x00"
_EXPIRES = b"\x01"


def encode_raw_value(value: bytes, expires_at_s: int = 0) -> bytes:
    """Return the stored form; `expires_at_s` 0 means never."""
    if not expires_at_s:
        return _FOREVER + value
    return _EXPIRES + expires_at_s.to_bytes(8, "big") + value


def live_value(stored: Stored | None, now_s: int) -> Stored | None:
    """Return the user's value, or None when there is none or it has expired; of a view, a view. Raises FormatError."""
    if stored is None:
        return None
    if stored[:1] == _FOREVER:
        return stored[1:]
    if stored[:1] != _EXPIRES or len(stored) < 9:
        raise FormatError(f"raw value: unknown format {stored[:1].hex()}")
    return stored[9:] if int.from_bytes(stored[1:9], "big") > now_s else None


def has_expired(stored: bytes | None, now_s: int) -> bool:
    """Say whether a stored value is one that readers must not see any more. A form we don't know has not expired."""
    expires_s = None if stored is None else expiry_s(stored)
    return expires_s is not None and expires_s <= now_s


def expiry_s(stored: bytes) -> int | None:
    """Return the second of the Unix epoch at which a stored value expires; None for never, and for a form we don't know."""
    if stored[:1] != _EXPIRES or len(stored) < 9:
        return None
    return int.from_bytes(stored[1:9], "big")


def remaining_ttl_s(stored: bytes, now_s: int) -> int:
    """Return for how many more seconds a value lives that `live_value` has found alive; 0 means for ever."""
    if stored[:1] == _FOREVER:
        return 0
    return int.from_bytes(stored[1:9], "big") - now_s
