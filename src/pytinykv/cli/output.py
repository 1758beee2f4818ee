"""Standard output that can't be written: closed, a full disk, a pipe that is not read any more."""

from __future__ import annotations

import os
import select
import sys


def drop_output() -> None:
    """Send what is still in standard output's buffer nowhere, so that the interpreter's exit does not try again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(data: object) -> None:
    """Print plain data as JSON, for programs, so that people can read it as well."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")


def write_json_line(data: object) -> None:
    """Print plain data as JSON on one line."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(data) + b"\n")


def print_if_taken(line: str) -> str:
    """Print a line at once; return why that was not possible, empty if it was. Never waits for a reader."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        if not poll.poll(0):
            return "what is at its other end takes nothing"
        print(line, flush=True)
    except OSError as error:
        drop_output()
        return error.strerror or str(error)
    return ""
