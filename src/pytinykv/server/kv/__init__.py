"""`tikvpb.Tikv` on a store: from a request's bytes to reads and proposals, and back to an answer's bytes.

The chapters, bottom-up:

    encoding       answers as bytes                         kinds         what a command is
    raw_requests   keys, ranges, times to live              raw_reads, raw_writes
    commands       the registry: one entry per command      checks        where a request belongs, and refusals
    answers        answers on their way, and their bound    reads         reads in slices, beside one another
    dispatcher     one frame, from its commands to answers  service       unary calls and streams

A command goes down once, service → dispatcher → its function in the registry → store, and its answer comes back up
through `Answers`, whether it came in a frame or in a call of its own.
"""

from __future__ import annotations
