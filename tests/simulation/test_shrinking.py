"""Failures with fewer faults, and histories for reading."""

from __future__ import annotations

import re

import msgspec
import pytest

from pytinykv.simulation import Result, run_scenario
from pytinykv.simulation.shrinking import shrink
from pytinykv.simulation.timeline import moments, timeline_text
from pytinykv.simulation.timeline_page import timeline_html
from pytinykv.simulation.timeline_spans import spans_of


def test_a_failure_keeps_the_faults_that_it_needs() -> None:
    def run(_failed: Result | None, without: list[str]) -> Result:
        kinds = [kind for kind in ("crashes", "stalls", "partitions") if kind not in without]
        failed = "stalls" in kinds
        return Result(
            scenario="storm", seed=7, kinds=kinds, without=without, checker="answers" if failed else "", failure="x"
        )

    smallest = shrink(run(None, []), run)
    assert smallest.kinds == ["stalls"]
    assert smallest.command == "tinykv sim --scenario storm --seed 7 --without crashes --without partitions"


def test_another_failure_is_not_taken_for_the_same() -> None:
    def run(_failed: Result | None, without: list[str]) -> Result:
        checker = "leaks" if without else "answers"
        return Result(scenario="storm", seed=7, kinds=["crashes"], without=without, checker=checker, failure="x")

    failed = run(None, [])
    assert shrink(failed, run) is failed


def test_what_is_left_out_is_left_out_and_the_rest_stays() -> None:
    whole = run_scenario("storm", 3)
    less = run_scenario("storm", 3, without=whole.kinds[:-1])
    assert less.ok
    assert less.kinds == whole.kinds[-1:]
    assert set(less.coverage) == set(less.kinds)
    assert sum(less.coverage[less.kinds[0]].values()) > 0


@pytest.fixture(scope="module")
def history() -> Result:
    return run_scenario("figure-8", 1, keep_lines=True)


def test_a_timeline_tells_who_died_and_what_clients_saw(history: Result) -> None:
    kinds = {each.kind for each in moments(history.lines)}
    assert {"process", "crash", "invoke", "complete", "partition", "stopped"} <= kinds
    assert "deliver" not in kinds
    text = timeline_text(history)
    assert text.startswith("figure-8 seed 1 [short reigns]: right, digest ")
    assert any("store-" in line and " crash " in line for line in text.splitlines())


def test_the_page_has_a_lane_for_each_host_and_escapes_what_it_shows(history: Result) -> None:
    page = timeline_html(history)
    lanes = spans_of(history).lanes
    assert lanes[:3] == ["world", "scheduler", "store-1"]
    assert lanes[-1].startswith("client-")
    assert msgspec.json.encode(lanes).decode() in page
    assert "tinykv sim --scenario figure-8 --seed 1" in page
    assert re.search(r"@[A-Z_]+@", page) is None
    failed = Result(scenario="storm", seed=1, failure="<b>", checker="answers", lines=["1.0 crash store-1"])
    assert "&lt;b&gt;" in timeline_html(failed)
    failed.lines.append("2.0 invoke client-1 put </script><script>alert(1)")
    assert "</script><script>alert" not in timeline_html(failed)


def test_transactions_are_operations_too() -> None:
    history = run_scenario("transactions", 1, keep_lines=True)
    told = spans_of(history).operations
    assert {one.kind for one in told} == {"append", "transfer"}
    assert {one.lane for one in told} == {f"client-{number}" for number in range(1, 5)}
    assert any(one.outcome == "done" and "list-" in one.answer for one in told)


def test_a_long_history_has_five_stores_and_fifteen_seconds_and_says_so() -> None:
    for scenario in ("stale-scheduler", "basic"):
        result = run_scenario(scenario, 1, is_long=True)
        assert result.ok, result.failure
        assert result.stores == 5
        assert result.virtual_s >= 15
        assert result.command.endswith(" --long")
