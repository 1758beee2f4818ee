"""Checks of what callers pass in, before anything is sent. Every message names the argument and what it should be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pytinykv.client.errors import InvalidArgumentError, InvalidTypeError
from pytinykv.client.key_space import KeyRange
from pytinykv.wire.cf import InvalidRawFamilyError, raw_column_family
from pytinykv.wire.keys import prefix_successor
from pytinykv.wire.limits import KEY_BYTES_MAX, TTL_S_MAX, bound_problem, key_problem
from pytinykv.wire.timestamp import MAX_TIMESTAMP

_TIMEOUT_S_MAX = 1e8
"""Three years. Longer timeouts are cut to it: timers can't count further."""


def checked_key(key: bytes, name: str = "key") -> bytes:
    """Return `key` if it can be the key of a pair."""
    if type(key) is not bytes:
        key = _as_bytes(key, name)
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise InvalidArgumentError(f"{name}: {key_problem(key)}")
    return key


def checked_value(value: bytes, bytes_max: int, name: str = "value") -> bytes:
    """Return `value` if it can be a value. An empty one can."""
    if type(value) is not bytes:
        value = _as_bytes(value, name)
    if len(value) > bytes_max:
        raise InvalidArgumentError(f"{name} is too long: {len(value)} bytes, at most {bytes_max} are allowed")
    return value


def _as_bytes(value: Any, name: str) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    hint = f"; encode it, as in {name}.encode()" if isinstance(value, str) else ""
    raise InvalidTypeError(f"{name} must be bytes, not {type(value).__name__}{hint}")


def checked_cf(cf: Any) -> str:
    """Return the column family as it travels: empty for the default one."""
    if not cf or cf == "default":
        return ""
    if not isinstance(cf, str):
        raise InvalidTypeError(f"cf must be a string, not {type(cf).__name__}")
    try:
        return raw_column_family(cf)
    except InvalidRawFamilyError as error:
        raise InvalidArgumentError(f"cf: {error}") from None


def checked_ttl(ttl: Any) -> int:
    """Return the time to live in seconds as it travels: 0 for None and infinity, a value that stays."""
    if ttl is None or ttl == math.inf:
        return 0
    if not isinstance(ttl, int) or isinstance(ttl, bool):
        raise InvalidTypeError(f"ttl must be a whole number of seconds, or None for a value that stays, not {ttl!r}")
    if not 1 <= ttl <= TTL_S_MAX:
        raise InvalidArgumentError(
            f"ttl must be 1 to {TTL_S_MAX} seconds (a hundred years), or None for a value that stays; it is {ttl}"
        )
    return int(ttl)


def checked_limit(limit: Any) -> int | None:
    """Return the limit of a scan; None is none."""
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise InvalidTypeError(f"limit must be a whole number or None, not {limit!r}")
    if limit < 0:
        raise InvalidArgumentError(f"limit must not be negative, is {limit}; leave it out for no limit")
    return int(limit)


def checked_timeout(timeout: Any) -> float | None:
    """Return a timeout in seconds, of years at most, so that infinity can be said; None is the client's default."""
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise InvalidTypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not timeout > 0:
        raise InvalidArgumentError(f"timeout must be positive, is {timeout}")
    return float(min(timeout, _TIMEOUT_S_MAX))


def checked_timestamp(ts: Any, name: str = "ts") -> int | None:
    """Return a timestamp of the cluster; None stays None."""
    if ts is None:
        return None
    if not isinstance(ts, int) or isinstance(ts, bool):
        raise InvalidTypeError(f"{name} must be a timestamp of the cluster (a whole number) or None, not {ts!r}")
    if not 0 < ts <= MAX_TIMESTAMP:
        raise InvalidArgumentError(f"{name} must be 1 to {MAX_TIMESTAMP}, is {ts}; db.timestamp() gives one of now")
    return int(ts)


def checked_range(start: bytes, end: bytes | None, prefix: bytes | None) -> KeyRange | None:
    """Return the range that the arguments mean; None if no key can be in it."""
    if prefix is not None:
        if start or end:
            raise InvalidArgumentError("give either prefix or start and end, not both")
        start = _checked_bound(prefix, "prefix")
        end = prefix_successor(start)
    start = _checked_bound(start, "start")
    end = b"" if end is None else _checked_bound(end, "end")
    return None if end and start >= end else KeyRange(start, end)


def checked_deletion(start: bytes, end: bytes | None, prefix: bytes | None, *, everything: bool) -> KeyRange | None:
    """As `checked_range`, for what removes keys: that all of them are meant has to be said, and only then."""
    if everything and (start or end or prefix):
        raise InvalidArgumentError("everything=True goes without start, end and prefix")
    found = checked_range(start, end, prefix)
    if not everything and found is not None and not (found.start or found.end):
        raise InvalidArgumentError(
            "start, end and prefix are empty, which means every key: say everything=True, or a range"
        )
    return found


def _checked_bound(bound: bytes, name: str) -> bytes:
    bound = _as_bytes(bound, name)
    if problem := bound_problem(bound):
        raise InvalidArgumentError(f"{name}: {problem}")
    return bound


def checked_keys(keys: Iterable[bytes]) -> list[bytes]:
    """Return the distinct keys in ascending order."""
    _refuse_one(keys, "keys")
    return sorted({checked_key(key, f"keys[{index}]") for index, key in enumerate(keys)})


def checked_pairs(
    pairs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]], value_bytes_max: int
) -> list[tuple[bytes, bytes]]:
    """Return the pairs in ascending order of their keys; of a key that comes twice, the last value."""
    _refuse_one(pairs, "pairs")
    result: dict[bytes, bytes] = {}
    for index, pair in enumerate(pairs.items() if isinstance(pairs, Mapping) else pairs):
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise InvalidTypeError(f"pairs[{index}] must be a (key, value) pair, not {pair!r}") from None
        key = checked_key(key, f"pairs[{index}] key")
        result[key] = checked_value(value, value_bytes_max, f"pairs[{index}] value")
    return sorted(result.items())


def _refuse_one(several: Any, name: str) -> None:
    """Refuse a single key where several are meant: iterating it would give its bytes."""
    if isinstance(several, (bytes, str)) or not isinstance(several, Iterable):
        raise InvalidTypeError(f"{name} must be several {name}, not {type(several).__name__}")


def taken(several: Iterable[Any]) -> Any:
    """Read an iterable in the caller's thread; what is none is left for the check to refuse."""
    return several if isinstance(several, (bytes, str)) or not isinstance(several, Iterable) else list(several)
