"""The pytest plugin: clusters as fixtures (docs/testing.md). Loaded by pytest wherever pytinykv is installed, so it is small.

A session has one cluster of each kind and size that its tests ask for. Each test gets it empty, healed and with all its
stores running; regions stay as they were split. What its servers have logged is shown with a test that fails.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pytinykv.lifecycle import Leak
    from pytinykv.testing.sync import Cluster

LOG_LINES: Final = 200
"""How much of the servers' log is shown with a failing test."""
_CLUSTER_FIXTURES: Final = ("tikv_cluster", "tikv_processes")
_OF_MARKER: Final = ("stores", "replicas", "settings")
_LENT: Final = pytest.StashKey["list[Cluster]"]()
"""The clusters that a test has got."""
_FAILED: Final = pytest.StashKey[bool]()
"""Whether the test, its setup or its teardown has failed so far."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "tikv(stores=1, replicas=0, settings=None): the size of the clusters that tikv_cluster and tikv_processes give",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have `no_leaks` look before a test gets a cluster, and again when it has given it back."""
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if "no_leaks" in names and (clusters := [name for name in names if name in _CLUSTER_FIXTURES]):
            names.remove("no_leaks")
            names.insert(names.index(clusters[0]), "no_leaks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    del call
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        for cluster in item.stash.get(_LENT, []):
            lines = cluster.log().splitlines()[-LOG_LINES:]
            report.sections.append((f"log of {cluster!r}", "\n".join(lines)))
    return report


class Clusters:
    """The clusters of a session, made when they are first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Cluster] = {}
        """Those that live, by what was asked for. One that could not be brought back into order is taken out."""

    @property
    def alive(self) -> bool:
        """Whether there are any."""
        return bool(self._made)

    @contextmanager
    def lend(self, item: pytest.Item, *, processes: bool) -> Iterator[Cluster]:
        """Give a test the cluster that its marker asks for, and bring that back into order behind it."""
        from pytinykv import testing

        wanted: dict[str, Any] = {"stores": 1, "processes": processes} | _wanted(item.get_closest_marker("tikv"))
        key = repr(sorted(wanted.items(), key=lambda pair: pair[0]))
        cluster = self._made.get(key)
        if cluster is None:
            try:
                cluster = testing.cluster(**wanted)
            except (TypeError, ValueError) as error:
                pytest.fail(f"@pytest.mark.tikv: {error}", pytrace=False)
            cluster.start()
            self._made[key] = cluster
        item.stash.setdefault(_LENT, []).append(cluster)
        try:
            yield cluster
        finally:
            try:
                cluster.reset()
            except BaseException:
                self._made.pop(key).close()  # the next test gets a new one
                raise

    def close(self) -> None:
        """End all of them."""
        while self._made:
            self._made.popitem()[1].close()


def _wanted(marker: pytest.Mark | None) -> dict[str, Any]:
    """Return what a marker asks for."""
    if marker is None:
        return {}
    if marker.args:
        pytest.fail("@pytest.mark.tikv: write the name, as in @pytest.mark.tikv(stores=3)", pytrace=False)
    for name in marker.kwargs:
        if name not in _OF_MARKER:
            pytest.fail(f"@pytest.mark.tikv knows no {name!r}; it takes {', '.join(_OF_MARKER)}", pytrace=False)
    return dict(marker.kwargs)


@pytest.fixture(scope="session")
def _tikv_clusters() -> Iterator[Clusters]:
    clusters = Clusters()
    try:
        yield clusters
    finally:
        clusters.close()


@pytest.fixture
def tikv_cluster(request: pytest.FixtureRequest, _tikv_clusters: Clusters) -> Iterator[Cluster]:
    """A cluster in this process, empty: `testing.Cluster`. `@pytest.mark.tikv(stores=3)` says how large."""
    with _tikv_clusters.lend(request.node, processes=False) as cluster:
        yield cluster


@pytest.fixture
def tikv_processes(request: pytest.FixtureRequest, _tikv_clusters: Clusters) -> Iterator[Cluster]:
    """As `tikv_cluster`, with each server as a process of its own."""
    with _tikv_clusters.lend(request.node, processes=True) as cluster:
        yield cluster


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest, _tikv_clusters: Clusters) -> Iterator[None]:
    """Fail the test if it leaves a task, a thread, a file descriptor or a child process behind, and say what that waits for.

    What belongs to the clusters of the session is not counted; while there are any, sockets are not.
    """
    from pytinykv.lifecycle import leaks

    leaks.install()
    before = leaks.take_baseline()
    yield
    found = [leak for leak in leaks.find_leaks(before) if not (_tikv_clusters.alive and _is_of_cluster(leak))]
    report_leaks(request.node, found)


def report_leaks(item: pytest.Item, found: list[Leak]) -> None:
    """Fail a test that has left something behind, and say what that waits for; one that has failed is only told so."""
    if not found:
        return
    from pytinykv.lifecycle import leaks
    from pytinykv.waitgraph import Program, explain, render_graph

    graph = render_graph(explain(Program(name="the test's process", loops=())))
    text = f"{item.nodeid}: {leaks.render_leaks(found)}\n\n{graph}"
    if item.stash.get(_FAILED, False):
        print(text)  # noqa: T201 - pytest shows it beside the failure that caused it
    else:
        pytest.fail(text, pytrace=False)


def _is_of_cluster(leak: Leak) -> bool:
    from pytinykv.testing.backend import PREFIX

    return leak.name.startswith("tikv-") or PREFIX in leak.name or any(one in leak.name for one in ("socket:", "pipe:"))
