"""Random schedules against the guarantees of Raft, and planted bugs that the schedules must find.

`world` says what can happen and what is judged. A failing example is shrunk by Hypothesis to a short list of actions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.raft.schedules import ACTIONS, Action, random_schedule
from tests.raft.world import World
from tests.simulation.planted.patching import Patch

from pytinykv.raft import LogIndex, ProtocolViolation, Term, election, following, leading, log, raw_node
from pytinykv.raft.core import Core
from pytinykv.raft.durability import Durability
from pytinykv.raft.messages import NO_PEER
from pytinykv.raft.roles import Leader

ACTION_LIST = [kind for kind, weight in ACTIONS.items() for _ in range(weight)]
actions = st.tuples(st.sampled_from(ACTION_LIST), st.integers(0, (1 << 16) - 1))


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 16), schedule=st.lists(actions, min_size=20, max_size=250))
def test_no_schedule_breaks_safety_and_every_group_recovers(seed: int, schedule: list[Action]) -> None:
    """Election safety, log matching, leader completeness, state-machine safety, lease safety, linearizable reads."""
    world = World(seed)
    world.run(schedule)
    world.heal_and_settle()


@pytest.mark.parametrize("first_seed", range(0, 200, 50))
def test_long_seeded_schedules_are_safe_and_recover(first_seed: int) -> None:
    """As above, with schedules long enough for several terms, snapshots and membership changes."""
    leases = reads = terms = 0
    for seed in range(first_seed, first_seed + 50):
        world = World(seed)
        world.run(random_schedule(seed, 400))
        world.heal_and_settle()
        leases += world.judge.leases_seen
        reads += world.judge.reads_seen
        terms += len(world.judge.leaders)
    assert leases > 1000, "the schedules hardly ever saw a lease"
    assert reads > 50, "the schedules hardly ever answered a read"
    assert terms > 100, "the schedules hardly ever changed leaders"


def test_a_schedule_always_gives_the_same_history() -> None:
    def history(seed: int) -> tuple[object, ...]:
        world = World(seed)
        world.run(random_schedule(seed, 300))
        return world.describe(), dict(world.judge.leaders), world.time, list(world.pool)

    assert history(7) == history(7)


# -- planted bugs: each replaces one rule, and some schedule must convict it


def commit_older_terms_by_counting(patch: Patch) -> None:
    """Raft figure 8: an entry of an older term that a majority has may still be overwritten."""
    patch.setattr(Leader, "is_own_entry", lambda _self, _index: True)


def acknowledge_before_persisted(patch: Patch) -> None:
    """A crash takes back what was acknowledged."""
    patch.setattr(Core, "send_after_sync", lambda self, message: self.messages.append(message))


def count_the_leader_before_its_disk(patch: Patch) -> None:
    """The leader counts itself as soon as it has appended."""
    append = leading.append

    def eager(core: Core, role: Leader, kind: object, data: bytes) -> LogIndex:
        index = append(core, role, kind, data)  # type: ignore[arg-type]
        role.progress[core.id].match = index
        leading.maybe_commit(core, role)
        return index

    patch.setattr(leading, "append", eager)


def trust_syncs_of_overwritten_entries(patch: Patch) -> None:
    """A sync that completes makes an index count whose entry has been replaced since."""

    def overwritten(self: Durability, from_index: LogIndex) -> None:
        self.index = min(self.index, LogIndex(from_index - 1))

    patch.setattr(Durability, "overwritten", overwritten)


def forget_the_vote_on_restart(patch: Patch) -> None:
    """A restarted peer votes a second time in the same term."""
    construct = Core.__init__

    def forgetful(self: Core, *args: object) -> None:
        construct(self, *args)  # type: ignore[arg-type]
        self.vote = NO_PEER

    patch.setattr(Core, "__init__", forgetful)


def vote_for_any_log(patch: Patch) -> None:
    """Votes do not look at the candidate's log."""
    patch.setattr(log.RaftLog, "is_up_to_date", lambda *_args: True)


def skip_the_check_of_the_previous_entry(patch: Patch) -> None:
    """A follower appends although the logs differ just before."""
    matches = log.RaftLog.matches

    def credulous(self: log.RaftLog, index: LogIndex, term: Term) -> bool:
        return index <= self.last_index if index == self.last_index else matches(self, index, term)

    patch.setattr(log.RaftLog, "matches", credulous)


def read_without_a_round(patch: Patch) -> None:
    """Reads are answered from the commit index, without a quorum that confirms the leader."""

    def hasty(core: Core, role: Leader) -> None:
        core.read_states.extend(role.reads.confirmed(role.reads.round))

    send_due = leading.send_due

    def send_and_release(core: Core, role: Leader) -> None:
        send_due(core, role)
        hasty(core, role)

    patch.setattr(leading, "send_due", send_and_release)


def hold_leases_by_heartbeats_alone(patch: Patch) -> None:
    """The lease runs from the sending, without any answer."""
    patch.setattr(
        leading, "lease_until", lambda core, role: core.now + 0.8 if leading.has_committed_in_term(core, role) else -1e9
    )


def campaign_in_spite_of_a_leader(patch: Patch) -> None:
    """Peers vote for others while their leader counts on them."""
    patch.setattr(Core, "is_sticky", lambda _self: False)


def forget_stickiness_on_restart(patch: Patch) -> None:
    """A restarted peer votes at once, although a leader may rely on it for its lease."""
    construct = Core.__init__

    def forgetful(self: Core, *args: object) -> None:
        construct(self, *args)  # type: ignore[arg-type]
        self.is_just_restarted, self.heard_elapsed = False, self.config.election_ticks

    patch.setattr(Core, "__init__", forgetful)


def keep_the_lease_after_a_transfer(patch: Patch) -> None:
    """A TimeoutNow that was given up still releases the voters."""
    patch.setattr(Core, "is_released_by_transfer", lambda _self, transfer_at, _term: transfer_at is not None)


def count_a_change_before_it_is_applied_everywhere(patch: Patch) -> None:
    """A leader proposes change after change, and peers campaign in configurations that are two steps old."""
    propose = raw_node.membership.propose

    def impatient(core: Core, role: Leader, change: object) -> LogIndex:
        role.barrier_index = LogIndex(0)
        return propose(core, role, change)  # type: ignore[arg-type]

    patch.setattr(raw_node.membership, "propose", impatient)
    patch.setattr(election, "_knows_unapplied_admin_entry", lambda _core: False)


def read_under_an_unapplied_barrier(patch: Patch) -> None:
    """A leader reads by its lease although others have applied an admin entry that it has not."""
    patch.setattr(leading, "is_applied_current", lambda core, role: core.log.applied >= role.term_start)


def read_before_the_no_op_is_applied(patch: Patch) -> None:
    """A new leader reads by its lease although it has not applied all that earlier leaders acknowledged."""
    patch.setattr(leading, "is_applied_current", lambda core, role: core.log.committed >= role.term_start)


def commit_what_is_not_known_to_match(patch: Patch) -> None:
    """A follower takes the commit index of a heartbeat beyond what it has acknowledged."""
    broadcast = leading.broadcast_heartbeats

    def generous(core: Core, role: Leader) -> None:
        before = {peer_id: progress.match for peer_id, progress in role.progress.items()}
        for progress in role.progress.values():
            progress.match = core.log.last_index
        broadcast(core, role)
        for peer_id, progress in role.progress.items():
            progress.match = before[peer_id]

    def unchecked(*_args: object) -> None:
        return

    patch.setattr(leading, "broadcast_heartbeats", generous)
    patch.setattr(following, "check", unchecked)


Bug = Callable[[Patch], None]
ONLY_PAIRS_TALK = {**dict.fromkeys(ACTIONS, 0), "talk": 50, "campaign": 8, "propose": 10}
RESTARTS_UNDER_A_LEASE = {
    "reboot": 20,
    "cut": 8,
    "heal": 2,
    "calm": 30,
    "deliver": 4,
    "turn": 4,
    "sync": 4,
    **dict.fromkeys(["crash", "change", "talk", "transfer", "compact", "stall", "drop"], 0),
}
SLOW_TO_APPLY = {
    "turn": 30,
    "deliver": 60,
    "sync": 30,
    "admin": 10,
    "talk": 30,
    "calm": 3,
    **dict.fromkeys(["change", "crash", "reboot", "stall", "cut", "drop", "hold"], 0),
}
CHANGES_ON_BAD_LINKS = {"change": 20, "cut": 8, "campaign": 8, "calm": 6, "heal": 3, "talk": 20, "admin": 0}
READS_ON_BAD_LINKS = {
    "read": 20,
    "propose": 20,
    "calm": 20,
    "campaign": 4,
    "cut": 8,
    **dict.fromkeys(["change", "crash", "reboot", "stall", "drop", "hold", "compact", "admin"], 0),
}
LATE_TRANSFERS = {
    "transfer": 8,
    "release": 10,
    "calm": 20,
    "cut": 1,
    **dict.fromkeys(["change", "crash", "stall", "admin"], 0),
}

BUGS: list[tuple[Bug, int, dict[str, int]]] = [
    (commit_older_terms_by_counting, 146, ONLY_PAIRS_TALK),
    (acknowledge_before_persisted, 11, {}),
    (count_the_leader_before_its_disk, 4, {}),
    (trust_syncs_of_overwritten_entries, 206, {}),
    (forget_the_vote_on_restart, 383, {}),
    (vote_for_any_log, 2, {}),
    (skip_the_check_of_the_previous_entry, 25, {}),
    (read_without_a_round, 2, READS_ON_BAD_LINKS),
    (hold_leases_by_heartbeats_alone, 1, {}),
    (campaign_in_spite_of_a_leader, 66, {}),
    (forget_stickiness_on_restart, 46, RESTARTS_UNDER_A_LEASE),
    (keep_the_lease_after_a_transfer, 9, LATE_TRANSFERS),
    (count_a_change_before_it_is_applied_everywhere, 15, CHANGES_ON_BAD_LINKS),
    (commit_what_is_not_known_to_match, 97, {}),
    (read_under_an_unapplied_barrier, 3, SLOW_TO_APPLY),
    (read_before_the_no_op_is_applied, 0, SLOW_TO_APPLY),
]
"""Each with the seed at which the search begins, and what its schedules should have more or less of."""


def first_conviction(seeds: range, focus: dict[str, int]) -> int | None:
    """Return the first seed whose schedule convicts the planted bug."""
    for seed in seeds:
        try:
            World(seed).run(random_schedule(seed, 300, focus))
        except (AssertionError, ProtocolViolation):
            return seed
    return None


@pytest.mark.parametrize(("bug", "seed", "focus"), BUGS, ids=[bug.__name__ for bug, _, _ in BUGS])
def test_a_planted_bug_is_found(bug: Bug, seed: int, focus: dict[str, int], monkeypatch: Patch) -> None:
    """The search goes on for a while, because a change of the core shifts every schedule after its first effect."""
    assert first_conviction(range(seed, seed + 1), focus) is None, "the schedule fails without the planted bug"
    patch = Patch(monkeypatch)
    bug(patch)
    assert first_conviction(range(seed, seed + 600), focus) is not None
    patch.check()
