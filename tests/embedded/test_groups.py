"""Group commit: who leads, who shares a sync, and what becomes of those who give up, fail, or come when it is over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from pytinykv.client import ClientClosedError, DeadlineExceededError, UndeterminedError
from pytinykv.embedded.groups import Entry, GroupCommit

FOR_EVER = float("inf")


class Disk:
    """Syncs as often as it is told to; notes how many pieces of work each sync has covered."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.written: list[int] = []
        self.syncs = threading.Semaphore(0)
        self.is_syncing = threading.Event()
        self.errors: list[BaseException] = []

    def write(self, group: list[Entry[object]]) -> None:
        self.written.append(len(group))

    def make_durable(self, group: list[Entry[object]]) -> None:
        self.groups.append(len(group))
        self.is_syncing.set()
        assert self.syncs.acquire(timeout=20)
        if self.errors:
            raise self.errors.pop()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def groups(disk: Disk) -> GroupCommit:
    return GroupCommit(threading.Lock(), disk.write, disk.make_durable)  # type: ignore[arg-type]  # any entries


class Caller(threading.Thread):
    """A thread that has some work made durable."""

    def __init__(self, groups: GroupCommit, work: Callable[[], object], timeout_s: float = 20.0) -> None:
        super().__init__()
        self.outcome: object = None
        self._groups = groups
        self._work = work
        self._timeout_s = timeout_s
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._groups.run(self._work, time.monotonic() + self._timeout_s)
        except BaseException as error:  # noqa: BLE001 - the test judges it
            self.outcome = error

    def ended(self) -> object:
        self.join(20)
        assert not self.is_alive()
        return self.outcome


def wait_queued(groups: GroupCommit, count: int) -> None:
    end = time.monotonic() + 20
    while len(groups._queue) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_those_who_come_during_a_sync_share_the_next_one(groups: GroupCommit, disk: Disk) -> None:
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    others = [Caller(groups, lambda number=number: number) for number in range(1, 9)]  # type: ignore[misc]  # bound
    wait_queued(groups, 8)
    disk.syncs.release(2)
    assert [caller.ended() for caller in (first, *others)] == list(range(9))
    assert disk.written == disk.groups == [1, 8]


def test_the_next_leader_is_named_before_the_others_are_told(groups: GroupCommit, disk: Disk) -> None:
    """They would run first, one after the other, while the disk has nothing to do."""
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    queued: list[Entry[object]] = []
    named: list[bool] = []
    groups.enqueue(lambda: 1, lambda _: named.append(queued[0].leads))
    second = Caller(groups, lambda: 2)
    wait_queued(groups, 2)
    disk.syncs.release()
    assert first.ended() == 0
    while disk.groups != [1, 2]:
        time.sleep(0.001)
    third = Caller(groups, lambda: 3)
    wait_queued(groups, 1)
    queued.extend(groups._queue)
    disk.syncs.release(2)
    assert (second.ended(), third.ended(), named) == (2, 3, [True])


def test_one_that_fails_does_not_fail_the_others(groups: GroupCommit, disk: Disk) -> None:
    disk.syncs.release(2)

    def fail() -> None:
        raise ValueError("mine")

    assert isinstance(Caller(groups, fail).ended(), ValueError)
    assert Caller(groups, lambda: 1).ended() == 1


def test_a_turn_that_does_not_come_in_time_is_given_up_unexecuted(groups: GroupCommit, disk: Disk) -> None:
    executed: list[int] = []
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    late = Caller(groups, lambda: executed.append(1), timeout_s=0.05)
    assert isinstance(late.ended(), DeadlineExceededError)
    disk.syncs.release(2)
    assert first.ended() == 0
    assert Caller(groups, lambda: 2).ended() == 2
    assert executed == []


