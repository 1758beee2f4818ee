"""The playground's parts without processes: its directory, what it makes of the stores' pages, and the picture."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import termios
import threading
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from pytinykv.cli.playground import command
from pytinykv.cli.playground.cluster import LOG_LINES, last_critical, last_lines, tell
from pytinykv.cli.playground.home import Home, PlaygroundError, remove_abandoned
from pytinykv.cli.playground.keys import Keys, keyboard
from pytinykv.cli.playground.lines import pastes, program
from pytinykv.cli.playground.observe import (
    STORE_PAGE,
    Observer,
    OperatorFacts,
    PeerFacts,
    SchedulerFacts,
    StoreFacts,
    read_page,
)
from pytinykv.cli.playground.view import Picture
from pytinykv.lifecycle import Scope

# --- the directory ----------------------------------------------------------------------------------------------------


def test_a_directory_is_held_by_one_and_kept(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "new" / "data")
    assert home.stores == 0
    for name in ("store-1", "store-12", "store-x", "scheduler"):
        (home.path / name).mkdir()
    assert home.stores == 12
    with pytest.raises(PlaygroundError, match=rf"in use by another playground \(pid {os.getpid()}\)"):
        Home.open(home.path)
    home.close()
    home.close()
    assert home.path.exists()
    assert home.is_gone
    Home.open(home.path).close()


def test_a_temporary_one_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = Home.open(None)
    assert home.path.parent == tmp_path
    assert not home.is_gone
    home.close()
    assert home.is_gone
    assert list(tmp_path.iterdir()) == []


def test_only_temporary_directories_without_a_holder_are_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held, left = Home.open(None), Home.open(None)
    assert left._lock is not None
    os.close(left._lock)  # as a process does that is killed
    chosen = Home.open(tmp_path / "tinykv-playground-chosen")  # with --data-dir: "the data stays in" it
    chosen.close()
    remove_abandoned()
    assert sorted(tmp_path.iterdir()) == sorted([held.path, chosen.path])
    held.close()


def test_the_end_of_a_log_begins_with_its_first_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{number} INFO fine\n" for number in range(100)))
    assert last_lines(log).splitlines()[0] == f"    {100 - LOG_LINES} INFO fine"
    with log.open("a") as stream:
        stream.write("101 ERROR store: it broke\nTraceback (most recent call last):\n102 INFO stopped\n")
    assert last_lines(log).splitlines()[0] == "    101 ERROR store: it broke"
    assert len(last_lines(log).splitlines()) == 3


def test_a_store_that_ended_before_it_was_told_where_the_scheduler_is_does_not_end_the_playground() -> None:
    def write(_line: bytes) -> None:
        raise RuntimeError("unable to perform operation; the handler is closed")

    tell(SimpleNamespace(write=write), "127.0.0.1:2379\n")  # type: ignore[arg-type]  # a fake pipe


def test_lines_to_paste_name_another_scheduler_than_the_default() -> None:
    tinykv = program("tinykv")
    assert dict(pastes("127.0.0.1:2379"))["shell"] == f"{tinykv} put greeting hello && {tinykv} get greeting"
    assert all("127.0.0.1:9" in line for _, line in pastes("127.0.0.1:9"))


# --- what stores tell -------------------------------------------------------------------------------------------------


def peer(region: int, *, leads: bool = False, term: int = 6, applied: int = 8, start: str = "") -> PeerFacts:
    return PeerFacts(region=region, start=start, end="", is_leader=leads, term=term, applied=applied, stores=[1, 4, 7])


class FakePages:
    """Status ports that tell what a test sets."""

    def __init__(self) -> None:
        self.pages: dict[str, StoreFacts] = {}
        self.server: asyncio.Server | None = None

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert request.startswith("GET /debug/store HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + msgspec.json.encode(self.pages["store"]))
        writer.close()


async def test_a_page_is_read_and_garbage_refused() -> None:
    fake = FakePages()
    address = await fake.start()
    fake.pages["store"] = StoreFacts(store=4, writes=3, regions=[peer(2, leads=True)])
    assert await read_page(address, STORE_PAGE, StoreFacts) == fake.pages["store"]
    assert fake.server is not None
    fake.server.close()
    with pytest.raises(ConnectionError):
        await read_page(address, STORE_PAGE, StoreFacts)
    with pytest.raises(ConnectionError, match="no status port"):
        await read_page("", STORE_PAGE, StoreFacts)


class Game:
    """A cluster of three stores as the picture sees it; `pages` are what the stores told, None for one that is silent."""

    def __init__(self, *pages: StoreFacts | None) -> None:
        self.stores = [self._process(f"store-{number}") for number in range(1, len(pages) + 1)]
        self.scheduler = self._process("scheduler")
        self.observer = Observer.__new__(Observer)  # without the tasks that ask
        self.observer._cluster = self  # type: ignore[misc,assignment]  # a fake cluster
        self.observer._facts, self.observer._answers = {}, {}  # type: ignore[misc]
        self.observer.scheduler = SchedulerFacts()
        for process, page in zip(self.stores, pages, strict=True):
            if page is not None:
                self.observer._facts[process.name] = page
                self.observer._answers[process.name] = True

    @staticmethod
    def _process(name: str) -> Any:
        return SimpleNamespace(
            name=name,
            addr="127.0.0.1:20160",
            is_running=True,
            died="",
            child=SimpleNamespace(pid=4242, returncode=None),
            facts={},
        )

    def draw(self, width: int = 100, height: int = 30, keys: Keys | None = None) -> str:
        console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
        console.print(Picture(self, self.observer, console, keys).draw())  # type: ignore[arg-type]  # a fake cluster
        text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
        return "\n".join(line.rstrip() for line in text.splitlines())


def end(process: Any, returncode: int) -> None:
    """Let a process have ended before the stop."""
    process.is_running, process.child.returncode, process.died = False, returncode, f"ended with {returncode}"


PAGES = (
    StoreFacts(store=1, writes=1000, resident_bytes=64 << 20, regions=[peer(2, leads=True)]),
    StoreFacts(store=4, regions=[peer(2, applied=5)]),
    StoreFacts(store=7, writes=234, regions=[peer(2)]),
)


def test_the_picture_shows_who_leads_and_who_is_behind() -> None:
    lines = Game(*PAGES).draw().splitlines()
    assert lines[0].split() == ["store", "id", "state", "address", "pid", "leads", "regions", "writes", "memory"]
    assert lines[2].split() == ["store-1", "1", "up", "127.0.0.1:20160", "4242", "1", "1", "1,000", "64.0", "MiB"]
    assert lines[6].split() == ["region", "keys", "leader", "term", "applied", "replicas"]
    assert lines[8].split() == ["2", "all", "store-1", "6", "8", "1", "4", "-3", "7"]
    assert lines[10].startswith("1,234 keys written, 0/s · scheduler up (pid 4242)")


def test_a_store_that_is_down_leads_nothing_and_keeps_its_writes() -> None:
    game = Game(*PAGES)
    end(game.stores[0], -9)
    lines = game.draw().splitlines()
    assert lines[2].split() == ["store-1", "1", "down", "127.0.0.1:20160", "0", "1,000"]
    assert lines[8].split() == ["2", "all", "electing", "6", "8", "1", "away", "4", "-3", "7"]
    assert lines[10].startswith("1,234 keys written")


def test_of_two_that_believe_to_lead_the_one_of_the_newer_term_does() -> None:
    pages = (PAGES[0], StoreFacts(store=4, regions=[peer(2, leads=True, term=7)]), PAGES[2])
    (region,) = Game(*pages).observer.regions()
    assert (region.leader, region.term) == (4, 7)


@pytest.mark.parametrize("width", range(38, 130, 4))
def test_the_picture_fits_whatever_the_width(width: int) -> None:
    lines = Game(*PAGES).draw(width).splitlines()
    assert len(lines) == 11, "nothing is wrapped"
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines[:9]), "no column is squeezed"


@pytest.mark.parametrize("height", [12, 16, 24])
def test_many_regions_are_cut_to_the_height(height: int) -> None:
    many = StoreFacts(store=1, regions=[peer(2 + n, leads=True, start=f"{n:02x}") for n in range(40)])
    lines = Game(many, None, None).draw(height=height).splitlines()
    assert len(lines) <= max(height, 13)
    assert any(line.lstrip().startswith("+") for line in lines)


def operator(status: str = "running", *, region: int = 2, ago_s: float = 0.0, reason: str = "") -> OperatorFacts:
    steps = ["add learner 9 on store 7", "promote learner 9"]
    return OperatorFacts(region, "add missing peer", status, reason, steps, 1 if status == "running" else 2, 1.5, ago_s)


def test_the_picture_shows_what_the_scheduler_does_and_has_just_done() -> None:
    game = Game(*PAGES)
    ended = [operator("success", ago_s=3.0), operator("timeout", region=3, ago_s=29.0), operator("success", ago_s=31.0)]
    game.observer.scheduler = SchedulerFacts(running=[operator()], ended=ended)
    lines = game.draw().splitlines()
    assert lines[10:13] == [
        "now region 2: add missing peer, step 2 of 2: promote learner 9 (1.5 s)",
        "3 s ago region 2: add missing peer, done after 1.5 s",
        "29 s ago region 3: add missing peer, timeout after 1.5 s",
    ]
    assert "scheduler up (pid 4242) · 1 operator · Ctrl-C stops" in lines[14]


def test_regions_stand_in_the_order_of_their_keys() -> None:
    page = StoreFacts(store=1, regions=[peer(2, leads=True, start="62"), peer(9, leads=True, start="")])
    lines = Game(page, None, None).draw().splitlines()
    assert [line.split()[0] for line in lines[8:10]] == ["9", "2"]


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_choose_a_store_end_it_and_bring_it_back(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    game, restarted, changes = Game(*PAGES), list[Any](), list[int]()
    may_start = asyncio.Event()

    async def restart(process: Any) -> None:
        restarted.append(process)
        await may_start.wait()
        process.is_running = True

    game.restart = restart  # type: ignore[attr-defined]  # of a fake cluster
    keys = Keys(game, scope, lambda: changes.append(1))  # type: ignore[arg-type]  # a fake cluster
    assert "▶ store-1" in game.draw(keys=keys)
    assert "1-3 ↑ ↓ choose · s stop · k kill · b bring back · q quit" in game.draw(60, 14, keys)

    keys.press("2k")
    assert sent == [(4242, signal.SIGKILL)]
    assert game.draw(60, 14, keys).endswith("q quit\nstore-2 is killed")
    end(game.stores[1], -9)
    keys.press("s")
    assert (len(sent), keys.message) == (1, "store-2 does not run; b brings it back")

    keys.press("bb")
    assert keys.message == "store-2 runs already"
    await asyncio.sleep(0)
    assert re.search("store-2 .* starting ", game.draw(keys=keys))
    may_start.set()
    while keys.message != "store-2 is back":
        await asyncio.sleep(0)
    assert restarted == [game.stores[1]]

    keys.press("\x1b[B\x1b[Bs")
    assert (keys.chosen, keys.message) == (game.stores[0], "store-1 is told to stop")
    keys.press("\x1b[A9x?")
    assert keys.chosen is game.stores[2]
    keys.press("qq")  # the second one must not end it at once, as a second signal does
    keys.press("q")
    assert sent[1:] == [(4242, signal.SIGTERM), (os.getpid(), signal.SIGINT)]
    assert len(changes) == 11


async def test_a_store_that_does_not_come_back_is_told(scope: Scope) -> None:
    game = Game(*PAGES)
    end(game.stores[0], 1)

    async def restart(_process: Any) -> None:
        raise PlaygroundError("store-1 could not start: no room\nits log ends with")

    game.restart = restart  # type: ignore[attr-defined]  # of a fake cluster
    keys = Keys(game, scope, lambda: None)  # type: ignore[arg-type]  # a fake cluster
    keys.press("b")
    while keys.message == "store-1 is started again":
        await asyncio.sleep(0)
    assert keys.message == "store-1 could not start: no room"


async def test_keys_are_read_as_they_are_typed_and_the_terminal_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed: list[str] = []
    keys: Any = SimpleNamespace(press=typed.append)
    ours, theirs = os.openpty()
    try:
        with os.fdopen(os.dup(theirs)) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            with keyboard(keys):  # not the terminal that controls this process: nothing is changed
                assert termios.tcgetattr(theirs)[3] & termios.ICANON
            monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
            before = termios.tcgetattr(theirs)
            with keyboard(keys):
                assert not termios.tcgetattr(theirs)[3] & termios.ICANON
                os.write(ours, b"2k")
                while "".join(typed) != "2k":
                    await asyncio.sleep(0)
            assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


async def test_the_first_picture_waits_for_every_store(scope: Scope) -> None:
    fake = FakePages()
    fake.pages["store"] = PAGES[0]
    address = await fake.start()
    game = Game(None, None)
    for process in game.stores:
        process.facts = {"status": address}
    game.scheduler.facts = {}
    observer = Observer(game, scope)  # type: ignore[arg-type]  # a fake cluster
    await observer.wait_first()
    assert [observer.answers(process) for process in game.stores] == [True, True]
    assert fake.server is not None
    fake.server.close()


def test_before_anything_is_known() -> None:
    assert "no region answers" in Game(None, None, None).draw()


def test_a_program_is_called_as_the_user_can_call_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bin_path = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(bin_path))
    assert program("tinykv") == "tinykv"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(bin_path.parent)
    assert program("tinykv") == f"{bin_path.name}/tinykv"
    monkeypatch.chdir(tmp_path)
    assert program("tinykv") == str(bin_path / "tinykv")


def test_the_reason_for_giving_up_is_found_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "store-1.log"
    log.write_text("2026-01-01 00:00:00,000 INFO    a.b: fine\n")
    assert last_critical(log) == ""
    with log.open("a") as stream:
        stream.write("2026-01-01 00:00:01,000 CRITICAL pytinykv.x: store 1 failed: disk full: no room\nTraceback\n")
    assert last_critical(log) == "store 1 failed: disk full: no room"


async def test_the_client_is_loaded_beside_the_event_loop(
    scope: Scope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a busy machine it takes a second, for which the loop would be blocked."""
    loaded: list[tuple[str, bool]] = []

    class FakeCluster:
        async def launch(self, stores: int, scheduler_addr: str) -> None: ...

        async def wait_ready(self) -> None: ...

    async def wait_serving(_cluster: object) -> None:
        assert loaded == [("pytinykv.aio", False)], "before it is used, and in another thread"

    def import_module(name: str) -> None:
        loaded.append((name, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(command, "wait_serving", wait_serving)
    monkeypatch.setattr(command, "importlib", SimpleNamespace(import_module=import_module))
    game = command.Playground(None, 1, "127.0.0.1:0", None, {})
    home = Home.open(tmp_path)
    await game._start(scope, cast("Any", FakeCluster()), home)
    home.close()
    assert loaded
