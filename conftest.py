"""Spreads the tests over pytest-xdist's workers, lets property tests take their time, and counts simulated histories.

Tests that start servers as processes, or measure, want the machine to themselves: they form one group, so one worker
runs them one after the other (`--dist loadgroup`) while the other worker does the rest.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("pytinykv", deadline=None)  # no test may depend on how fast the machine is
settings.load_profile("pytinykv")

TESTS = Path(__file__).parent / "tests"
HEAVY_DIRECTORIES = ("cli", "docs", "interop", "packaging", "process")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="rewrite the expected output of the scripts in tests/scripts"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in the directories of heavy ones."""
    heavy = {TESTS / name for name in HEAVY_DIRECTORIES}
    for item in items:
        if heavy.intersection(item.path.parents):
            item.add_marker(pytest.mark.xdist_group("processes"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many simulated histories the run has told."""
    histories = sum(
        count
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, count in report.user_properties
        if name == "histories"
    )
    if histories:
        terminalreporter.write_line(f"{histories} simulated histories")
