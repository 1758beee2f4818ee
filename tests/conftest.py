"""Fails every test that leaves a task, a thread, a file descriptor or a child process behind; and has a scope for those.

The check is `pytinykv.lifecycle.leaks`; it is reported as by the fixture `no_leaks` of `pytinykv.testing.plugin`. What was
started before a test's own fixtures (by a session's or a module's fixture) belongs to those and is not counted. After a test
that failed by itself, leaks are shown but are no second error.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.helpers import Stubborn

from pytinykv.lifecycle import Scope, leaks
from pytinykv.testing.plugin import report_leaks


def pytest_configure() -> None:
    leaks.install()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script's shell has what it starts with `&` ignore it, and so would each program that a test interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lasting_children() -> list[Callable[[], set[int]]]:
    """Fixtures that outlive a test add what tells the processes that are theirs: a test may start one of them again."""
    return []


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, lasting_children: list[Callable[[], set[int]]]
) -> Iterator[None]:
    before = leaks.take_baseline()
    yield
    before = before._replace(children=before.children.union(*(pids() for pids in lasting_children)))
    report_leaks(request.node, leaks.find_leaks(before))


@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    """Own what a test starts; it has to stop cleanly at the test's end. A test that stops it judges the report itself."""
    made = Scope("test")
    yield made
    if not made.stopping:
        report = await made.stop()
        assert report.ok, report.render()


@pytest.fixture
async def stubborn() -> AsyncIterator[Stubborn]:
    """Have a task that does not end before the test does."""
    made = Stubborn()
    yield made
    made.released.set()
    await asyncio.sleep(0)
