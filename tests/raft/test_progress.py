"""What a leader knows about a follower: probing, streaming, waiting for a snapshot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.raft import LogIndex, ProgressState
from pytinykv.raft.progress import Progress

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT
NOTHING_ANNOUNCED = LogIndex(0)


def index(number: int) -> LogIndex:
    return LogIndex(number)


def probing(match: int = 0, next_index: int = 10) -> Progress:
    return Progress(index(match), index(next_index), inflight_max=2, inflight_bytes_max=100)


def replicating(match: int = 5) -> Progress:
    progress = probing(match, match + 1)
    progress.become_replicate()
    return progress


def is_due(progress: Progress, last: int, announced: int = 0) -> bool:
    return progress.is_due(index(last), index(announced))


# -- probe


def test_a_probe_is_sent_once_until_something_is_heard() -> None:
    progress = probing()
    assert is_due(progress, 9), "also with nothing to send: it finds out where the logs agree"
    progress.on_sent(index(12), 30, index(0))
    assert not is_due(progress, 12)
    assert progress.next == 10, "a probe does not move on by itself"
    progress.on_rejected(index(9), index(6))
    assert is_due(progress, 12)


def test_a_rejected_probe_goes_back_to_the_hint() -> None:
    progress = probing()
    assert progress.on_rejected(index(9), index(6))
    assert progress.next == 7


def test_a_rejection_never_goes_below_what_is_known_to_match() -> None:
    progress = probing(match=4)
    progress.on_rejected(index(9), index(1))
    assert progress.next == 5


@pytest.mark.parametrize("rejected", [8, 10])
def test_the_answer_to_another_probe_is_ignored(rejected: int) -> None:
    progress = probing()
    assert not progress.on_rejected(index(rejected), index(1))
    assert progress.next == 10


def test_an_accepted_probe_begins_a_stream() -> None:
    progress = probing()
    assert progress.on_accepted(index(9))
    assert (progress.state, progress.match, progress.next) == (REPLICATE, 9, 10)


# -- replicate


def test_a_stream_moves_on_without_waiting_until_the_window_is_full() -> None:
    progress = replicating()
    for last in (6, 7):
        assert is_due(progress, 9)
        progress.on_sent(index(last), 10, index(0))
    assert (progress.next, progress.inflight, progress.is_full(), is_due(progress, 9)) == (8, 2, True, False)
    progress.on_accepted(index(6))
    assert (progress.inflight, progress.inflight_bytes, is_due(progress, 9)) == (1, 10, True)


def test_a_window_may_be_full_of_bytes() -> None:
    progress = replicating()
    progress.on_sent(index(6), 100, index(0))
    assert progress.is_full()
    progress.on_accepted(index(6))
    assert (progress.is_full(), progress.inflight_bytes) == (False, 0)


def test_one_acknowledgement_covers_all_messages_up_to_it() -> None:
    progress = replicating()
    progress.on_sent(index(6), 10, index(0))
    progress.on_sent(index(8), 20, index(0))
    progress.on_accepted(index(8))
    assert (progress.match, progress.inflight, progress.inflight_bytes) == (8, 0, 0)


@pytest.mark.parametrize("match", [3, 5])
def test_an_old_acknowledgement_tells_nothing_new(match: int) -> None:
    progress = replicating()
    assert not progress.on_accepted(index(match))
    assert (progress.match, progress.next) == (5, 6)


def test_an_acknowledgement_beyond_what_was_sent_moves_on() -> None:
    """After a restart of the stream the follower may have more than the leader thinks it has sent."""
    progress = replicating()
    progress.on_accepted(index(9))
    assert progress.next == 10


def test_a_rejected_stream_goes_back_to_probing() -> None:
    progress = replicating()
    progress.on_sent(index(8), 10, index(0))
    assert progress.on_rejected(index(8), index(6))
    assert (progress.state, progress.next, progress.inflight, progress.inflight_bytes) == (PROBE, 7, 0, 0)


def test_a_rejection_of_what_is_known_to_match_is_old() -> None:
    progress = replicating()
    assert not progress.on_rejected(index(5), index(1))
    assert progress.state is REPLICATE


def test_a_commit_index_is_announced_once_and_as_far_as_it_was_sent() -> None:
    progress = replicating()
    assert is_due(progress, 5, announced=4)
    progress.on_sent(None, 0, index(4))
    assert not is_due(progress, 5, announced=4)
    assert is_due(progress, 5, announced=5)
    progress.on_sent(None, 0, index(5))
    assert not is_due(progress, 5, announced=9), "the follower has not been sent 6 to 9"


def test_a_poke_makes_an_empty_message_due_even_when_the_window_is_full() -> None:
    progress = replicating()
    progress.on_sent(index(6), 100, index(0))
    assert not is_due(progress, 6)
    progress.is_poked = True
    assert is_due(progress, 6)
    progress.on_sent(None, 0, index(0))
    assert not is_due(progress, 6)


# -- snapshot


def test_nothing_is_sent_while_a_snapshot_is_on_its_way() -> None:
    progress = probing()
    progress.become_snapshot(index(20))
    assert not is_due(progress, 30, announced=30)
    assert not progress.on_rejected(index(9), index(1))


def test_a_snapshot_that_arrived_is_followed_by_a_stream() -> None:
    progress = probing()
    progress.become_snapshot(index(20))
    progress.on_accepted(index(12))
    assert progress.state is SNAPSHOT, "an older acknowledgement"
    progress.on_accepted(index(20))
    assert (progress.state, progress.next, progress.pending_snapshot) == (REPLICATE, 21, 0)


def test_after_a_snapshot_was_delivered_probing_goes_on_behind_it() -> None:
    progress = probing(match=3)
    progress.become_snapshot(index(20))
    progress.become_probe()
    assert (progress.state, progress.next) == (PROBE, 21)


# -- always


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["sent", "accepted", "rejected", "probe", "snapshot"]), st.integers(0, 40)), max_size=60
)


@given(ACTIONS)
def test_match_never_falls_and_stays_below_next(actions: list[tuple[str, int]]) -> None:
    """And what is in flight lies between them, with a sum of bytes that is right."""
    progress, last = probing(), 40
    for kind, number in actions:
        before = progress.match
        if kind == "sent" and is_due(progress, last, announced=number):
            entries_due = progress.next <= last and not progress.is_full()
            sent = min(last, progress.next + number % 4) if entries_due else None
            progress.on_sent(None if sent is None else index(sent), number, index(number))
        elif kind == "accepted":
            progress.on_accepted(index(number))
        elif kind == "rejected":
            progress.on_rejected(index(number), index(number // 2))
        elif kind == "probe":
            progress.become_probe()
        elif kind == "snapshot" and progress.state is PROBE and number > progress.match:
            progress.become_snapshot(index(number))
        assert before <= progress.match < progress.next
        assert progress.inflight == 0 or progress.state is REPLICATE
        assert progress.inflight_bytes == sum(size for _, size in progress._inflight)
        assert all(progress.match < at < progress.next for at, _ in progress._inflight)
        assert (progress.pending_snapshot > 0) == (progress.state is SNAPSHOT)
