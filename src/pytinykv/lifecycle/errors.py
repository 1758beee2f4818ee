"""What lifecycle raises.

```
LifecycleError              a rule of ownership was broken, or the environment refused
├── ScopeStoppedError       something was to be started in a scope that stops or has stopped
├── TaskCancelledError      the task that a caller waited for was cancelled
├── ChildStartError         a child process could not be started
└── WiringError             components would wait for each other in a cycle (`wiring`)
```
"""

from __future__ import annotations


class LifecycleError(Exception):
    """A rule of ownership was broken, or the environment refused; the message says which and what to do."""


class ScopeStoppedError(LifecycleError):
    """Something was to be started in a scope that is stopping or has stopped; nothing was started."""


class TaskCancelledError(LifecycleError):
    """The task that was waited for was cancelled before it had a result."""


class ChildStartError(LifecycleError):
    """A child process could not be started."""
