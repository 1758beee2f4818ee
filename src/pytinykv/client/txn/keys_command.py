"""A write to keys of one transaction whose answer says nothing but that it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytinykv.client.commands import BatchCommand, Effect
from pytinykv.client.key_space import MEMCOMPARABLE
from pytinykv.client.txn.key_errors import error_of


class KeysCommand(BatchCommand[bytes, None]):
    """A write to keys of one transaction that says nothing but that it is done."""

    __slots__ = ("start_ts",)
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], start_ts: int) -> None:
        self.key = items[0]
        self.items = items
        self.start_ts = start_ts

    def decode(self, reply: Any) -> None:
        refuse_errors(reply, self.describe())


def refuse_errors(reply: Any, what: str) -> None:
    """Raise the error of a reply, of whichever shape: one field, or several."""
    if "errors" in reply.DESCRIPTOR.fields_by_name:
        for error in reply.errors:
            raise error_of(error, what)
    elif reply.HasField("error"):
        raise error_of(reply.error, what)
