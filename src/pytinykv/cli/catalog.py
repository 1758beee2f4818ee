"""Which commands there are, and where."""

from __future__ import annotations

from typing import Final, NamedTuple


class CommandEntry(NamedTuple):
    """Where a command is, and what it is for."""

    module: str
    attribute: str
    summary: str


COMMANDS: Final = {
    "playground": CommandEntry(
        "pytinykv.cli.playground", "playground", "Run a whole cluster on this machine, and watch it."
    ),
    "scheduler": CommandEntry("pytinykv.cli.servers", "scheduler", "Run the scheduler."),
    "store": CommandEntry("pytinykv.cli.servers", "store", "Run a store."),
    "get": CommandEntry("pytinykv.cli.data", "get", "Print the value of a key."),
    "put": CommandEntry("pytinykv.cli.data", "put", "Set a key."),
    "delete": CommandEntry("pytinykv.cli.data", "delete", "Remove a key."),
    "cas": CommandEntry("pytinykv.cli.data", "cas", "Set a key if it is as expected (compare and swap)."),
    "ttl": CommandEntry("pytinykv.cli.data", "ttl", "Tell when a key vanishes."),
    "scan": CommandEntry("pytinykv.cli.ranges", "scan", "List keys and values in key order."),
    "count": CommandEntry("pytinykv.cli.ranges", "count", "Count keys."),
    "delete-range": CommandEntry("pytinykv.cli.ranges", "delete_range", "Remove the keys of a range."),
    "txn-get": CommandEntry("pytinykv.cli.txn", "txn_get", "Print the value of a key that transactions see."),
    "txn-scan": CommandEntry("pytinykv.cli.txn", "txn_scan", "List what transactions see, of one moment."),
    "mvcc": CommandEntry("pytinykv.cli.txn", "mvcc", "Show every version and the lock of a key."),
    "locks": CommandEntry("pytinykv.cli.txn", "locks", "List the locks of transactions."),
    "gc": CommandEntry("pytinykv.cli.txn", "gc", "Show or move the moment before which versions are collected."),
    "export": CommandEntry("pytinykv.cli.moving.commands", "export_", "Write all data into a file."),
    "import": CommandEntry("pytinykv.cli.moving.commands", "import_", "Write the rows of such a file."),
    "status": CommandEntry("pytinykv.cli.cluster", "status", "Show how the cluster is."),
    "regions": CommandEntry("pytinykv.cli.cluster", "regions", "List the regions, and who leads them."),
    "stores": CommandEntry("pytinykv.cli.cluster", "stores", "List the stores."),
    "ctl": CommandEntry("pytinykv.cli.ctl", "ctl", "Split, scatter, move leaders, remove stores."),
    "doctor": CommandEntry("pytinykv.cli.doctor", "doctor", "Show what waits for what in a live server."),
    "bench": CommandEntry("pytinykv.cli.bench.command", "bench", "Measure a cluster, beside etcd."),
    "sim": CommandEntry("pytinykv.cli.sim", "sim", "Run simulated clusters and look for bugs in them."),
}
