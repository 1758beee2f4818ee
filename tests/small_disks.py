"""A file system of a few MiB that a test may fill, or write-protect. Without the right to mount one, the test is skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mount_small_disk(path: Path, size: str = "2m") -> Iterator[Path]:
    """Mount one at `path`, which is made."""
    path.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["/bin/umount", "-l", str(path)], check=True)


@contextmanager
def write_protected(path: Path) -> Iterator[None]:
    """Have a small disk take no writes, as kernels do with file systems that are damaged."""
    subprocess.run(["/bin/mount", "-o", "remount,ro", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["/bin/mount", "-o", "remount,rw", str(path)], check=True)


def fill(file: Path) -> None:
    """Take all the space there is with a file."""
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue
