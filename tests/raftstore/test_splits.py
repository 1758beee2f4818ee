"""Splits: what one does to a store, in whatever order messages, crashes and snapshots come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster, ManualLink

from pytinykv.model import PeerId, Region, RegionEpoch, RegionId, SplitIds, encode
from pytinykv.raft import ConfChangeKind, HardState, LogIndex, Term, VoteResponse
from pytinykv.raftstore import RaftEnvelope, RaftStoreConfig, SnapshotRefusedError, keys, splits
from pytinykv.raftstore.peer_storage import RAFT_CF
from pytinykv.raftstore.records import PeerState, RaftLocalState, RegionLocalState, decode_raft_state
from pytinykv.raftstore.regions import SIBLINGS_MAX
from pytinykv.raftstore.splits import SplitRefusedError
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import CF_CODES, PUT
from pytinykv.wire.errors import EpochNotMatch, NotLeader, RegionNotFound, ServerIsBusy, UnknownRegionError
from pytinykv.wire.keys import encode_bytes

CHILD_ID = RegionId(1000)


@pytest.fixture(autouse=True)
def _same_ids_in_each_test() -> None:
    ManualLink.next_id = CHILD_ID


class Outcome:
    """What became of a request."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.regions: list[Region] | None = None

    def __call__(self, error: Exception | None, regions: Sequence[Region]) -> None:
        assert self.error is None, "answered twice"
        assert self.regions is None, "answered twice"
        self.error, self.regions = error, None if error is not None else list(regions)


def split(cluster: Cluster, *at: bytes, region_id: RegionId = REGION_ID, settle: bool = True) -> Outcome:
    """Ask the region's leader for a split."""
    outcome = Outcome()
    cluster.leader_of(region_id).running.splits.split(region_id, at, outcome)
    if settle:
        cluster.settle()
    return outcome


def bounds(regions: Sequence[Region]) -> list[tuple[bytes, bytes]]:
    return [(region.start_key, region.end_key) for region in regions]


def check_partition(cluster: Cluster, *, lowest: bytes = b"") -> list[Region]:
    """Each store's regions cover all keys and share none; all stores agree. Returns them."""
    tables = [node.running.table.by_start() for node in cluster.nodes.values() if node.store is not None]
    for table in tables:
        assert table == tables[0]
        assert table[0].start_key == lowest
        assert table[-1].end_key == b""
        for left, right in itertools.pairwise(table):
            assert left.end_key == right.start_key
    return tables[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.elect(1)
    return made


def test_the_last_part_keeps_its_id_and_the_leader_leads_all_at_once(cluster: Cluster) -> None:
    for key in (b"a", b"h", b"z"):
        assert not cluster.put(1, key, b"1").failed
    cluster.settle()
    outcome = split(cluster, b"g", b"p")
    assert outcome.regions is not None
    assert bounds(outcome.regions) == [(b"", b"g"), (b"g", b"p"), (b"p", b"")]
    assert [region.id for region in outcome.regions] == [1000, 1004, REGION_ID]
    assert {region.epoch for region in outcome.regions} == {RegionEpoch(1, 3)}
    assert check_partition(cluster) == outcome.regions
    for region in outcome.regions:  # no tick has passed
        assert cluster.leader_of(region.id).store_id == 1


def test_the_scheduler_hears_of_all_regions_at_once(cluster: Cluster) -> None:
    link = cluster.nodes[1].link
    link.reports.clear()
    outcome = split(cluster, b"g")
    assert link.splits == [outcome.regions]
    assert {report.region.id: report.region for report in link.reports} == {
        region.id: region for region in outcome.regions or ()
    }


def test_a_split_copies_no_data(cluster: Cluster) -> None:
    cluster.put(1, b"a", b"1")
    cluster.settle()
    split(cluster, b"g")
    cluster.ticks(10)
    assert cluster.snapshots_sent() == 0
    assert [node.value(b"a") for node in cluster.nodes.values()] == [b"1"] * 3


def test_both_parts_take_commands(cluster: Cluster) -> None:
    split(cluster, b"g")
    left, right = cluster.put(1, b"a", b"1", region_id=CHILD_ID), cluster.put(1, b"x", b"2")
    cluster.settle()
    assert left.succeeded
    assert right.succeeded


def test_both_parts_are_there_after_a_restart_of_all(cluster: Cluster) -> None:
    split(cluster, b"g")
    cluster.put(1, b"a", b"1", region_id=CHILD_ID)
    cluster.settle()
    for store_id in cluster.nodes:
        cluster.restart(store_id)
    check_partition(cluster)
    cluster.ticks(60)
    for region_id in (REGION_ID, CHILD_ID):
        store_id = cluster.leader_of(region_id).store_id
        call = cluster.put(store_id, b"b" if region_id == CHILD_ID else b"x", b"2", region_id=region_id)
        cluster.settle()
        assert call.succeeded
    assert cluster.nodes[1].value(b"a") == b"1"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ((), "there is no key"),
        ((b"",), "empty"),
        ((b"c",), "begins with split key"),
        ((b"b",), "is not in region"),
        ((b"x",), "is not in region"),
        ((b"z",), "is not in region"),
        ((b"g", b"g"), "is there twice"),
        ((b"h", b"g"), "must ascend"),
        ((b"d" * (splits.BOUND_BYTES_MAX + 1),), "too long"),
    ],
)
def test_bad_keys_are_refused_with_the_reason(tmp_path: Path, at: tuple[bytes, ...], reason: str) -> None:
    cluster = Cluster(tmp_path, key_range=(b"c", b"x"))
    cluster.elect(1)
    before = cluster.nodes[1].peer.region
    outcome = split(cluster, *at)
    assert isinstance(outcome.error, SplitRefusedError)
    assert reason in str(outcome.error)
    assert cluster.nodes[1].peer.region == before


def test_only_the_leader_splits(cluster: Cluster) -> None:
    outcome = Outcome()
    cluster.nodes[2].running.splits.split(REGION_ID, [b"g"], outcome)
    assert isinstance(outcome.error, NotLeader)


def test_an_unknown_region_is_not_split(cluster: Cluster) -> None:
    outcome = Outcome()
    cluster.nodes[1].running.splits.split(RegionId(77), [b"g"], outcome)
    assert isinstance(outcome.error, RegionNotFound)


def test_keys_that_were_chosen_for_another_epoch_are_refused(cluster: Cluster) -> None:
    outcome = Outcome()
    cluster.nodes[1].running.splits.split(REGION_ID, [b"g"], outcome, epoch=RegionEpoch(1, 9))
    assert isinstance(outcome.error, EpochNotMatch)


def test_without_a_scheduler_there_is_no_split(cluster: Cluster) -> None:
    cluster.nodes[1].link.split_trouble = "it is away"
    outcome = split(cluster, b"g")
    assert isinstance(outcome.error, ServerIsBusy)
    assert "it is away" in str(outcome.error)
    cluster.nodes[1].link.split_trouble = ""
    assert split(cluster, b"g").regions is not None


def test_one_split_of_a_region_at_a_time(cluster: Cluster) -> None:
    cluster.nodes[1].link.holds_ids = True
    first, second = split(cluster, b"g"), split(cluster, b"h")
    assert isinstance(second.error, ServerIsBusy)
    cluster.nodes[1].link.give_ids()
    cluster.settle()
    assert first.regions is not None


def test_a_membership_change_while_ids_are_asked_for_ends_the_split(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=4, members=3)
    cluster.elect(1)
    cluster.nodes[1].link.holds_ids = True
    outcome = split(cluster, b"g")
    cluster.change(1, ConfChangeKind.ADD_LEARNER, 104, 4)
    cluster.settle()
    cluster.nodes[1].link.give_ids()
    cluster.settle()
    assert isinstance(outcome.error, EpochNotMatch)
    assert check_partition_of(cluster, 1) == [(b"", b"")]


def check_partition_of(cluster: Cluster, store_id: int) -> list[tuple[bytes, bytes]]:
    return bounds(cluster.nodes[store_id].running.table.by_start())


def test_a_store_that_stops_answers_what_waits_for_ids(cluster: Cluster) -> None:
    cluster.nodes[1].link.holds_ids = True
    outcome = split(cluster, b"g")
    store = cluster.nodes[1].running
    store.in_turn(store.fail_everything)
    store.turn()
    assert isinstance(outcome.error, NotLeader)
    late = Outcome()
    store.splits.split(REGION_ID, [b"g"], late)
    assert isinstance(late.error, NotLeader)


def test_an_entry_for_other_peers_comes_to_nothing_on_every_replica(cluster: Cluster) -> None:
    call = cluster.propose_split(1, [b"g"], [SplitIds(CHILD_ID, (PeerId(7),))])
    cluster.settle()
    assert call.failed
    assert "needs 3 peer ids" in str(call.error)
    assert bounds(check_partition(cluster)) == [(b"", b"")]


def test_many_long_keys_are_served_in_portions(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(append_bytes_max=20_000))
    cluster.elect(1)
    at = [b"%04d" % number + bytes(4092) for number in range(14)]
    outcome = split(cluster, *at)
    assert outcome.regions is not None
    assert bounds(outcome.regions) == list(zip([b"", *at], [*at, b""], strict=True))
    assert len(cluster.nodes[1].link.splits) == 4
    check_partition(cluster)


def test_a_portion_holds_at_least_one_key_and_not_too_many() -> None:
    assert splits.portion([b"k" * 100, b"l"], 10) == [b"k" * 100]
    many = [b"%06d" % number for number in range(2 * splits.KEYS_MAX)]
    assert splits.portion(many, 1 << 20) == many[: splits.KEYS_MAX]


# --- commands and versions --------------------------------------------------------------------------------------------


def test_a_command_proposed_before_and_applied_after_is_skipped_everywhere(cluster: Cluster) -> None:
    cluster.hold(lambda _envelope: True)
    first = split(cluster, b"g", settle=False)
    cluster.turn(1)
    late = cluster.put(1, b"a", b"1")
    cluster.turn(1)  # both are in the log, nothing is committed
    cluster.release()
    cluster.settle()
    assert first.regions is not None
    assert isinstance(late.error, EpochNotMatch)
    assert {region.id for region in late.error.current_regions} == {CHILD_ID, REGION_ID}
    assert [node.value(b"a") for node in cluster.nodes.values()] == [None] * 3


def test_a_caller_with_the_old_version_is_told_all_five_regions(cluster: Cluster) -> None:
    old = cluster.nodes[1].peer.region.epoch.version
    outcome = split(cluster, b"c", b"g", b"p", b"t")
    error = cluster.nodes[1].peer.epoch_not_match(old)
    assert isinstance(error, EpochNotMatch)
    assert {region.id for region in error.current_regions} == {region.id for region in outcome.regions or ()}
    assert len(error.current_regions) == 5


def test_neighbours_that_were_no_part_of_it_are_not_told(cluster: Cluster) -> None:
    split(cluster, b"g")
    middle = cluster.nodes[1].peer.region.epoch.version
    split(cluster, b"p")
    error = cluster.nodes[1].peer.epoch_not_match(middle)
    assert isinstance(error, EpochNotMatch)
    assert [region.start_key for region in error.current_regions] == [b"p", b"g"]


def test_parts_that_were_split_again_are_told(cluster: Cluster) -> None:
    old = cluster.nodes[1].peer.region.epoch.version
    split(cluster, b"g")
    split(cluster, b"c", region_id=CHILD_ID)
    error = cluster.nodes[1].peer.epoch_not_match(old)
    assert isinstance(error, EpochNotMatch)
    assert [region.start_key for region in error.current_regions] == [b"g", b"c", b""]


def test_there_is_a_bound_to_how_many_are_told(cluster: Cluster) -> None:
    old = cluster.nodes[1].peer.region.epoch.version
    split(cluster, *(b"%05d" % number for number in range(SIBLINGS_MAX + 10)))
    error = cluster.nodes[1].peer.epoch_not_match(old)
    assert isinstance(error, EpochNotMatch)
    assert len(error.current_regions) == SIBLINGS_MAX
    assert error.current_regions[0].id == REGION_ID


# --- messages for children that come too early ------------------------------------------------------------------------


def test_votes_that_come_before_the_split_wait_for_it(cluster: Cluster) -> None:
    """Store 2 hears late that the split is committed, store 3 hears nothing: the child's election waits for store 2."""
    cluster.cut_off = {3}
    hears_late = [envelope_of_region_1_to_2]
    cluster.hold(lambda envelope: hears_late[0](envelope) and carries_no_entries(envelope))
    split(cluster, b"g")
    assert CHILD_ID in cluster.nodes[1].running.peers
    assert CHILD_ID not in cluster.nodes[2].running.peers
    assert not cluster.nodes[1].running.peers[CHILD_ID].is_leader
    cluster.release()
    cluster.settle()
    assert cluster.leader_of(CHILD_ID).store_id == 1  # no tick has passed


