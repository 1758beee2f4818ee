"""Generated files are those that their generators would write now."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Repository


def test_docs_parity_is_current_and_each_marker_names_a_test_of_tinykv(repository: Repository) -> None:
    """Run `./dev fmt` (or `tools/gen_parity.py`) after adding or moving a marked test."""
    done = subprocess.run(
        [sys.executable, "tools/gen_parity.py", "--check"],
        cwd=repository.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
