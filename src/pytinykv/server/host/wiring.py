"""What waits for what inside a store and inside the scheduler, declared so that it can be checked before anything runs.

```
store       service ──waits──► store loop ──► engine          scheduler   service ──waits──► commit round
            links, scheduler link ──wait──► connections                   commit round ──► disk thread ──► engine
            store loop ──drops, refuses──► links, scheduler link          service ──replaces──► outboxes
            store loop ──one sync at a time──► disk thread ──waits──► engine
```

Waits go down the list and never up; everything that goes up is a callback or a hand-over that does not wait.
"""

from __future__ import annotations

from pytinykv.lifecycle import WhenFull, Wiring

_PROCESS = ("*/main", "*/run", "*/wait-for-reason-to-stop", "*/stop", "*/stop:*")
"""Tasks of the process itself, which wait for a signal and then for the stop."""


def store_wiring() -> Wiring:
    """Return the wiring of a store process."""
    from pytinykv.server.host.raft_transport import (
        FRAMES_QUEUED_MAX,  # a scheduler, which is wired here too, loads no Raft
    )
    from pytinykv.server.kv.reads import LONG_READS_MAX

    wiring = Wiring("store")
    wiring.component("process", runs=(*_PROCESS, "*/status-port"))
    wiring.component("links", runs=("*/raft-transport/*",))
    wiring.component("service", runs=("*/grpc/*", "*/batch-reader", "*/grpc"))
    wiring.component("long reads", runs=("*/long-reads",))
    wiring.component("transactions", runs=("*/lock-waits", "*/max-ts", "*/allow-transactions"))
    wiring.component("garbage", runs=("*/gc", "*/gc-region-*"))
    wiring.component("deadlocks", runs=("*/deadlock-waits", "*/deadlock-answers"))
    wiring.component("scheduler link", runs=("*/store-heartbeat", "*/region-heartbeats", "*/ask-membership-*"))
    wiring.component("log", runs=("*/tell-leaderships",))
    wiring.component("address book", runs=("*/address-book",))
    wiring.component("connections", runs=("*/channel:*",))
    wiring.component("store loop", runs=("*/store-loop", "*/ticks"))
    wiring.component("snapshot thread", runs=("*/snapshots",))
    wiring.component("disk thread", runs=("*/disk",))
    wiring.component("engine")

    wiring.waits("service", "store loop", "the outcome of a proposal or read")
    wiring.waits("service", "long reads", "the answer to a read in slices")
    wiring.waits("service", "transactions", "the release of a lock, until its deadline")
    wiring.waits("transactions", "connections", "a timestamp")
    wiring.waits("garbage", "store loop", "the outcome of a proposal")
    wiring.waits("garbage", "connections", "the scheduler's answer")
    wiring.waits("service", "garbage", "a region to be collected")
    wiring.waits("deadlocks", "connections", "what another store detects")
    wiring.waits("long reads", "engine", "data")
    wiring.waits("links", "address book", "the address of a store")
    wiring.waits("links", "connections", "the bytes of a snapshot to be taken")
    wiring.waits("address book", "connections", "the scheduler's answer")
    wiring.waits("scheduler link", "connections", "the scheduler's answer")
    wiring.waits("store loop", "engine", "data")
    wiring.waits("snapshot thread", "engine", "the files of a snapshot")
    wiring.waits("disk thread", "engine", "a sync")
    wiring.hands_over("store loop", "links", "frames", bound=FRAMES_QUEUED_MAX, when_full=WhenFull.DROP)
    wiring.hands_over("store loop", "scheduler link", "region reports", bound=1024, when_full=WhenFull.REFUSE)
    wiring.hands_over("store loop", "disk thread", "a sync", bound=1, when_full=WhenFull.REFUSE)
    wiring.hands_over(
        "store loop", "snapshot thread", "regions to make snapshots of", bound=None, when_full=WhenFull.WAIT
    )
    wiring.hands_over("disk thread", "store loop", "finished syncs", bound=None, when_full=WhenFull.WAIT)
    wiring.hands_over("snapshot thread", "store loop", "finished snapshots", bound=None, when_full=WhenFull.WAIT)
    wiring.hands_over("service", "store loop", "commands", bound=1, when_full=WhenFull.REFUSE)
    wiring.hands_over("service", "long reads", "reads", bound=LONG_READS_MAX, when_full=WhenFull.REFUSE)
    wiring.hands_over("scheduler link", "store loop", "the scheduler's orders", bound=None, when_full=WhenFull.WAIT)
    return wiring


def scheduler_wiring() -> Wiring:
    """Return the wiring of a scheduler process."""
    wiring = Wiring("scheduler")
    wiring.component("process", runs=(*_PROCESS, "*/status-port"))
    wiring.component("service", runs=("*/grpc/*", "*/region-heartbeats", "*/grpc"))
    wiring.component("ticks", runs=("*/scheduler-tick",))
    wiring.component("outboxes")
    wiring.component("commit round")
    wiring.component("disk thread", runs=("*/disk",))
    wiring.component("engine")

    wiring.waits("service", "commit round", "the outcome of a command")
    wiring.waits("ticks", "commit round", "the outcome of a command")
    wiring.waits("commit round", "disk thread", "a sync")
    wiring.waits("disk thread", "engine", "a sync")
    wiring.hands_over("service", "outboxes", "orders for a region", bound=1, when_full=WhenFull.REPLACE)
    wiring.hands_over("ticks", "outboxes", "orders for a region", bound=1, when_full=WhenFull.REPLACE)
    return wiring
