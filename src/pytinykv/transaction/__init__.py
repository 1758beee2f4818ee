"""Percolator's transactions over one engine: what a command reads and what it changes. Pure.

    records         locks and commit records, in TiKV's bytes
    errors          why a transaction can't do what it wants to, as plain records
    commands        what clients ask, as plain records          results     what they are answered

    latches         which command goes first, by key            lock_waits  who waits for a lock
    deadlock        who waits for whom, and the cycle

Left out: protobuf, which comes with the server; timestamps, which come from the client.
"""

from __future__ import annotations
