"""The wheel that users install holds the package, its types, its generated modules and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel without a network: the build backend is among the development dependencies."""
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    [path] = target.glob("pytinykv-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_every_source_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "pytinykv").rglob("*")
        if path.suffix in {".py", ".pyi", ".proto", ".typed", ".html"}
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == wanted
    assert "pytinykv/py.typed" in packed
    assert "pytinykv/wire/pb/kvrpcpb_pb2.py" in packed
    assert "pytinykv/wire/pb/kvrpcpb_pb2.pyi" in packed


def test_metadata_names_the_console_script_license_and_python(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(read(wheel, "METADATA"))
    assert metadata["Name"] == "pytinykv"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert described_by_readme(metadata)
    assert b"tinykv = pytinykv.cli:main" in read(wheel, "entry_points.txt")
    assert b"Apache License" in read(wheel, "licenses/LICENSE")


def test_version_is_that_of_the_package_and_in_the_changelog(wheel: zipfile.ZipFile) -> None:
    version = message_from_bytes(read(wheel, "METADATA"))["Version"]
    assert f'__version__ = "{version}"' in (ROOT / "src/pytinykv/__init__.py").read_text(encoding="utf-8")
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def described_by_readme(metadata: Message) -> bool:
    return str(metadata.get_payload()).lstrip().startswith("# pytinykv")


def read(wheel: zipfile.ZipFile, name: str) -> bytes:
    [path] = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path)
