"""That a process says when it runs out of file descriptors."""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

from pytinykv.lifecycle.descriptors import DescriptorWatch, count_descriptors


def test_each_state_is_told_once() -> None:
    watch = DescriptorWatch()
    told = [watch.observe(count, 100) for count in (50, 89, 90, 95, 99, 100, 95, 85, 79, 50, 99)]
    levels = [None if one is None else one.level for one in told]
    assert levels == [
        *(None, None, logging.WARNING, None, logging.ERROR, None, None, None),
        *(logging.WARNING, None, logging.ERROR),
    ]
    assert told[4] is not None
    assert "new connections wait: 99 of 100 file descriptors are open; close connections, or raise" in told[4].message
    assert told[8] is not None
    assert told[8].message == "there are file descriptors again: 79 of 100 file descriptors are open"


def test_without_a_limit_there_are_always_some() -> None:
    assert DescriptorWatch().observe(10**6, resource.RLIM_INFINITY) is None


def test_they_are_counted_also_when_there_is_none_left_to_count_with(tmp_path: Path) -> None:
    before, limit = count_descriptors()
    opened = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]
    assert count_descriptors() == (before + 3, limit)
    for one in opened:
        os.close(one)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    try:
        assert count_descriptors() == (before, before)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
