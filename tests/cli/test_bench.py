"""`tinykv bench`: its percentiles, its bookkeeping of acknowledged writes, and stops of real stores under load."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import signal
import sys
from collections.abc import AsyncIterator
from io import StringIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.cli.processes import started, tinykv, wait_until

from pytinykv.cli import main
from pytinykv.cli.bench.large_rows import IN_ONE_REGION, READS, VALUE_BYTES, LargeRowFigures, ReadFigures
from pytinykv.cli.bench.plot import save_plot
from pytinykv.cli.bench.processors import Processes, ProcessRole
from pytinykv.cli.bench.report import Results
from pytinykv.cli.bench.stops import Ledger, Stop, StopFigures, key_of, number_in, value_of
from pytinykv.cli.bench.workload import Latencies, OperationKind, Round, Workload, percentile, run_round
from pytinykv.lifecycle import Scope

# --- percentiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "value"), [(0.0, 1.0), (0.01, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(fraction: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], fraction) == value
    assert percentile([], fraction) == 0.0


@given(st.lists(st.integers(0, 5000), min_size=1), st.lists(st.integers(0, 5000)), st.floats(0, 1))
def test_counted_latencies_have_the_percentiles_of_the_values(first: list[int], more: list[int], at: float) -> None:
    counted, others = Latencies(), Latencies()
    for latencies, steps in ((counted, first), (others, more)):
        for step in steps:
            latencies.add(step / 100_000)
    counted.update(others)
    values = sorted(step / 100 for step in first + more)
    assert counted.count == len(values)
    assert counted.percentiles_ms(at, 1.0) == pytest.approx([percentile(values, at), values[-1]])


def test_no_latencies_have_no_percentiles() -> None:
    assert Latencies().percentiles_ms(0.5, 1.0) == [0.0, 0.0]


def test_what_is_kept_of_the_latencies_does_not_grow_with_the_rounds() -> None:
    """A report over all values held up the event loop for more than a second."""
    results = Results()
    workload = Workload(OperationKind.PUT, 1, 10_000)

    def kept_bytes(rounds: int) -> int:
        for _ in range(rounds):
            measured = Round(workload, "pytinykv", 1.0)
            for number in range(workload.operations):
                measured.latencies.add(number % 50 / 100_000)
            results.add(measured)
        [cell] = results.cells.values()
        return len(pickle.dumps(cell.latencies))

    after_one = kept_bytes(1)
    assert kept_bytes(9) < 2 * after_one
    assert results.as_json("etcd")["cells"][0]["latency_ms"] == pytest.approx({"p50": 0.24, "p99": 0.49, "max": 0.49})


async def test_a_round_whose_time_is_up_ends_for_all_its_workers_at_once() -> None:
    """Each worker looked at the clock for itself, at some of its operations: a round of 1.5 s took minutes."""

    async def put(_key: bytes, _value: bytes) -> None:
        await asyncio.sleep(0)

    async def processes() -> Processes:
        return {}

    target: Any = SimpleNamespace(name="fake", put=put, processes=processes)
    async with Scope("test") as scope:
        measured = await run_round(target, Workload(OperationKind.PUT, 64, 1_000_000, seconds_max=0.0), scope)
    assert measured.operations < 64


# --- processor time ---------------------------------------------------------------------------------------------------


async def test_a_round_counts_the_processor_time_of_each_role() -> None:
    async def get(_key: bytes) -> None:
        sum(range(100_000))

    async def processes() -> Processes:
        return {ProcessRole.CLIENT: [os.getpid()], ProcessRole.FOLLOWERS: [os.getppid(), os.getpid()]}

    target: Any = SimpleNamespace(name="fake", get=get, processes=processes)
    async with Scope("test") as scope:
        measured = await run_round(target, Workload(OperationKind.GET, 1, 100), scope)
    assert measured.processor_us(ProcessRole.FOLLOWERS) >= measured.processor_us(ProcessRole.CLIENT) > 0
    assert measured.processor_us(ProcessRole.LEADER) == 0
    assert measured.cores_busy > 0


def test_processor_time_is_reported_per_operation_and_role() -> None:
    results = Results()
    for seconds in (1.0, 2.0, 4.0):
        measured = Round(Workload(OperationKind.PUT, 256, 1000), "pytinykv", seconds)
        measured.processor_s = {ProcessRole.CLIENT: 0.25 * seconds, ProcessRole.LEADER: 0.5 * seconds}
        for _ in range(1000):
            measured.latencies.add(0.001)
        results.add(measured)
    [cell] = results.as_json("etcd")["cells"]
    assert cell["processor_us"] == {"client": 500.0, "leader": 1000.0}
    assert cell["cores_busy"] == 0.75
    shown = [each for column in results.processor_table().columns for each in column.cells]
    assert shown == ["put", "256", "pytinykv", "500", "1,000", "", "1,500", "0.75"]


def measured_results() -> Results:
    results = Results()
    for kind in OperationKind:
        for depth in (1, 256):
            for target, slower in (("pytinykv", 1.0), ("etcd", 5.0)):
                measured = Round(Workload(kind, depth, 100_000), target, slower * 2.5)
                roles = (ProcessRole.CLIENT, ProcessRole.LEADER, ProcessRole.FOLLOWERS)
                measured.processor_s = dict.fromkeys(roles, 1.25)
                for _ in range(99):
                    measured.latencies.add(0.0071 * slower)
                measured.latencies.add(12.345)
                results.add(measured)
    return results


def large_row_figures() -> LargeRowFigures:
    figures = LargeRowFigures()
    waits = Latencies()
    waits.add(1.082)
    for name, outcome in (
        ("RawBatchGet of all rows", "ClientError: the values are larger than 64 MiB together; ask for fewer keys"),
        ("RawDeleteRange over the deleted keys", "300,000 rows"),
    ):
        figures.reads.append(ReadFigures(name, outcome, 12.34, waits, 1 << 29))
    return figures


def test_headings_stand_on_one_line_at_80_columns() -> None:
    results = measured_results()
    for table in (results.table("etcd"), results.processor_table(), large_row_figures().table()):
        console = Console(file=StringIO(), width=80)
        console.print(table)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
        headings = [str(column.header) for column in table.columns]
        assert "".join(lines[1].split()) == "".join("".join(headings).split())
        assert max(map(len, lines)) <= 80
        assert "…" not in "".join(lines)


def test_the_plot_has_a_title_the_figures_latencies_and_linear_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    closed: list[Any] = []
    monkeypatch.setattr(pyplot, "close", closed.append)
    save_plot(measured_results(), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = closed
    assert figure.get_suptitle() == (
        "pytinykv and etcd: put, get, get at ts, modify, transfer\nvalues of 100 bytes, median of 1 round"
    )
    assert [panel.get_ylabel() for panel in figure.axes[2:5]] == [
        "get: operations per second",
        "get: latency in ms, p50 and p99",
        "get at ts: operations per second",
    ]
    assert len(figure.axes) == 2 * len(OperationKind)
    assert {panel.get_yscale() for panel in figure.axes} == {"linear"}
    assert {panel.get_ylim()[0] for panel in figure.axes} == {0.0}
    shown = {text.get_text() for panel in figure.axes for text in panel.texts}
    assert {"40.0", "8.00", "7.10", "35.5"} <= shown
    monkeypatch.undo()
    pyplot.close(figure)
    pytest.importorskip("matplotlib.font_manager")._get_font.cache_clear()  # it keeps its files open


# --- what was acknowledged --------------------------------------------------------------------------------------------


def client_with(values: dict[bytes, int]) -> Any:
    """A client of a cluster in which each key has the value of the put with that number."""

    async def scan(start: bytes, end: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        for key, number in sorted(values.items()):
            assert start <= key < end
            yield key, value_of(number, 100)

    return SimpleNamespace(raw=SimpleNamespace(scan=scan))


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        ({(0, 0): 1, (1, 2): 7}, set()),
        ({(0, 0): 1, (1, 2): 8}, set()),  # put, but not acknowledged yet
        ({(0, 0): 1, (1, 2): 7, (1, 1): 5}, set()),
        ({(0, 0): 1, (1, 2): 6}, {(1, 2)}),
        ({(1, 2): 7}, {(0, 0)}),
        ({}, {(0, 0), (1, 2)}),
    ],
)
async def test_a_key_must_hold_what_was_acknowledged_or_something_newer(
    found: dict[tuple[int, int], int], lost: set[tuple[int, int]]
) -> None:
    ledger = Ledger(2, 3)
    ledger.acknowledge(0, 0, 1)
    ledger.acknowledge(1, 2, 3)
    ledger.acknowledge(1, 2, 7)
    await ledger.check(client_with({key_of(*place): number for place, number in found.items()}))
    assert ledger.lost == {key_of(*place) for place in lost}


def test_a_key_in_doubt_is_not_used_any_more() -> None:
    ledger = Ledger(2, 3)
    slots = ledger.slots(1)
    assert list(islice(slots, 5)) == [0, 1, 2, 0, 1]
    ledger.doubt(1, 1)
    ledger.doubt(0, 0)
    assert list(islice(slots, 5)) == [2, 0, 2, 0, 2]


@pytest.mark.parametrize("size", [0, 12, 100])
def test_a_value_tells_its_put(size: int) -> None:
    assert number_in(value_of(123_456, size)) == 123_456
    assert len(value_of(1, size)) == max(12, size)


# --- the judgement ----------------------------------------------------------------------------------------------------


def stop(seconds: float = 0.1, status: int | None = 0, *, left_nothing: bool = True) -> Stop:
    return Stop("store-2", True, seconds, status, left_nothing, log="    its log")


def problems(*stops: Stop, ledger: Ledger | None = None) -> list[str]:
    return list(StopFigures(ledger or Ledger(1, 1), list(stops)).problems())


def test_good_stops_are_no_problem() -> None:
    assert problems(stop(), stop(2.0)) == []
    assert problems(*[stop()] * 99, stop(4.9)) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            stop(status=3),
            "stop 2: store-2 (leader), 0.10 s, exit 3, nothing left behind; its log ends with\n    its log",
        ),
        (stop(10.0, status=None), "had to be killed"),
        (stop(left_nothing=False), "its log does not say that nothing is left behind"),
        (stop(5.1), "stop 2: store-2 (leader), 5.10 s"),
    ],
)
def test_a_bad_stop_is_told_with_the_log_of_its_store(bad: Stop, told: str) -> None:
    assert told in problems(stop(), bad, *[stop()] * 98)[0]


def test_slow_stops_are_a_problem() -> None:
    assert problems(*[stop()] * 98, stop(2.1), stop(2.1)) == ["the p99 of the stops is 2.10 s, more than 2 s"]


def test_lost_writes_and_stale_reads_are_problems() -> None:
    ledger = Ledger(1, 1)
    ledger.lost.add(key_of(0, 0))
    ledger.stale_reads = 3
    lost, stale = problems(stop(), ledger=ledger)
    assert "acknowledged writes are lost: 1 keys, b'stop-00-000000'" in lost
    assert "3 reads found less" in stale


# --- real stores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", [("--no-etcd", "--rounds", 20), ("--embedded", "--rounds", 20)], ids=["cluster", "embedded"]
)
def test_a_bench_that_is_interrupted_says_so_and_no_more(tmp_path: Path, mode: tuple[object, ...]) -> None:
    with started(tmp_path, "bench", *mode) as running:
        wait_until(lambda: "--embedded" in mode or len(running.children()) == 4)
        wait_until(lambda: catches(running.pid, signal.SIGTERM))
        assert running.stop(signal.SIGTERM) == 130
        assert running.errors == "tinykv bench: interrupted\n"


def catches(pid: int, number: int) -> bool:
    """Whether a process has put a handler of its own in place for a signal."""
    [mask] = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_stores_stop_well_under_load(tmp_path: Path) -> None:
    done = tinykv("bench", "--rounds", 0, "--stops", 2, "--save", tmp_path / "figures.json")
    assert (done.returncode, done.stderr) == (0, b""), done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())["stops"]
    assert (figures["stops"], figures["statuses"], figures["left_nothing_behind"]) == (2, {"exit 0": 2}, 2)
    assert (figures["lost_keys"], figures["stale_reads"]) == (0, 0)
    assert figures["acknowledged_puts"] > 1000
    assert [each["leader"] for each in figures["each"]] == [True, False]
    assert re.search(r"exit statuses: 2 × exit 0; 2 of 2 left nothing behind", done.stdout.decode())


def test_large_rows_stay_in_one_region() -> None:
    """A call of another client than ours asks one region: half of the rows would be read, the rest refused."""
    assert IN_ONE_REGION["region_split_size"] < IN_ONE_REGION["region_max_size"]
    assert IN_ONE_REGION["region_split_size"] > 1000 * VALUE_BYTES


def test_large_reads_of_all_kinds_beside_another_client(tmp_path: Path) -> None:
    """How long the other client waited is told; on a busy machine it decides nothing."""
    tinykv("bench", "--rounds", 0, "--large-rows", 10, "--save", tmp_path / "figures.json")
    reads = {read["read"]: read for read in json.loads((tmp_path / "figures.json").read_text())["large_rows"]}
    outcomes = {name: read["outcome"] for name, read in reads.items()}
    assert set(outcomes) == set(READS)
    assert "ask for fewer keys" in outcomes.pop("RawBatchGet of all rows")
    assert [name for name, outcome in outcomes.items() if not outcome.endswith(" rows")] == []
    assert (outcomes["batch_get"], outcomes["RawGets of all rows in a frame"]) == ("10 rows", "10 rows")
    assert all(read["gets"] > 0 and read["leader_bytes_max"] > 0 for read in reads.values())


def test_a_store_that_ends_badly_fails_the_bench_and_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\nif 'store' in sys.orig_argv:\n    atexit.register(os._exit, 7)\n"
    )
    save = tmp_path / "figures.json"
    done = tinykv("bench", "--rounds", 0, "--stops", 1, "--save", save, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "tinykv bench: stop 1: store-" in said
    assert "exit 7, nothing left behind; its log ends with\n" in said
    assert re.search(r"\n    .* INFO .*", said)
    assert json.loads(save.read_text())["stops"]["statuses"] == {"exit 7": 1}


def test_a_bystander_that_waited_too_long_is_a_problem() -> None:
    figures = LargeRowFigures()
    for name, longest_s in (("quick", 0.049), ("slow", 0.080)):
        waits = Latencies()
        waits.add(0.001)
        waits.add(longest_s)
        figures.reads.append(ReadFigures(name, "10 rows", 1.0, waits, 1 << 20))
    assert figures.problems() == ["slow: another client's get waited 80 ms, more than 50"]
    assert [read["wait_ms"]["max"] for read in figures.as_json()] == [49.0, 80.0]
    assert figures.table().row_count == 2


def test_a_large_read_that_failed_is_a_problem() -> None:
    figures = LargeRowFigures()
    waits = Latencies()
    waits.add(0.001)
    figures.reads.append(ReadFigures("scan", "10 rows", 1.0, waits, 1 << 20))
    figures.reads.append(
        ReadFigures("checksum", "ClientError: not leader of region 2", 0.01, waits, 1 << 20, failed=True)
    )
    assert figures.problems() == ["checksum: ClientError: not leader of region 2"]


@pytest.mark.parametrize("option", ["--large-rows", "--regions", "--stops"])
def test_some_figures_need_a_cluster_of_our_own(option: str) -> None:
    done = tinykv("bench", option, 1, "--scheduler", "127.0.0.1:1")
    assert done.returncode == 2
    assert b"leave --scheduler out" in done.stderr


def test_a_plot_without_matplotlib_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(main, ["bench", "--plot", "bench.png"])
    assert result.exit_code == 2
    assert "--plot needs matplotlib: pip install 'pytinykv[plot]'" in result.output
