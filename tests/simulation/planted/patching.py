"""How a bug is put in place of the real code, so that a plant that has gone stale is noticed.

The code below a plant changes. If its function then takes other arguments, or is not called any more, "found" says nothing:
the failure may be the plant's own `TypeError`, which the store took for a bug of its own, or there was no bug at all. So

* the replacement must take whatever the original takes, checked when it is planted,
* it must have run in the history that failed,
* no `TypeError`, `AttributeError` or `NameError` may come out of its own lines.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any

import pytest

STALE = (TypeError, AttributeError, NameError)


class StalePlantError(Exception):
    """A plant does not fit the code any more."""


class Patch:
    """Puts functions of a plant in place of the real ones, and watches them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.calls: Counter[str] = Counter()
        """How often each function that was put in place has run. It has an entry for each."""
        self.own_errors: list[str] = []
        """Errors that came out of the plant's own lines."""

    def setattr(self, target: Any, name: str, value: Any) -> None:
        """Replace an attribute until the test ends. Raises `StalePlantError` if it does not fit the original."""
        where = f"{getattr(target, '__name__', target)}.{name}"
        if isinstance(value, FunctionType):
            check_signature(where, getattr(target, name), value)
            value = self._watched(where, value)
        self._patch.setattr(target, name, value)

    def check(self) -> None:
        """Raise `StalePlantError` if the bug was not what ran, or failed by itself."""
        if self.own_errors:
            raise StalePlantError(f"the plant itself is broken: {self.own_errors[0]}")
        if unused := sorted(name for name, calls in self.calls.items() if not calls):
            raise StalePlantError(
                f"the code does not call {', '.join(unused)} any more: what failed was something else"
            )

    def _watched(self, where: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self.calls[where] = 0
        home = Path(function.__code__.co_filename)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def replacement(*args: Any, **options: Any) -> Any:
                with self._noting(where, home):
                    return await function(*args, **options)
        else:

            @functools.wraps(function)
            def replacement(*args: Any, **options: Any) -> Any:
                with self._noting(where, home):
                    return function(*args, **options)

        return replacement

    @contextmanager
    def _noting(self, where: str, home: Path) -> Iterator[None]:
        self.calls[where] += 1
        try:
            yield
        except STALE as error:
            if _innermost_file(error.__traceback__) == home:
                self.own_errors.append(f"{where}: {type(error).__name__}: {error}")
            raise


def check_signature(where: str, original: Any, function: Callable[..., Any]) -> None:
    """Raise `StalePlantError` unless `function` takes what `original` takes, with and without what is optional."""
    wanted = inspect.signature(original).parameters.values()
    for chosen in (wanted, [each for each in wanted if each.default is each.empty]):
        args = [None for each in chosen if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        options = {each.name: None for each in chosen if each.kind is each.KEYWORD_ONLY}
        try:
            inspect.signature(function).bind(*args, **options)
        except TypeError as error:
            raise StalePlantError(
                f"{where}{inspect.signature(original)} is replaced by what does not fit: {error}"
            ) from None


def _innermost_file(trace: TracebackType | None) -> Path:
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename)
