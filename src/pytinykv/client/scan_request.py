"""What a scan asks for. Every face of the client checks its arguments into one record, which travels down to the pages."""

from __future__ import annotations

from typing import NamedTuple, Self

from pytinykv.client.arguments import checked_limit, checked_range, checked_timeout
from pytinykv.client.key_space import KeyRange


class ScanRequest(NamedTuple):
    """A scan's arguments, checked."""

    range_: KeyRange | None
    """The keys that are meant; None if no key can be among them."""
    limit: int | None
    """Pairs at most; None for all."""
    reverse: bool
    """In descending order."""
    key_only: bool
    """Without the values."""
    timeout_s: float | None
    """For each page, with all its retries; None is the client's default."""

    @classmethod
    def checked(
        cls,
        start: bytes,
        end: bytes | None,
        *,
        prefix: bytes | None,
        limit: int | None,
        reverse: bool,
        key_only: bool,
        timeout: float | None,
    ) -> Self:
        """Make one of the arguments of a `scan`. Raises `InvalidArgumentError` for what can't be right."""
        range_, limit = checked_range(start, end, prefix), checked_limit(limit)
        return cls(range_, limit, reverse=reverse, key_only=key_only, timeout_s=checked_timeout(timeout))
