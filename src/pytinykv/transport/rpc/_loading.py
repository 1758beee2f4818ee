"""Loads gRPC without its fork handlers and without its notes, before anything else here imports it.

The handlers run in every forked child, even one that only wants to exec or exit, and crash one in ten while grpc.aio is in
use. The notes go to standard error past all logging, one for each connection whose server was killed ("Got goaway"); errors
still do. gRPC looks at the variables once, when it is loaded; what the user says there wins, and so does code that loaded
gRPC before.
"""

from __future__ import annotations

import importlib
import os
from typing import Final

_SETTINGS: Final = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
_TRACE: Final = "GRPC_TRACE"
"""A user who sets it wants to see what gRPC says."""


def load_grpc() -> None:
    """Import gRPC; the environment, which child processes inherit, is afterwards as it was."""
    ours = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    if _TRACE in os.environ:
        ours.pop("GRPC_VERBOSITY", None)
    os.environ.update(ours)
    try:
        importlib.import_module("grpc.aio")
    finally:
        for name in ours:
            del os.environ[name]


load_grpc()
