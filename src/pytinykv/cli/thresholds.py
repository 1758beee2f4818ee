"""Options of `tinykv scheduler`, `store` and `playground` for settings of a component: when regions split and move.

The rest of a component's settings can be given in the configuration file only ([scheduler.settings], [store.raftstore]); an
option wins over the file. The playground has the options of both, and hands them on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from pytinykv.cli.options import Number, option

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:  # generic for the type checker; at run time only in the newest click
    _SizeType = click.ParamType[int]
else:
    _SizeType = click.ParamType

_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Size(_SizeType):
    """A number of bytes, with a unit if one likes: 96MiB, 1.5GB, 4096. KB and KiB are both 1024 bytes, as in TiKV."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes. Fails, naming it, if it is none, or nothing."""
        found = _SIZE.fullmatch(str(value))
        number = round(float(found[1]) * 1024 ** _POWERS[found[2].lower()]) if found else 0
        if number < 1:
            self.fail(f"{value!r} is no size; write as in 96MiB", param, ctx)
        return number


class Threshold(NamedTuple):
    """An option, and the setting that it stands for."""

    flag: str
    setting: str
    type: click.ParamType[Any]
    metavar: str
    help: str

    @property
    def parameter(self) -> str:
        """The name under which a command's function gets it."""
        return self.flag.lstrip("-").replace("-", "_")


SCHEDULER: Final = (
    Threshold(
        "--max-replicas",
        "max_replicas",
        click.IntRange(1, 99),
        "N",
        "How many replicas of each region to keep.  [default: 3]",
    ),
    Threshold(
        "--max-store-down-time",
        "max_store_down_time_s",
        Number(min=0, min_open=True),
        "SECONDS",
        "Replace the peers of a store that is silent for this long, if there is a spare.  [default: 1800]",
    ),
    Threshold(
        "--leader-balance-tolerance",
        "leader_balance_tolerance",
        click.IntRange(min=2),
        "N",
        "Move a leader once two stores differ by so many.  [default: 2]",
    ),
    Threshold(
        "--region-balance-tolerance",
        "region_balance_tolerance_ratio",
        Number(min=0),
        "RATIO",
        "Move a peer once two stores differ by this share of what a store carries.  [default: 0.05]",
    ),
    Threshold(
        "--gc-life-time",
        "gc_life_time_s",
        Number(min=0),
        "SECONDS",
        "How long old versions can still be read, before they are collected; 0: for good.  [default: 600]",
    ),
)
STORE: Final = (
    Threshold(
        "--region-max-size", "region_max_bytes", Size(), "SIZE", "Split a region that is larger.  [default: 144MiB]"
    ),
    Threshold(
        "--region-split-size",
        "region_split_bytes",
        Size(),
        "SIZE",
        "Into parts of about this size.  [default: 96MiB, or two thirds of --region-max-size]",
    ),
)


def threshold_options(*groups: tuple[Threshold, ...]) -> Callable[[F], F]:
    """Return what adds the options; the function gets each by name, None if it was not given."""

    def add(function: F) -> F:
        for one in reversed([one for group in groups for one in group]):
            function = option(one.flag, type=one.type, default=None, metavar=one.metavar, help=one.help)(function)
        return function

    return add


def with_thresholds(
    settings: Mapping[str, Any], group: tuple[Threshold, ...], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a component's settings as the options in `given` change them, and what follows from those that stand alone."""
    changed = {one.setting: value for one in group if (value := given.get(one.parameter)) is not None}
    return {**_implied(changed), **settings, **changed}


def _implied(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that have to follow another one, unless they are given as well."""
    implied: dict[str, Any] = {}
    if (down_s := changed.get("max_store_down_time_s")) is not None:
        implied["store_disconnect_time_s"] = min(20.0, down_s)
    if (largest := changed.get("region_max_bytes")) is not None:
        implied["region_split_bytes"] = min(96 << 20, max(1, largest * 2 // 3))
    elif (part := changed.get("region_split_bytes")) is not None:
        implied["region_max_bytes"] = max(144 << 20, part * 3 // 2)
    return implied


def as_flags(group: tuple[Threshold, ...], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options in `given` as they stand on a command line."""
    return tuple(
        word for one in group if (value := given.get(one.parameter)) is not None for word in (one.flag, str(value))
    )
