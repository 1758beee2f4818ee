"""Errors: they pickle, as results of other processes must, and the public names are where people look."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

import pytinykv
from pytinykv.client import errors
from pytinykv.transport import RpcError, StatusCode, StreamEndedError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ClientError)]


@pytest.mark.parametrize(
    "error",
    [
        *(kind("it went wrong") for kind in KINDS),
        RpcError(StatusCode.UNAVAILABLE, "it went wrong"),
        StreamEndedError("it went wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pickle(error: Exception) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize("package", ["pytinykv", "pytinykv.testing"])
def test_what_is_loaded_at_its_first_use_is_listed_before(package: str) -> None:
    """As completion in a shell and `help` ask for it, in a process that has used nothing yet."""
    script = f"import {package} as package; print(set(package.__all__) - set(dir(package)))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_what_appears_in_annotations_is_public() -> None:
    def count(raw: pytinykv.RawClient, scan: pytinykv.Scan, later: pytinykv.aio.AsyncRawClient) -> None:
        raise NotImplementedError

    assert list(count.__annotations__) == ["raw", "scan", "later", "return"]
    for face, kind in ((pytinykv.Client, pytinykv.RawClient), (pytinykv.aio.AsyncClient, pytinykv.aio.AsyncRawClient)):
        assert "Raw operations" in (face.raw.__doc__ or "")
        assert face.raw.fget.__annotations__["return"] == kind.__name__
