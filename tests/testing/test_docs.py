"""The examples of docs/testing.md, run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"
GO_MODULES = ROOT / "tests" / "interop" / "client_go"
RUN_S = 60.0
BUILD_S = 600.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    """Have `tinykv` be that of this installation, and cargo go on with what it has built before, also of a stopped run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    kept.setdefault("CARGO_TARGET_DIR", str(ROOT / ".cargo_cache"))
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def check(argv: list[str], directory: Path, timeout_s: float = RUN_S) -> str:
    run = subprocess.run(
        argv, cwd=directory, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    shown = run.stdout + run.stderr
    if run.returncode and any(sign in shown for sign in ("dial tcp", "Could not resolve", "failed to download")):
        pytest.skip("the modules of the client can't be downloaded here")
    assert run.returncode == 0, shown
    return shown


def tool(name: str, *places: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((os.environ["PATH"], *places)))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_for_pytest(tmp_path: Path) -> None:
    fixtures, _ = blocks("python")
    (tmp_path / "test_counter.py").write_text(fixtures)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--assert=plain", "-q"]
    assert "2 passed" in check(argv, tmp_path)


def test_what_a_test_can_do(tmp_path: Path) -> None:
    _, tour = blocks("python")
    exec(compile(tour, str(PAGE), "exec"), {})  # noqa: S102 - the page's own


@pytest.mark.timeout(BUILD_S + RUN_S)
def test_for_go(tmp_path: Path) -> None:
    go = tool("go", "/usr/local/go/bin")
    (tmp_path / "counter_test.go").write_text(blocks("go")[0])
    for name in ("go.mod", "go.sum"):
        shutil.copy(GO_MODULES / name, tmp_path)
    check([go, "test", "./..."], tmp_path, BUILD_S)


@pytest.mark.timeout(2 * BUILD_S)
def test_for_rust(tmp_path: Path, more: int) -> None:
    if more < 2:
        pytest.skip("building the client takes minutes: try it with --more 2")
    cargo = tool("cargo", str(Path.home() / ".cargo" / "bin"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lib.rs").touch()
    (tmp_path / "tests" / "counter.rs").write_text(blocks("rust")[0])
    (tmp_path / "Cargo.toml").write_text(
        '[package]\nname = "counter"\nversion = "0.0.0"\nedition = "2021"\n\n'
        '[dev-dependencies]\ntikv-client = "0.3"\ntokio = { version = "1", features = ["full"] }\n'
    )
    check([cargo, "test"], tmp_path, 2 * BUILD_S)
