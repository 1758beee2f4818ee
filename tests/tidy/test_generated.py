"""Generated files are those that their generators would write now."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Repository


@pytest.mark.parametrize("generator", ["gen_parity", "gen_pages"])
def test_pages_are_current(repository: Repository, generator: str) -> None:
    """Run `./dev fmt` after adding or moving a test with TinyKV's marker, or changing a metric, an option or a setting.

    `gen_parity` also fails for a marker that names no test of TinyKV.
    """
    done = subprocess.run(
        [sys.executable, f"tools/{generator}.py", "--check"],
        cwd=repository.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
