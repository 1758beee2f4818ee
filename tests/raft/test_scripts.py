"""The conversation scripts in `tests/scripts/raft`, and what plays them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raft.script import play
from tests.raft.script_group import ScriptError

SCRIPTS = Path(__file__).parents[1] / "scripts" / "raft"


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_the_conversation_goes_as_it_is_written(path: Path, request: pytest.FixtureRequest) -> None:
    """With `--rewrite` the file gets the output that the commands gave; read it before you commit it."""
    played = play(path)
    if request.config.getoption("--rewrite"):
        path.write_text(played, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == played, "right? then run it again with --rewrite, and read what changed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("> nodes 1 2 3\n\n1: follower\n", "s.txt:3: output without a command above it"),
        ("> nodes 1\n> dance 1\n", "s.txt:2: no command 'dance'; there are add-learner, add-voter, admin"),
        ("# a story\n\n> nodes 1\n> campaign 2\n", "s.txt:4: no peer 2"),
        ("> nodes 1\n> campaign\n", r"s.txt:2: campaign: .*missing 1 required positional argument"),
        ("> nodes 1\n> tick 1 often\n", "s.txt:2: tick 1 often: invalid literal"),
        ("> nodes 1\n> crash 1\n> campaign 1\n", "s.txt:3: peer 1 is down"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text(text)
    with pytest.raises(ScriptError, match=message):
        play(path)


def test_comments_and_commands_stay_and_outputs_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("# One peer.\n\n> nodes 1 plain\n> campaign 1\n1: something else\nand more\n\n> log\n")
    assert play(path) == (
        "# One peer.\n\n> nodes 1 plain\n> campaign 1\n"
        "1: leader in term 1; votes for 1; commit 1; writes 1@1 no-op; applies no-op\n\n> log\n1: 1@1 no-op\n"
    )
