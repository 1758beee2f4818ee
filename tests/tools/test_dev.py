"""The script `dev` with Pythons that are too old, not chosen, or others than last time."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dev() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("dev_of_this_test", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def command(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_too_old_a_python_is_refused_in_words(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    monkeypatch.setattr(sys, "version", "3.10.13 (main)")
    with pytest.raises(SystemExit) as refused:
        dev.base_python()
    assert refused.value.code == "./dev: Python 3.11 or newer is needed, this is 3.10.13"


def test_a_newer_one_on_the_path_is_taken_if_it_runs(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command(tmp_path, "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    command(tmp_path, "python3.12", f"exec {sys.executable} -c 'print(\"/pythons/python/bin/python3.12\")'")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    assert dev.base_python() == "/pythons/python/bin/python3.12"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (None, ["make", "install"]),
        ("this hash, this python", []),
        ("another hash, this python", ["install"]),
        ("this hash, another python", ["make", "install"]),
    ],
)
def test_the_environment_is_made_anew_for_another_python(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str | None, expected: list[str]
) -> None:
    done: list[str] = []

    def make(base: str) -> None:
        assert base == "/pythons/python3.13"
        done.append("make")
        dev.PYTHON.parent.mkdir(parents=True)
        dev.PYTHON.touch()

    def install(*words: object) -> int:
        done.append("install")
        return 0

    (tmp_path / "pyproject.toml").write_text("[project]")
    venv = tmp_path / ".venv"
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "PYTHON": venv / "bin/python",
        "STAMP": venv / ".installed-from",
        "make_venv": make,
        "run": install,
        "pip_for_venv": lambda _: ["pip"],
        "base_python": lambda: "/pythons/python3.13",
    }.items():
        monkeypatch.setattr(dev, name, value)
    if before is not None:
        dev.ensure_environment()
        done.clear()
        digest, base = dev.STAMP.read_text().split(" ")
        digest = digest if "this hash" in before else "0"
        base = base if "this python" in before else "/pythons/python3.12"
        dev.STAMP.write_text(f"{digest} {base}")
    dev.ensure_environment()
    assert done == expected
    assert dev.STAMP.read_text().endswith(" /pythons/python3.13")