def envelope_of_region_1_to_2(envelope: RaftEnvelope) -> bool:
    return envelope.receiver.store_id == 2 and envelope.region_id == REGION_ID


def carries_no_entries(envelope: RaftEnvelope) -> bool:
    return not getattr(envelope.message, "entries", ())


def child_of(cluster: Cluster, store_id: int) -> Region:
    return cluster.nodes[store_id].running.peers[CHILD_ID].region


def hard_state_on_disk(cluster: Cluster, store_id: int) -> HardState:
    state = cluster.nodes[store_id].engine.get(RAFT_CF, keys.raft_state_key(CHILD_ID))
    assert state is not None
    return decode_raft_state(state).hard_state


def write_promise(cluster: Cluster, store_id: int, term: int, vote: int) -> None:
    """Let a peer of the child have voted before it had a region, in an earlier life of the store."""
    engine = cluster.nodes[store_id].engine
    batch = engine.write_batch()
    state = RaftLocalState(HardState(Term(term), PeerId(vote)), LogIndex(0))
    batch.put(RAFT_CF, keys.raft_state_key(CHILD_ID), encode(state))
    engine.write(batch)


def test_a_vote_of_an_earlier_life_stands(cluster: Cluster) -> None:
    write_promise(cluster, 2, 9, 1003)
    split(cluster, b"g")
    state = hard_state_on_disk(cluster, 2)
    assert state.term >= 9
    assert state.term > 9 or state.vote == 1003
    cluster.ticks(60)
    assert cluster.leader_of(CHILD_ID).running.peers[CHILD_ID].node.term > 9


def test_a_peer_with_a_promise_waits_like_after_a_restart(cluster: Cluster) -> None:
    write_promise(cluster, 1, 9, 1003)
    split(cluster, b"g")
    assert not cluster.nodes[1].running.peers[CHILD_ID].is_leader
    assert cluster.nodes[1].running.peers[CHILD_ID].node.term == 9
    cluster.ticks(60)
    cluster.leader_of(CHILD_ID)


def test_a_peer_made_by_a_message_goes_on_in_the_split(tmp_path: Path) -> None:
    """Store 3 has no region while the others split. It hears of the child first, and applies the split later."""
    cluster = Cluster(tmp_path, stores=3, members=2)
    cluster.elect(1)
    cluster.put(1, b"a", b"1")
    cluster.settle()
    cluster.holds_transfers = True
    cluster.change(1, ConfChangeKind.ADD_LEARNER, 103, 3)
    cluster.ticks(5)  # its snapshot is on the way, of the region before the split
    assert cluster.transfers
    outcome = split(cluster, b"g")
    assert outcome.regions is not None
    assert not cluster.nodes[3].running.peers[REGION_ID].is_initialized
    cluster.ticks(5)
    assert not cluster.nodes[3].running.peers[CHILD_ID].is_initialized
    cluster.holds_transfers = False
    cluster.ticks(40)
    assert bounds(check_partition(cluster)) == [(b"", b"g"), (b"g", b"")]
    assert cluster.nodes[3].value(b"a") == b"1"


def test_a_child_is_removed_while_its_snapshot_is_under_way(tmp_path: Path) -> None:
    """A message makes the child's peer, its snapshot begins to arrive, the split is applied, the peer is removed."""
    cluster = Cluster(tmp_path, stores=3, members=2)
    cluster.elect(1)
    cluster.put(1, b"a", b"1")
    cluster.settle()
    cluster.holds_transfers = True
    cluster.change(1, ConfChangeKind.ADD_LEARNER, 103, 3)
    cluster.ticks(5)
    split(cluster, b"g")
    cluster.put(1, b"b", b"1", region_id=CHILD_ID)
    cluster.ticks(10)
    store, transfers = cluster.nodes[3].running, {one.header.envelope.region_id: one for one in cluster.transfers}
    assert not store.peers[CHILD_ID].is_initialized
    arriving, ends = store.receive_snapshot(transfers[CHILD_ID].header), list[BaseException | None]()
    for chunk in transfers[CHILD_ID].chunks:
        arriving.write(chunk, ends.append)
        cluster.nodes[3].background.work()
    assert not any(ends)
    transfers[REGION_ID].on_done(cluster.deliver(transfers[REGION_ID]))  # of the region before the split
    cluster.transfers.clear()
    cluster.ticks(10)
    first = store.peers[CHILD_ID]
    assert check_partition_of(cluster, 3) == [(b"", b"g"), (b"g", b"")]
    cluster.change(1, ConfChangeKind.REMOVE, first.peer.id, 3, region_id=CHILD_ID)
    cluster.ticks(10)
    store.on_membership_answer(child_of(cluster, 1))  # it hears no leader, and has asked the scheduler
    cluster.settle()
    assert first.is_destroyed
    arriving.finish(ends.append)
    cluster.nodes[3].background.work()
    store.turn()
    assert isinstance(ends[-1], SnapshotRefusedError)
    cluster.ticks(10)
    assert CHILD_ID not in store.peers
    assert cluster.nodes[3].value(b"a") is None
    assert check_partition_of(cluster, 3) == [(b"g", b"")]
    assert store.failure is None


