"""A whole cluster in one process, on virtual time, from one seed.

The code that runs is the real one: raftstore, scheduler, services, client. Replaced are clock, randomness, transport and
disk, and with them everything that makes a failure hard to find twice:

    loop        asyncio on virtual time: it jumps to the next timer, and nothing real gets in
    process     what a program owns, so that it can be killed, stalled and restarted
    network     links with latency, loss, duplication, cuts and clogs; connection, rpc_server, rpc_client: calls over them
    disk        an engine in memory that forgets at a crash what wasn't synced; files: the other files of a machine
    world       all of that for one seed, and the check at the end that nothing is left
    nodes       the real programs on these parts, store_node: a store; cluster: one of them all
    nemeses     fault makers; what they share is in faults
    scenario    a story over a cluster, run with any seed; scenarios: the stories
    workloads   what clients do, side_workloads: with special tasks; history: what they asked and saw; checkers judge it
    observers   watchers of Raft's invariants, fed with what stores send and write
    tally       what many histories came to; timeline: one of them, for reading; trace: its events and their digest
    shrinking   a failed history with fewer faults
    situation   who is behind and waits for what, for the message of a failure
"""

from __future__ import annotations

from pytinykv.simulation import scenarios as _scenarios
from pytinykv.simulation.scenario import SCENARIOS, Result, Scenario, ScenarioFailed, run_scenario

__all__ = ["SCENARIOS", "Result", "Scenario", "ScenarioFailed", "run_scenario"]

del _scenarios
