"""`tinykv bench`: how fast, against etcd on the same machine in the same run.

    workload   closed loops of puts or gets, and their latencies     targets, etcd   what is measured: a cluster of each
    stops      stores that are stopped under load                    facts           single figures: memory, failover, idle
    large_rows reads of much data, beside another client
    processors processor time by role: client, leader, followers     report          tables, saved figures, plot
    many_regions  many regions: puts, splits, restarts, rest      split_load      a load while regions split and move
    put_load      puts beside what happens to a cluster           figures         figures beside their targets
    embedded   an embedded database beside SQLite            command         the command itself

Machines differ and are noisy: what counts is the ratio between two systems that were measured in turns, round by round, in
one run. Every run is bounded in operations and in time.
"""
