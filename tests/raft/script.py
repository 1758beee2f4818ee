"""Conversation scripts: files in which peers of a group are told what happens, with what they answer under each command.

    # A comment tells the story.

    > campaign 1
    1: candidate in term 1, votes for 1

A line that begins with `>` is a command, one with `#` a comment; all others up to the next of these or an empty line are the
output that is expected. `script_group` has the commands, `tests/scripts/raft/README.md` explains them to readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.raft.script_group import Group, ScriptError


class Line(NamedTuple):
    """A command with the lines that are expected under it, or, with an empty command, a line that is only copied."""

    number: int
    command: str
    text: str
    expected: tuple[str, ...]


def parse(path: Path) -> list[Line]:
    """Read a script.

    Raises:
        ScriptError: an output line has no command above it; names file and line.
    """
    lines: list[Line] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if text.startswith(">"):
            lines.append(Line(number, text[1:].strip(), text, ()))
        elif not text.strip() or text.startswith("#"):
            lines.append(Line(number, "", text, ()))
        elif lines and lines[-1].command:
            last = lines.pop()
            lines.append(last._replace(expected=(*last.expected, text)))
        else:
            raise ScriptError(f"{path.name}:{number}: output without a command above it: {text!r}")
    return lines


def play(path: Path) -> str:
    """Carry out a script; return its text with the output that the commands gave.

    Raises:
        ScriptError: a command is not understood; names file and line.
    """
    group = Group()
    told: list[str] = []
    for line in parse(path):
        told.append(line.text)
        if not line.command:
            continue
        try:
            told.extend(group.do(line.command))
        except ScriptError as error:
            raise ScriptError(f"{path.name}:{line.number}: {error}") from None
        except AssertionError as error:
            raise AssertionError(f"{path.name}:{line.number}: {line.command}: {error}") from error
    return "\n".join(told) + "\n"
