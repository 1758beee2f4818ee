from __future__ import annotations

import asyncio

from pytinykv.lifecycle.ready_line import read_ready_line, ready_line


async def test_facts_come_through_and_other_lines_are_passed_over() -> None:
    stdout = asyncio.StreamReader()
    stdout.feed_data(b"already here\n\xff\n")
    stdout.feed_data(
        f"{ready_line({'addr': '127.0.0.1:1', 'status': '', 'store': 4})} later\nready addr=other\n".encode()
    )
    assert await read_ready_line(stdout) == {"addr": "127.0.0.1:1", "store": "4"}


async def test_output_that_ends_before() -> None:
    stdout = asyncio.StreamReader()
    stdout.feed_data(b"starting\n")
    stdout.feed_eof()
    assert await read_ready_line(stdout) is None
