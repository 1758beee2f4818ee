"""Spreads the tests over pytest-xdist's workers, lets property tests take their time, and counts simulated histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.distribution import FewHeavyFilesAtATime

settings.register_profile("pytinykv", deadline=None)  # no test may depend on how fast the machine is
settings.load_profile("pytinykv")


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FewHeavyFilesAtATime | None:
    """Replace xdist's `loadfile`. Not called, nor xdist imported, where that is missing or switched off."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.distribution import FewHeavyFilesAtATime

    return FewHeavyFilesAtATime(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="rewrite the expected output of the scripts in tests/scripts"
    )
    parser.addoption(
        "--more",
        type=int,
        default=1,
        metavar="N",
        help="try N times as many moments, seeds or rounds, where tests draw them",
    )


@pytest.fixture(scope="session")
def more(request: pytest.FixtureRequest) -> int:
    """How much more than usual a test tries that could go on for ever; the suite has minutes, a night has hours."""
    return int(request.config.getoption("--more"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many simulated histories the tests have run."""
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