def test_a_sync_that_does_not_end_in_time_leaves_the_fate_unknown(groups: GroupCommit, disk: Disk) -> None:
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    leader = Caller(groups, lambda: 1)  # of the second group
    wait_queued(groups, 1)
    waiter = Caller(groups, lambda: 2, timeout_s=1.0)
    wait_queued(groups, 2)
    disk.syncs.release()
    assert first.ended() == 0
    assert isinstance(waiter.ended(), UndeterminedError)
    disk.syncs.release()
    assert leader.ended() == 1


def test_an_interrupted_leader_leaves_the_fate_of_its_group_unknown_and_passes_the_lead_on(
    groups: GroupCommit, disk: Disk
) -> None:
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    leader = Caller(groups, lambda: 1)
    wait_queued(groups, 1)
    follower = Caller(groups, lambda: 2)
    wait_queued(groups, 2)
    disk.syncs.release()
    assert first.ended() == 0
    while disk.groups != [1, 2]:
        time.sleep(0.001)
    later = Caller(groups, lambda: 3)
    wait_queued(groups, 1)
    disk.errors.append(KeyboardInterrupt())
    disk.syncs.release(2)
    assert isinstance(leader.ended(), KeyboardInterrupt | UndeterminedError)
    assert isinstance(follower.ended(), UndeterminedError)
    assert later.ended() == 3


def interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def test_a_thread_that_is_interrupted_while_it_waits_is_not_named_the_next_leader(
    groups: GroupCommit, disk: Disk
) -> None:
    executed: list[int] = []
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    old_handler = signal.signal(signal.SIGUSR1, interrupt)
    this_thread = threading.get_ident()

    def interrupt_the_wait() -> None:
        wait_queued(groups, 1)
        signal.pthread_kill(this_thread, signal.SIGUSR1)

    interrupting = threading.Thread(target=interrupt_the_wait)
    try:
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            groups.run(lambda: executed.append(1), time.monotonic() + 60)
    finally:
        interrupting.join()
        signal.signal(signal.SIGUSR1, old_handler)
    disk.syncs.release(2)
    assert first.ended() == 0
    assert Caller(groups, lambda: 2).ended() == 2
    assert executed == []


def test_work_that_is_interrupted_does_not_take_the_others_of_its_group_with_it(
    groups: GroupCommit, disk: Disk
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    leader = Caller(groups, lambda: 1)
    wait_queued(groups, 1)
    victim = Caller(groups, interrupted)
    wait_queued(groups, 2)
    last = Caller(groups, lambda: 3)
    wait_queued(groups, 3)
    disk.syncs.release(2)
    assert first.ended() == 0
    assert isinstance(leader.ended(), KeyboardInterrupt)
    assert isinstance(victim.ended(), UndeterminedError)
    assert last.ended() == 3
    assert disk.groups == [1, 3]


def test_work_of_tasks_is_led_by_a_thread_even_if_a_waiting_thread_leads_now(groups: GroupCommit, disk: Disk) -> None:
    thread = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    done = threading.Event()
    entry, leads = groups.enqueue(lambda: 1, lambda _: done.set())
    assert not leads
    disk.syncs.release(2)
    assert thread.ended() == 0
    assert done.wait(20)
    assert entry.result() == 1


def test_a_group_that_fails_does_not_leave_tasks_without_a_leader(groups: GroupCommit, disk: Disk) -> None:
    thread = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    done = threading.Event()
    entry, _ = groups.enqueue(lambda: 1, lambda _: done.set())
    disk.errors.append(KeyboardInterrupt())
    disk.syncs.release(2)
    assert isinstance(thread.ended(), KeyboardInterrupt | UndeterminedError)
    assert done.wait(20)
    assert entry.result() == 1


def test_closing_waits_for_what_was_taken_and_refuses_the_rest(groups: GroupCommit, disk: Disk) -> None:
    first = Caller(groups, lambda: 0)
    assert disk.is_syncing.wait(20)
    assert not groups.close(lambda: ClientClosedError("closed"), 0.01)
    with pytest.raises(ClientClosedError):
        groups.run(lambda: 1, FOR_EVER)
    disk.syncs.release()
    assert first.ended() == 0
    assert groups.close(lambda: ClientClosedError("closed"), 20)
