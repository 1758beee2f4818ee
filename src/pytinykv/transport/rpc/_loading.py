"""Loads gRPC without its fork handlers, before anything else here imports it.

They run in every forked child, even one that only wants to exec or exit, and crash one in ten while grpc.aio is in use.
gRPC looks at the variable once, when it is loaded; what the user says there wins, and so does code that loaded gRPC before.
"""

from __future__ import annotations

import importlib
import os
from typing import Final

_FORK_SUPPORT: Final = "GRPC_ENABLE_FORK_SUPPORT"


def load_grpc() -> None:
    """Import gRPC; the environment, which child processes inherit, is afterwards as it was."""
    if _FORK_SUPPORT in os.environ:
        return
    os.environ[_FORK_SUPPORT] = "0"
    try:
        importlib.import_module("grpc.aio")
    finally:
        del os.environ[_FORK_SUPPORT]


load_grpc()