def test_a_child_that_was_removed_before_the_split_is_applied_does_not_come(cluster: Cluster) -> None:
    """Store 3 misses the split, the child's peer there is replaced by a newer one, then it applies the split."""
    cluster.put(1, b"a", b"1")
    cluster.settle()
    cluster.cut_off = {3}
    split(cluster, b"g")
    own = child_of(cluster, 1).peer_on(3)
    assert own is not None
    cluster.change(1, ConfChangeKind.REMOVE, own.id, 3, region_id=CHILD_ID)
    cluster.ticks(5)
    assert child_of(cluster, 1).peer_on(3) is None
    cluster.change(1, ConfChangeKind.ADD_LEARNER, 2000, 3, region_id=CHILD_ID)
    cluster.ticks(5)
    cluster.cut_off = set()
    cluster.ticks(40)
    peer = cluster.nodes[3].running.peers[CHILD_ID]
    assert peer.peer.id == 2000
    assert cluster.nodes[3].value(b"a") == b"1"
    assert check_partition_of(cluster, 3) == [(b"", b"g"), (b"g", b"")]


def test_a_tombstone_keeps_the_child_away_and_its_data_goes(cluster: Cluster) -> None:
    """Store 3 had heard of the child, and of its removal, before it applies the split; and was restarted since."""
    cluster.put(1, b"a", b"1")
    cluster.put(1, b"x", b"1")
    cluster.settle()
    cluster.cut_off = {3}
    split(cluster, b"g")
    child = child_of(cluster, 1)
    own = child.peer_on(3)
    assert own is not None
    tombstone = RegionLocalState(PeerState.TOMBSTONE, Region(CHILD_ID), own.id)
    batch = cluster.nodes[3].engine.write_batch()
    batch.put(RAFT_CF, keys.region_state_key(CHILD_ID), encode(tombstone))
    cluster.nodes[3].engine.write(batch)
    cluster.nodes[3].engine.sync()
    cluster.restart(3)
    cluster.cut_off = set()
    cluster.ticks(30)
    assert CHILD_ID not in cluster.nodes[3].running.peers
    assert check_partition_of(cluster, 3) == [(b"g", b"")]
    assert cluster.nodes[3].value(b"a") is None
    assert cluster.nodes[3].value(b"x") == b"1"


# --- stores that were away --------------------------------------------------------------------------------------------


def test_a_replica_that_missed_the_split_gets_both_parts_by_snapshot(tmp_path: Path) -> None:
    config = RaftStoreConfig(log_gc_bytes=1, log_gc_bytes_force=2, log_keep_entries=1)
    cluster = Cluster(tmp_path, config=config)
    cluster.elect(1)
    cluster.put(1, b"a", b"1")
    cluster.put(1, b"x", b"1")
    cluster.settle()
    cluster.cut_off = {3}
    split(cluster, b"g")
    for number in range(20):
        cluster.put(1, b"b%d" % number, b"2", region_id=CHILD_ID)
        cluster.put(1, b"y%d" % number, b"2")
        cluster.ticks(10)
    cluster.cut_off = set()
    cluster.ticks(60)
    assert cluster.snapshots_sent() > 0
    check_partition(cluster)
    for key in (b"a", b"x", b"b19", b"y19"):
        assert cluster.nodes[3].value(key) == cluster.nodes[1].value(key) != None  # noqa: E711 - chained


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(14))
@pytest.mark.parametrize("store_id", [1, 2])
def test_a_crash_at_any_step_leaves_all_of_the_split_or_nothing(tmp_path: Path, steps: int, store_id: int) -> None:
    cluster = Cluster(tmp_path)
    cluster.elect(1)
    cluster.put(1, b"a", b"1")
    cluster.put(1, b"x", b"1")
    cluster.settle()
    split(cluster, b"g", settle=False)
    for _ in range(steps):
        cluster.step()
    cluster.restart(store_id)
    assert check_partition_of(cluster, store_id) in ([(b"", b"")], [(b"", b"g"), (b"g", b"")])
    cluster.ticks(80)
    table = check_partition(cluster)
    for region in table:
        cluster.leader_of(region.id)
    assert cluster.nodes[store_id].value(b"a") == b"1"
    assert cluster.nodes[store_id].value(b"x") == b"1"


