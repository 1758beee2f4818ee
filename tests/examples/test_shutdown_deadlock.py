"""The exhibit: each shape hangs without the kit, is explained and got out of with it; the sound wiring stops at once."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pytinykv.lifecycle import StageOutcome, WiringError

ROOT = Path(__file__).parents[2]
EXHIBIT = ROOT / "examples" / "shutdown_deadlock"
PAGE = (ROOT / "docs" / "shutdown.md").read_text(encoding="utf-8")

SAID = {
    "two-queues": [
        "DEADLOCK CYCLE 1",
        "waits to put into queue Worker.inbox of store-2 (full: 1 of 1)",
        "which would be emptied by task cluster/store-2 (probably: Worker.run calls self.inbox.get)",
    ],
    "stopped-first": [
        "no deadlock cycle",
        "waits to put into queue Worker.inbox of store-1 (full: 1 of 1)",
        "and nothing is known that would end the wait",
    ],
    "lock-across-send": [
        "DEADLOCK CYCLE 1",
        "waits to acquire lock LockAcrossSend.addresses (locked)",
        "which is held by task cluster/sender (inside its block at ",
        "which would be emptied by task cluster/delivery",
    ],
    "stop-in-the-queue": [
        "waits to put into queue StopInTheQueue.work (full: 1 of 1)",
        "which would be emptied by task cluster/worker",
        "waits for event StopInTheQueue.link_is_up (not set)",
        "which would be set by StopInTheQueue.heal (probably)",
    ],
    "forgotten-callback": [
        "waits for future callback in ForgottenCallback.propose (pending)",
        "and nothing is known that would end the wait",
    ],
}


@pytest.fixture(scope="module")
def exhibit() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(EXHIBIT))
    try:
        import acts
        import cannot_hang
        import shapes

        yield {"acts": acts, "shapes": shapes, "cannot_hang": cannot_hang}
    finally:
        sys.path.remove(str(EXHIBIT))


@pytest.mark.parametrize("name", SAID)
async def test_it_hangs_without_the_kit(exhibit: dict[str, ModuleType], name: str) -> None:
    assert await exhibit["acts"].without_the_kit(exhibit["shapes"].SHAPES[name], 0.1)


@pytest.mark.parametrize("name", SAID)
async def test_it_is_explained_and_got_out_of_with_the_kit(exhibit: dict[str, ModuleType], name: str) -> None:
    report = await exhibit["acts"].with_the_kit(exhibit["shapes"].SHAPES[name], 0.1)
    assert report.stages[0].outcome is StageOutcome.OVERRAN
    assert report.leaks == (), "it got out: nothing is left"
    text = report.render()
    for line in SAID[name]:
        assert line in text


def test_every_shape_is_shown(exhibit: dict[str, ModuleType]) -> None:
    assert list(exhibit["shapes"].SHAPES) == list(SAID)


async def test_the_wiring_that_cannot_hang(exhibit: dict[str, ModuleType]) -> None:
    module = exhibit["cannot_hang"]
    with pytest.raises(WiringError, match="can hang"):
        module.hanging_wiring().check()
    report, fate = await module.run_and_stop()
    assert report.ok
    assert isinstance(fate, module.StoppingError)
    await asyncio.sleep(0)


def test_the_output_on_the_page_is_what_the_program_prints() -> None:
    done = subprocess.run(
        [sys.executable, EXHIBIT, "two-queues"], check=True, capture_output=True, text=True, timeout=60
    )
    shown = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(shown) == 1
    assert steady(shown[0]) in steady(done.stdout)


def test_bad_usage() -> None:
    done = subprocess.run(
        [sys.executable, EXHIBIT, "nonsense"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "no shape nonsense; there are two-queues, " in done.stderr


def test_each_lesson_of_the_page_is_shown_by_a_test_that_exists() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "](../tests/" in line]
    assert len(rows) >= 9
    for test, path in re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", PAGE):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test


def steady(text: str) -> str:
    """Return the text without times and process ids."""
    text = re.sub(r"\d+\.\d+ s", "0.5 s", text)
    return re.sub(r"\(pid \d+\)", "(pid 1)", text).strip()
