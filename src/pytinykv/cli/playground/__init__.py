"""`tinykv playground`: a scheduler and stores as child processes on loopback, and a view of what they do.

```
command    options, and the order of things
home       the data directory: temporary or given, held by one playground at a time
cluster    the processes: start, ready, watch, stop
observe    what the stores tell about themselves, twice a second
view       the live picture for a terminal; lines for a pipe
keys       what is typed meanwhile: stop a store, kill it, bring it back
lines      what to paste into which client, and the report at the end
```
"""

from __future__ import annotations

from pytinykv.cli.playground.command import playground

__all__ = ["playground"]
