"""Fails every test that leaves a task, a thread, a file descriptor or a child process behind; and has a scope for those.

The implementation of the check is `pytinykv.lifecycle.leaks`. What was started before a test's own fixtures (by a session's
or a module's fixture) belongs to those and is not counted. After a test that failed by itself, leaks are shown but are no
second error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Final

import pytest
from tests.helpers import Stubborn

from pytinykv.lifecycle import Scope, leaks

_FAILED: Final = pytest.StashKey[bool]()


def pytest_configure() -> None:
    leaks.install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    del call
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


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
    found = leaks.find_leaks(before)
    if not found:
        return
    text = f"{request.node.nodeid}: {leaks.render_leaks(found)}"
    if request.node.stash.get(_FAILED, False):
        print(text)  # noqa: T201 - pytest shows it beside the failure that caused it
    else:
        pytest.fail(text, pytrace=False)


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
