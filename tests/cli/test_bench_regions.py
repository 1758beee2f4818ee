"""`tinykv bench --regions`: its figures and their targets, its bookkeeping of puts, and its steps on a small cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.processes import tinykv

from pytinykv.cli.bench.figures import Bound, Figure, Figures
from pytinykv.cli.bench.put_load import PutLoad
from pytinykv.cli.bench.split_load import VALUE_BYTES, balance_of, difference, load_key, load_value
from pytinykv.client.errors import UndeterminedError
from pytinykv.lifecycle import Scope
from pytinykv.model import Peer, PeerRole, Region, RegionEpoch

# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bound", "is_met"),
    [
        (200.0, Bound.AT_MOST, True),
        (200.1, Bound.AT_MOST, False),
        (200.0, Bound.AT_LEAST, True),
        (199.9, Bound.AT_LEAST, False),
        (1e9, None, None),
    ],
)
def test_a_figure_tells_whether_its_target_was_met(value: float, bound: Bound | None, is_met: bool | None) -> None:
    figures = Figures("3 regions")
    figures.add(Figure("split", "longest put", value, "ms", bound, 200))
    [told] = figures.as_json()["figures"]
    assert told["met"] is is_met
    assert len(list(figures.problems())) == (is_met is False)
    _, told_line = figures.lines()
    assert told_line.startswith({None: "       ", True: "met    ", False: "MISSED "}[is_met])


def test_what_was_missed_and_what_failed_are_problems() -> None:
    figures = Figures("3 regions", errors=["rolling: 2 × UndeterminedError: lost"])
    figures.add(Figure("rolling", "longest put", 612.4, "ms", Bound.AT_MOST, 500))
    assert list(figures.problems()) == [
        "rolling: longest put: 612 ms, target ≤ 500 ms",
        "rolling: 2 × UndeterminedError: lost",
    ]


# --- puts -------------------------------------------------------------------------------------------------------------


class SlowStore:
    """Answers puts when it is told to, and fails those of some keys."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.began = 0

    async def put(self, key: bytes, _value: bytes) -> None:
        self.began += 1
        await self.gate.wait()
        await asyncio.sleep(0)
        if key.endswith(b"3"):
            raise UndeterminedError("lost")


def load_of(store: SlowStore, scope: Scope, count: int | None) -> PutLoad:
    client: Any = SimpleNamespace(raw=store)
    load = PutLoad(client, scope, 4, lambda number: b"%d" % number, lambda _number: b"", count)
    load.start()
    return load


async def test_every_put_is_counted_once_as_done_or_failed() -> None:
    async with Scope("test") as scope:
        store = SlowStore()
        load = load_of(store, scope, 20)
        store.gate.set()
        window = await load.wait()
    assert (window.puts, window.failures) == (18, {"UndeterminedError: lost": 2})


async def test_a_put_that_still_waits_when_a_window_ends_counts_for_its_pause() -> None:
    async with Scope("test") as scope:
        store = SlowStore()
        load = load_of(store, scope, None)
        with load.window() as window:
            while store.began < 4:
                await asyncio.sleep(0)
        store.gate.set()
        total = await load.end()
    assert window.puts == 0
    assert 0 < window.longest_s <= total.longest_s
    assert total.puts + total.failures.total() == store.began


# --- balance ----------------------------------------------------------------------------------------------------------


def test_a_store_holds_the_keys_of_its_regions() -> None:
    def region(number: int, start: bytes, end: bytes, *stores: int) -> Any:
        peers = tuple(Peer(number * 10 + store, store, PeerRole.VOTER) for store in stores)
        return SimpleNamespace(region=Region(number, start, end, RegionEpoch(1, 1), peers), leader=peers[0])

    keys = sorted(map(load_key, range(10)))
    found = balance_of([region(1, b"", keys[4], 1, 2), region(2, keys[4], b"", 1, 3)], [1, 2, 3], keys)
    size = VALUE_BYTES + len(keys[0])
    assert found.bytes_by_store == {1: 10 * size, 2: 4 * size, 3: 6 * size}
    assert found.leaders_by_store == {1: 2, 2: 0, 3: 0}
    assert found.bytes_difference == pytest.approx(90)
    assert not found.is_even


def test_equal_stores_do_not_differ() -> None:
    assert difference([7, 7, 7]) == difference([0, 0]) == 0
    assert difference([9, 11]) == pytest.approx(20)


def test_what_is_loaded_has_different_keys_and_full_values() -> None:
    assert len({load_key(number) for number in range(10_000)}) == 10_000
    assert {len(load_value(number)) for number in range(1000)} == {VALUE_BYTES}


# --- a cluster --------------------------------------------------------------------------------------------------------


def test_steps_on_a_few_regions(tmp_path: Path) -> None:
    """How fast they were decides nothing on a busy machine; that nothing failed does. Restarts cost seconds: one only."""
    save = tmp_path / "figures.json"
    steps = ["puts", "split", "kill", "idle"]
    done = tinykv(
        *("bench", "--rounds", 0, "--regions", 5, "--region-steps", ",".join(steps), "--save", save),
        *("--region-seconds", 0.1, "--region-idle", 0),
    )
    told = json.loads(save.read_text())["regions"]
    assert told["title"] == "5 regions × 3 replicas", done.stderr
    assert {figure["step"] for figure in told["figures"]} == {"prepare", *steps}
    assert all(figure["value"] > 0 for figure in told["figures"] if figure["unit"] not in {"", "%"})
    assert told["errors"] == []
    missed = [figure["name"] for figure in told["figures"] if figure["met"] is False]
    assert done.returncode == bool(missed)
    assert all(name in done.stderr.decode() for name in missed)


def test_an_unknown_step_is_refused_by_name() -> None:
    done = tinykv("bench", "--regions", 5, "--region-steps", "puts,sleep")
    assert done.returncode == 2
    assert b"'sleep' is no step; there are puts, split" in done.stderr
