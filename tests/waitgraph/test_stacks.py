from __future__ import annotations

import asyncio
import sysconfig
import threading

import pytest
from tests.helpers import Gate, forever

from pytinykv.waitgraph.stacks import await_chain, call_site, call_sites, is_standard_library, thread_stack


def here() -> str:
    return str(call_site())


def test_call_site_is_the_callers_line() -> None:
    assert f"{__file__}:" in here()
    assert "in test_call_site_is_the_callers_line" in here()


def test_call_site_beyond_the_outermost_frame_is_unknown() -> None:
    assert call_site(10_000).path == "<unknown>"


def test_call_sites_hide_what_says_nothing() -> None:
    sites = call_sites(is_hidden=lambda path: "/_pytest/" in path or "/pluggy/" in path, count=50)
    assert sites[0].path == __file__
    assert all("_pytest" not in site.path for site in sites)


def test_the_standard_library_is_known_in_every_version() -> None:
    library = sysconfig.get_path("stdlib")
    assert is_standard_library(asyncio.sleep.__code__.co_filename)
    for path in (f"{library}/pathlib.py", f"{library}/pathlib/_local.py", f"{library}/asyncio/tasks.py", "<frozen os>"):
        assert is_standard_library(path)
    for path in (__file__, pytest.__file__, f"{library}/site-packages/grpc/aio.py", "<string>"):
        assert not is_standard_library(path)


async def test_await_chain_goes_from_the_task_to_what_it_waits_for() -> None:
    async def outer() -> None:
        await inner()

    async def inner() -> None:
        async for _ in endless():
            pass

    async def endless():  # noqa: ANN202 - an async generator, the type of which is beside the point
        yield 1
        await forever()

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    chain = await_chain(task)
    assert [line.rsplit(".", 1)[-1] for line in chain[:2]] == ["outer", "inner"]
    assert chain[-1].startswith("waits for <Future pending")
    task.cancel()
    await asyncio.wait((task,))


async def test_await_chain_names_the_task_that_is_waited_for() -> None:
    bottom = asyncio.create_task(forever(), name="bottom")

    async def wait() -> None:
        await bottom

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert await_chain(task)[-1] == "waits for task 'bottom'"
    bottom.cancel()
    await asyncio.wait((task, bottom))


async def test_await_chain_of_the_running_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert await_chain(task)[-1] == "is running now"


def test_thread_stack_shows_where_a_thread_is() -> None:
    gate = Gate()
    thread = threading.Thread(target=gate.run)
    assert thread_stack(thread) == ()
    thread.start()
    assert any("in Gate.run" in line for line in thread_stack(thread))
    gate.open()
    thread.join()
    assert thread_stack(thread) == ()
