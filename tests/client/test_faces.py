"""Blocking and asynchronous classes offer the same operations with the same parameters."""

from __future__ import annotations

import inspect

import pytest

from pytinykv import testing
from pytinykv.client import AsyncClient, AsyncRawClient, Client, RawClient
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.sync import Snapshot, Transaction
from pytinykv.client.txn.transaction import AsyncTransaction
from pytinykv.testing.aio import AsyncCluster, AsyncStore

PARTS = {"start_commit", "fail_commit", "finish_commit"}
"""Of `commit`, for the embedded face."""


@pytest.mark.parametrize(
    ("blocking", "asynchronous", "of_one_only"),
    [
        (RawClient, AsyncRawClient, {"pages"}),
        (Transaction, AsyncTransaction, PARTS | {"abandon", "begin", "begin_as", "pages"}),
        (Snapshot, AsyncSnapshot, {"begin", "pages"}),
        (Client, AsyncClient, {"open", "run"}),
        (testing.Cluster, AsyncCluster, {"do"}),
        (testing.Store, AsyncStore, set()),
    ],
)
def test_both_faces_have_the_same_operations_with_the_same_parameters(
    blocking: type, asynchronous: type, of_one_only: set[str]
) -> None:
    """`of_one_only`: what the other face calls, or what can't be the same (`run` takes a function of the face's kind)."""
    assert operations(blocking, of_one_only) == operations(asynchronous, of_one_only)


def operations(face: type, without: set[str]) -> dict[str, list[str]]:
    return {
        name: [str(each) for each in inspect.signature(method).parameters.values()]
        for name, method in inspect.getmembers(face, inspect.isfunction)
        if not name.startswith("_") and name not in without
    }
