"""Disks that fail, fill up, rot and forget: programs end in time and with an error, and nothing acknowledged is lost."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from pytinykv.simulation import run_scenario
from pytinykv.simulation.files import FileSyncs


@pytest.mark.seeds(4)
def test_a_store_with_a_bad_disk_fails_or_serves_right(seed: int) -> None:
    run_scenario("disks", seed).check()


@pytest.mark.seeds(4)
def test_a_store_dies_between_any_two_steps_on_its_disk(seed: int) -> None:
    """Five of these found a received snapshot gone although the region relied on it: its directory was never synced."""
    run_scenario("power-cuts", seed).check()


def test_a_store_that_is_killed_with_work_waiting_holds_no_file_open() -> None:
    """Found by a soak: a snapshot was given up, and the store died before its worker came to close the file."""
    run_scenario("disks", 362614530, is_long=True).check()


def test_the_faults_are_met_and_not_only_there() -> None:
    counters = [run_scenario("disks", seed).counters for seed in (1, 2)]
    for what in ("ends because of the disk", "files torn", "crashes"):
        assert sum(each[what] for each in counters) > 0, what


def test_a_crash_takes_from_files_what_was_not_synced(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    outcomes = set()
    for seed in range(40):
        files = FileSyncs(tmp_path)
        kept, cut = host / "kept", host / "cut"
        with files.recording():
            for path in (kept, cut):
                path.write_bytes(b"synced")
                with path.open("ab") as file:
                    os.fsync(file.fileno())
            handle = os.open(host, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
            with cut.open("ab") as file:
                file.write(b" and not")
            (host / "new").write_bytes(b"")
        files.tear(host, Random(seed))
        assert kept.read_bytes() == b"synced"
        assert cut.read_bytes().startswith(b"synced")
        outcomes.add((len(cut.read_bytes()), (host / "new").exists()))
        for path in host.iterdir():
            path.unlink()
    assert {size for size, _ in outcomes} == set(range(6, 15))
    assert {exists for _, exists in outcomes} == {True, False}


def test_syncs_elsewhere_go_to_the_real_disk(tmp_path: Path) -> None:
    elsewhere = tmp_path / "file"
    with FileSyncs(tmp_path / "root").recording(), elsewhere.open("wb") as file:
        os.fsync(file.fileno())
    assert os.fsync.__name__ == "fsync"
    assert type(os.fsync).__name__ == "builtin_function_or_method"
