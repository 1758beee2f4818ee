"""When regions split and move, as options."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pytinykv.cli import main
from pytinykv.cli.thresholds import SCHEDULER, STORE, Size, as_flags, with_thresholds
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.scheduler import SchedulerConfig

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "number"),
    [("4096", 4096), ("96MiB", 96 * MIB), ("96 mb", 96 * MIB), ("1.5G", 1536 * MIB), ("64k", 65536), (7, 7)],
)
def test_sizes_have_units(text: object, number: int) -> None:
    assert Size().convert(text, None, None) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "big", "96 MiX", "1e6"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size; write as in 96MiB"):
        Size().convert(text, None, None)


def test_every_option_stands_for_a_setting_with_the_default_that_its_help_tells() -> None:
    for group, config in ((SCHEDULER, SchedulerConfig()), (STORE, RaftStoreConfig())):
        for one in group:
            told = one.help.partition("[default: ")[2].rstrip("]").partition(",")[0]
            assert one.type.convert(told, None, None) == getattr(config, one.setting), one.flag


def test_an_option_wins_over_the_file_and_what_depends_on_it_follows() -> None:
    given = {"max_store_down_time": 3.0, "max_replicas": None}
    assert with_thresholds({"max_store_down_time_s": 9.0, "max_replicas": 5}, SCHEDULER, given) == {
        "max_store_down_time_s": 3.0,
        "max_replicas": 5,
        "store_disconnect_time_s": 3.0,
    }
    assert with_thresholds({}, STORE, {"region_max_size": 3 * MIB}) == {
        "region_max_bytes": 3 * MIB,
        "region_split_bytes": 2 * MIB,
    }
    assert with_thresholds({}, STORE, {"region_split_size": 200 * MIB}) == {
        "region_max_bytes": 300 * MIB,
        "region_split_bytes": 200 * MIB,
    }
    assert with_thresholds({"region_split_bytes": MIB}, STORE, {"region_max_size": 3 * MIB}) == {
        "region_max_bytes": 3 * MIB,
        "region_split_bytes": MIB,
    }


def test_they_are_handed_on_as_flags() -> None:
    given = {"region_max_size": 3 * MIB, "region_split_size": None, "max_replicas": 1}
    assert as_flags(STORE, given) == ("--region-max-size", str(3 * MIB))
    assert as_flags(SCHEDULER, given) == ("--max-replicas", "1")


def test_thresholds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    command = ["store", "--data-dir", str(tmp_path / "data"), "--addr", "127.0.0.1:0", "--scheduler", "127.0.0.1:1"]
    done = CliRunner().invoke(main, [*command, "--region-max-size", "1MiB", "--region-split-size", "2MiB"])
    assert done.exit_code == 2
    assert "[store.raftstore] region_split_bytes must not be above region_max_bytes" in done.output
    assert not (tmp_path / "data").exists()
