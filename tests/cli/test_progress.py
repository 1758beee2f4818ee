"""What a long scan shows."""

from __future__ import annotations

import io

from pytinykv.cli.progress import Progress


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_shown_in_the_first_second_then_a_line_twice_a_second_which_vanishes() -> None:
    screen, time = io.StringIO(), Time()
    progress = Progress(is_shown=True, stream=screen, now=time)
    for now_s, lines in ((0.9, 0), (1.25, 1), (1.3, 1), (1.75, 2)):
        time.now_s = now_s
        for _ in range(100):
            progress.add(b"k\n")
        assert screen.getvalue().count("keys") == lines
    assert "\r\x1b[K128 keys, 102/s, at k\\n" in screen.getvalue()
    progress.close()
    assert screen.getvalue().endswith("\r\x1b[K")
    assert progress.keys == 400


def test_a_program_sees_nothing_of_it() -> None:
    screen, time = io.StringIO(), Time()
    progress = Progress(is_shown=False, stream=screen, now=time)
    time.now_s = 100.0
    for _ in range(1000):
        progress.add(b"k")
    progress.close()
    assert screen.getvalue() == ""
