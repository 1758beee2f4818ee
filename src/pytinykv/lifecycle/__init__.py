from __future__ import annotations

from pytinykv.lifecycle.clock import Clock, SystemClock
from pytinykv.lifecycle.errors import (
    AddressError,
    ChildStartError,
    LifecycleError,
    ScopeStoppedError,
    TaskCancelledError,
)
from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.lifecycle.report import Leak, LeakKind, Outcome, StageResult, StopReport
from pytinykv.lifecycle.scope import Member, Scope

__all__ = [
    "AddressError",
    "ChildStartError",
    "Clock",
    "Leak",
    "LeakKind",
    "LifecycleError",
    "Member",
    "Outcome",
    "OwnedTask",
    "OwnedThread",
    "Scope",
    "ScopeStoppedError",
    "StageResult",
    "StopReport",
    "SystemClock",
    "TaskCancelledError",
]
