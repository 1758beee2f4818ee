"""A whole cluster in one process, on virtual time, from one seed.

The code that runs is the real one: raftstore, scheduler, services, client. Replaced are clock, randomness, transport and
disk, and with them everything that makes a failure hard to find twice:

    loop        asyncio on virtual time: it jumps to the next timer, and nothing real gets in
    process     what a program owns, so that it can be killed, stalled and restarted
    network     links with latency, loss, duplication, cuts and clogs; connection, rpc: calls and streams over them
    disk        an engine in memory that forgets at a crash what wasn't synced
    world       all of that for one seed, and the check at the end that nothing is left
    history     what clients asked and saw; checkers judge it
"""

from __future__ import annotations

from pytinykv.simulation import scenarios as _scenarios
from pytinykv.simulation.scenario import SCENARIOS, Result, Scenario, ScenarioFailed, run_scenario

__all__ = ["SCENARIOS", "Result", "Scenario", "ScenarioFailed", "run_scenario"]

del _scenarios