@pytest.mark.parametrize("seed", range(6))
def test_a_child_votes_once_a_term_however_often_its_store_crashes(tmp_path: Path, seed: int) -> None:
    cluster = Cluster(tmp_path)
    cluster.rng.seed(seed)
    cluster.elect(1)
    votes: dict[tuple[int, int, int], int] = {}

    def watch(envelope: RaftEnvelope) -> bool:
        message = envelope.message
        if isinstance(message, VoteResponse) and message.granted:
            key = (envelope.region_id, envelope.sender.id, message.term)
            assert votes.setdefault(key, envelope.receiver.id) == envelope.receiver.id
        return cluster.rng.random() < 0.2

    cluster.drop = watch
    split(cluster, b"g", settle=False)
    for _ in range(30):
        cluster.step()
        if cluster.rng.random() < 0.15:
            cluster.restart(cluster.rng.choice([1, 2, 3]), lose_all=False)
        cluster.ticks(1)
    cluster.drop = lambda _envelope: False
    cluster.ticks(80)
    for region in check_partition(cluster):
        cluster.leader_of(region.id)


# --- a cluster that comes to hold transactions ----------------------------------------------------------------------


def write_a_version(cluster: Cluster, key: bytes) -> None:
    stored = encode_bytes(key) + bytes(8)
    assert not cluster.propose(1, (PUT, CF_CODES[ColumnFamily.WRITE], stored, b"P")).failed
    cluster.settle()


def test_a_plain_split_whose_ids_came_before_the_first_transaction_is_refused_where_it_is_applied(
    cluster: Cluster,
) -> None:
    """Its leader was held for longer than the switch waits: the ids are there, the region has versions by now."""
    link = cluster.nodes[1].link
    link.holds_ids = True
    plain = split(cluster, encode_bytes(b"m")[:4])
    write_a_version(cluster, b"m")
    link.give_ids()
    cluster.settle()
    assert isinstance(plain.error, UnknownRegionError)
    assert "holds transactions" in str(plain.error)
    assert bounds(check_partition(cluster)) == [(b"", b"")]
    link.holds_ids = False
    assert split(cluster, encode_bytes(b"m")).error is None, "at a user's key it may be split"


def test_a_version_behind_a_plain_split_is_refused_by_its_epoch(cluster: Cluster) -> None:
    """The other order in the log: the client looks where its key is now, and is told there that it can't be."""
    ids = [SplitIds(CHILD_ID, (PeerId(1001), PeerId(1002), PeerId(1003)))]
    version = cluster.propose(1, (PUT, CF_CODES[ColumnFamily.WRITE], encode_bytes(b"m") + bytes(8), b"P"))
    late = cluster.propose_split(1, [b"g"], ids)  # goes into the log first
    cluster.settle()
    assert not late.failed
    assert isinstance(version.error, EpochNotMatch)
    assert bounds(check_partition(cluster)) == [(b"", b"g"), (b"g", b"")]


def test_a_store_that_hears_of_transactions_proposes_no_plain_split_any_more(cluster: Cluster) -> None:
    link = cluster.nodes[1].link
    link.holds_ids = True
    plain = split(cluster, b"g")
    cluster.nodes[1].running.splits.is_transactional = True
    link.give_ids()
    cluster.settle()
    assert isinstance(plain.error, SplitRefusedError)
    assert "memcomparable keys only" in str(plain.error)
    assert bounds(check_partition(cluster)) == [(b"", b"")]
