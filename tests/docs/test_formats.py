"""The examples in docs/formats.md are what the code writes, and what it reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from pytinykv.cli.moving.export_file import ExportWriter, RawRows, TransactionRows
from pytinykv.model import Peer, PeerRole, Region, RegionEpoch, RegionId, SplitIds, StoreId, encode
from pytinykv.model.raw_values import encode_raw_value
from pytinykv.raft import (
    ConfChangeKind,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    LogIndex,
    Message,
    PeerId,
    Term,
)
from pytinykv.raft.messages import encode_conf_change
from pytinykv.raftstore import MembershipChange, RaftEnvelope
from pytinykv.raftstore.keys import RAW_TAGS
from pytinykv.raftstore.operations import DELETE_EXPIRED, RAW_CODE, encode_operations
from pytinykv.raftstore.records import ApplyState, Note, RaftLocalState, StoreIdent
from pytinykv.raftstore.splits import encode_split
from pytinykv.scheduler import records as scheduler
from pytinykv.scheduler.state import Meta, ServiceSafePoint
from pytinykv.server.host.raft_transport import _Greeting
from pytinykv.storage import DataDirectory, DataKind
from pytinykv.storage.changes import CF_CODES, PUT
from pytinykv.transaction.records import (
    LastChange,
    Lock,
    LockKind,
    Write,
    WriteKind,
    encode_lock,
    encode_write,
    rollback_record,
)
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.timestamp import Timestamp

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (.+?) \| `([0-9A-Fa-f ]+)` \|$", PAGE, flags=re.MULTILINE))

VOTER, LEARNER = Peer(PeerId(5), StoreId(6)), Peer(PeerId(7), StoreId(8), PeerRole.LEARNER)
REGION = Region(RegionId(2), b"a", b"b", RegionEpoch(3, 4), (VOTER, LEARNER))
HEARTBEAT = Heartbeat(PeerId(7), PeerId(5), Term(2), LogIndex(9), 1, 0.5)

LOCK = Lock(kind=LockKind.PUT, primary=b"p", start_ts=Timestamp(5), ttl_ms=3)


def lock_like(**fields: object) -> bytes:
    return encode_lock(msgspec.structs.replace(LOCK, **fields))


EXAMPLES = {
    "lock: put of `val`, primary `p`, start timestamp 5, 3 ms": lock_like(short_value=b"val"),
    "lock: pessimistic, for update at 6, commits at 7 or later": lock_like(
        kind=LockKind.PESSIMISTIC, for_update_ts=6, min_commit_ts=7
    ),
    "lock: async commit with the secondary `s`": lock_like(min_commit_ts=7, use_async_commit=True, secondaries=(b"s",)),
    "commit record: put of `val` by 300": encode_write(
        Write(kind=WriteKind.PUT, start_ts=Timestamp(300), short_value=b"val")
    ),
    "commit record: lock by 5, the last change is at 3": encode_write(
        Write(kind=WriteKind.LOCK, start_ts=Timestamp(5), last_change=LastChange(Timestamp(3), 1))
    ),
    "protected rollback of 5": encode_write(rollback_record(Timestamp(5), protected=True)),
    "commit record: put by 5, in which a rollback is noted; the next version is at 12": encode_write(
        Write(kind=WriteKind.PUT, start_ts=Timestamp(5), has_overlapped_rollback=True, gc_fence=Timestamp(12))
    ),
    "`StoreIdent`: cluster 7, store 3": encode(StoreIdent(7, StoreId(3))),
    "`Region` 2 from `a` to `b`, epoch 3.4, voter 5 on store 6, learner 7 on store 8": encode(REGION),
    "`RaftLocalState`: term 1, vote for 2, commit 3, last index 4": encode(
        RaftLocalState(HardState(Term(1), PeerId(2), LogIndex(3)), LogIndex(4))
    ),
    "`ApplyState`: applied 4 of term 3, truncated 2 of term 1": encode(
        ApplyState(LogIndex(4), Term(3), LogIndex(2), Term(1))
    ),
    "`Entry` 9 of term 2, normal, data `x`": encode(Entry(LogIndex(9), Term(2), EntryKind.NORMAL, b"x")),
    'the key of `put(b"k", b"v")`': RAW_TAGS["default"] + b"k",
    "its value": encode_raw_value(b"v"),
    "the value, if it expires at second 258": encode_raw_value(b"v", 258),
    "put `k` = `v`, at epoch version 4": encode_operations(4, [(PUT, RAW_CODE, b"dk", encode_raw_value(b"v"))]),
    "delete expired `k` at second 12": encode_operations(4, [(DELETE_EXPIRED, RAW_CODE, b"dk", 12)]),
    "split at `g` in epoch 3.4, into region 20 with peers 21 and 22 and the rest": encode_split(
        RegionEpoch(3, 4), [b"g"], [SplitIds(RegionId(20), (PeerId(21), PeerId(22)))]
    ),
    "add learner 7 on store 8, in epoch 3.4": encode_conf_change(
        MembershipChange(ConfChangeKind.ADD_LEARNER, Peer(PeerId(7), StoreId(8))).to_raft(RegionEpoch(3, 4))
    ),
    "greeting to store 3 of cluster 7": _Greeting(7, 3).encode(),
    "frame: a heartbeat of peer 5 on store 6 to learner 7 on store 8, region 2, term 2, commit 9, round 1, sent at 0.5 s": (
        encode([RaftEnvelope(REGION.id, VOTER, LEARNER, REGION.epoch, HEARTBEAT)])
    ),
    "`Meta`: cluster 7, bootstrapped by store 1 with region 2 and peer 3, ids below 1001, timestamps below 5000 ms, "
    "safe point 9, 3 peers, `br` holds 8 back until second 100": encode(
        Meta(7, True, 1, 2, 3, 1001, 5000, 9, 3, (ServiceSafePoint("br", 8, 100),))
    ),
    "`StoreMeta`: store 1 at `h:1`, up": encode(scheduler.StoreMeta(StoreId(1), "h:1")),
    "`Region` 2 from `a` on, epoch 3.4, voter 5 on store 6": encode(
        Region(
            RegionId(2),
            b"a",
            b"",
            RegionEpoch(3, 4),
            (Peer(PeerId(5), StoreId(6)),),
        )
    ),
    "empty": encode_bytes(b""),
    "`a`": encode_bytes(b"a"),
    "`12345678`": encode_bytes(b"12345678"),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_what_the_code_writes(example: str) -> None:
    assert ROWS[example].lower() == EXAMPLES[example].hex(" ")


def test_every_example_is_checked() -> None:
    assert set(ROWS) == set(EXAMPLES)


def test_every_message_stands_there_with_its_tag() -> None:
    kinds = get_args(Message)
    told = dict(re.findall(r"^\| +(\d+) \| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert told == {str(kind.__struct_config__.tag): kind.__name__ for kind in kinds}


def test_every_note_stands_there_with_its_tag() -> None:
    kinds = get_args(Note)
    told = dict(re.findall(r"^\| `([A-Z]\w+)` \| (\d+) \|", PAGE, flags=re.MULTILINE))
    assert told == {kind.__name__: str(kind.__struct_config__.tag) for kind in kinds}


def test_column_families_have_their_numbers() -> None:
    told = ", ".join(f"{code} {cf}" for cf, code in CF_CODES.items())
    assert f"`cf` is {told};" in PAGE


def test_the_identity_file_is_as_shown(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.+)\n```", PAGE)
    with DataDirectory.open(tmp_path, kind=DataKind.STORE) as directory:
        directory.claim(cluster_id=7041, store_id=3)
    assert json.loads((tmp_path / "identity.json").read_text()) == json.loads(shown)


def test_the_example_of_an_export(tmp_path: Path) -> None:
    with ExportWriter(tmp_path / "export") as writer:
        writer.write(TransactionRows([(b"a", b"1"), (b"b", b"2")]))
        writer.write(RawRows("default", [(b"a", b"1", 0)]))
        writer.write(RawRows("write", [(b"b", b"2", 0)]))
        writer.finish()
    example = PAGE.partition("### Exports")[2].partition("Example")[2].split("```")[1]
    assert (tmp_path / "export").read_bytes().endswith(bytes.fromhex(example))
