"""What lifecycle raises.

```
LifecycleError              a rule of ownership was broken, or the environment refused
├── ScopeStoppedError       something was to be started in a scope that stops or has stopped
├── TaskCancelledError      somebody waited for a task that was cancelled
├── ChildStartError         a child process could not be started
├── AddressError            an address cannot be listened on: malformed, not loopback, taken, forbidden
├── ForkedEngineError       gRPC was to be used in a forked child whose parent had used it (lifecycle.rpc)
└── StatusError             a remote call failed, with a gRPC status (lifecycle.rpc)
```
"""

from __future__ import annotations


class LifecycleError(Exception):
    """A rule of ownership was broken, or the environment refused; the message says which and what to do."""


class ScopeStoppedError(LifecycleError):
    """Something was to be started in a scope that is stopping or has stopped; nothing was started."""


class TaskCancelledError(LifecycleError):
    """The task somebody waited for was cancelled before it had a result."""


class ChildStartError(LifecycleError):
    """A child process could not be started."""


class AddressError(LifecycleError):
    """An address cannot be listened on or connected to; the message names host and port and says what to do."""
