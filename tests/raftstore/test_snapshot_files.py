"""Snapshots as files: made, streamed, checked, installed, and every way in which that can be cut off."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytinykv.model import FormatError, Peer, Region, RegionEpoch, RegionId, StoreId, encode
from pytinykv.raft import LogIndex, PeerId, SnapshotMeta, Term
from pytinykv.raftstore import SnapshotDirectory, SnapshotManifest, keys
from pytinykv.raftstore.installing import delete_data
from pytinykv.raftstore.keys import RAW_TAGS
from pytinykv.raftstore.membership import conf_state
from pytinykv.raftstore.records import PeerState, RegionLocalState, SnapshotFile, decode_region_state
from pytinykv.raftstore.recovery import finish_restore, load_regions
from pytinykv.raftstore.snapshot_files import (
    MANIFEST,
    SnapshotWriter,
    checksum,
    make_snapshot,
    read_manifest,
    snapshot_chunks,
    snapshot_name,
)
from pytinykv.storage import ColumnFamily, Engine, MemoryEngine, RocksEngine
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.limits import KEY_BYTES_MAX

RAW, DEFAULT, RAFT = ColumnFamily.RAW, ColumnFamily.DEFAULT, ColumnFamily.RAFT
REGION = Region(RegionId(1), b"b", b"y", RegionEpoch(1, 1), (Peer(PeerId(101), StoreId(1)),))
META = SnapshotMeta(LogIndex(9), Term(7), conf_state(REGION))

INSIDE = [(RAW, b"db", b"1"), (RAW, b"dx\xff", b"2" * 1000), (RAW, b"lc", b"3"), (DEFAULT, b"m", b"4")]
OUTSIDE = [(RAW, b"da", b"5"), (RAW, b"dy", b"6"), (DEFAULT, b"y", b"7")]


@pytest.fixture(params=["memory", "rocks"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engines(kind: str, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """The sender's and the receiver's."""
    made: list[Engine] = [
        MemoryEngine() if kind == "memory" else RocksEngine.open(tmp_path / name) for name in ("sender", "receiver")
    ]
    yield made[0], made[1]
    for engine in made:
        engine.close()


def fill(engine: Engine, rows: list[tuple[ColumnFamily, bytes, bytes]]) -> None:
    batch = engine.write_batch()
    for cf, key, value in rows:
        batch.put(cf, key, value)
    engine.write(batch)


def content(engine: Engine) -> list[tuple[ColumnFamily, bytes, bytes]]:
    return [(cf, key, value) for cf in (RAW, DEFAULT) for key, value in engine.scan(cf, b"", None)]


def made(engine: Engine, directory: Path) -> SnapshotManifest:
    with engine.snapshot() as reader:
        return make_snapshot(engine, reader, REGION, META, directory)


def send(manifest: SnapshotManifest, source: Path, target: Path) -> None:
    writer = SnapshotWriter(manifest, target)
    for chunk in snapshot_chunks(manifest, source):
        writer.write(chunk)
    writer.finish()


def install(engine: Engine, directory: Path, region: Region = REGION) -> None:
    finish_restore(engine, RegionLocalState(PeerState.APPLYING, region, PeerId(101), directory.name), directory)


@pytest.mark.tinykv("TestSnapFile", "TestSnapGenMeta")
def test_the_receiver_has_exactly_the_senders_data_and_keeps_what_is_not_the_regions(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    sender, receiver = engines
    fill(sender, [*INSIDE, *OUTSIDE])
    fill(receiver, [(RAW, b"dc", b"old"), (RAW, b"dx\xff", b"old"), (RAW, b"dz", b"other region")])
    manifest = made(sender, tmp_path / "s")
    assert [(file.cf, file.name) for file in manifest.files] == [
        ("default", "0_default.sst"),
        ("raw", "3_raw.sst"),
        ("raw", "4_raw.sst"),
    ]
    for file in manifest.files:
        assert (tmp_path / "s" / file.name).stat().st_size == file.size_bytes
        assert checksum(tmp_path / "s" / file.name) == file.crc32c
    assert read_manifest(tmp_path / "s") == manifest
    send(manifest, tmp_path / "s", tmp_path / "r")
    install(receiver, tmp_path / "r")
    assert content(receiver) == sorted(
        [*INSIDE, (RAW, b"dz", b"other region")], key=lambda row: (row[0] != RAW, row[1])
    )


@pytest.mark.tinykv("TestSnapDisplayPath")
def test_a_snapshot_says_in_its_name_what_it_is() -> None:
    assert snapshot_name(1, META) == "1_7_9"


def test_a_snapshot_shows_the_state_of_its_reader(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    sender, receiver = engines
    fill(sender, INSIDE)
    with sender.snapshot() as reader:
        fill(sender, [(RAW, b"dm", b"later")])
        manifest = make_snapshot(sender, reader, REGION, META, tmp_path / "s")
    send(manifest, tmp_path / "s", tmp_path / "r")
    install(receiver, tmp_path / "r")
    assert receiver.get(RAW, b"dm") is None


@pytest.mark.parametrize("length", [7, 8, 15, 16, 17, KEY_BYTES_MAX - 1, KEY_BYTES_MAX])
def test_the_greatest_keys_of_an_unbounded_region_travel_and_are_deleted(
    engines: tuple[Engine, Engine], tmp_path: Path, length: int
) -> None:
    sender, receiver = engines
    unbounded = Region(RegionId(1), b"", b"", REGION.epoch, REGION.peers)
    greatest = b"\xff" * length
    stored = encode_bytes(greatest) + b"\xff" * 8  # and a timestamp
    rows = [(cf, stored, b"v") for cf in (DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE)]
    rows.append((RAW, RAW_TAGS["write"] + greatest, b"v"))
    fill(sender, rows)
    with sender.snapshot() as reader:
        manifest = make_snapshot(sender, reader, unbounded, META, tmp_path / "s")
    assert [file.cf for file in manifest.files] == [str(cf) for cf, _key, _value in rows]
    fill(receiver, [(cf, key, b"old") for cf, key, _value in rows])
    send(manifest, tmp_path / "s", tmp_path / "r")
    install(receiver, tmp_path / "r", unbounded)
    assert [receiver.get(cf, key) for cf, key, _value in rows] == [b"v"] * 4
    batch = receiver.write_batch()
    delete_data(batch, unbounded)
    receiver.write(batch)
    assert [receiver.get(cf, key) for cf, key, _value in rows] == [None] * 4


def test_an_empty_region_makes_an_empty_snapshot_that_empties_the_receiver(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    sender, receiver = engines
    fill(receiver, INSIDE)
    manifest = made(sender, tmp_path / "s")
    assert manifest.files == ()
    send(manifest, tmp_path / "s", tmp_path / "r")
    install(receiver, tmp_path / "r")
    assert content(receiver) == []


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chunks_may_have_any_borders(tmp_path: Path, size: int) -> None:
    engine = MemoryEngine()
    fill(engine, INSIDE)
    manifest = made(engine, tmp_path / "s")
    data = b"".join(snapshot_chunks(manifest, tmp_path / "s"))
    writer = SnapshotWriter(manifest, tmp_path / "r")
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
    writer.finish()
    assert read_manifest(tmp_path / "r") == manifest


def test_a_change_of_any_byte_is_noticed(tmp_path: Path) -> None:
    engine = MemoryEngine()
    fill(engine, [(RAW, b"db", b"1"), (RAW, b"dc", b"2"), (DEFAULT, b"m", b"4")])
    manifest = made(engine, tmp_path / "s")
    data = b"".join(snapshot_chunks(manifest, tmp_path / "s"))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        writer = SnapshotWriter(manifest, tmp_path / "r")
        with pytest.raises(FormatError, match="checksum"):
            writer.write(bytes(damaged))
        writer.abort()
        assert not (tmp_path / "r").exists()


def test_a_stream_that_is_too_short_or_too_long_is_refused(tmp_path: Path) -> None:
    engine = MemoryEngine()
    fill(engine, INSIDE)
    manifest = made(engine, tmp_path / "s")
    data = b"".join(snapshot_chunks(manifest, tmp_path / "s"))
    for end in (0, 1, len(data) - 1):
        writer = SnapshotWriter(manifest, tmp_path / "r")
        writer.write(data[:end])
        with pytest.raises(FormatError, match="ended inside"):
            writer.finish()
        writer.abort()
        writer.abort()
    writer = SnapshotWriter(manifest, tmp_path / "r")
    with pytest.raises(FormatError, match="after the last file"):
        writer.write(data + b"x")
    writer.abort()
    assert not (tmp_path / "r").exists()


def test_a_full_disk_does_not_keep_what_is_given_up(tmp_path: Path) -> None:
    engine = MemoryEngine()
    fill(engine, INSIDE)
    manifest = made(engine, tmp_path / "s")
    writer = SnapshotWriter(manifest, tmp_path / "r")
    writer.write(b"x")  # is in a buffer, which is written when the file is closed
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        writer.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "file",
    [
        SnapshotFile("raw", "../../etc/passwd.sst", 10, 0),
        SnapshotFile("raw", "/x.sst", 10, 0),
        SnapshotFile("raw", "MANIFEST", 10, 0),
        SnapshotFile("raw", "3_raw.sst", 0, 0),
        SnapshotFile("raw", "3_raw.sst", -1, 0),
        SnapshotFile("gold", "3_gold.sst", 10, 0),
    ],
)
def test_a_manifest_that_no_store_makes_is_refused_before_anything_is_written(
    tmp_path: Path, file: SnapshotFile
) -> None:
    with pytest.raises(FormatError):
        SnapshotWriter(SnapshotManifest(REGION, META, (file,)), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_one_name_for_two_files_is_refused(tmp_path: Path) -> None:
    file = SnapshotFile("raw", "3_raw.sst", 10, 0)
    with pytest.raises(FormatError, match="same name"):
        SnapshotWriter(SnapshotManifest(REGION, META, (file, file)), tmp_path / "r")


# --- crashes


class PowerCut(Exception):
    """The machine stops here."""


class FragileEngine(MemoryEngine):
    """Stops at the n-th thing that it is asked to do."""

    steps = 1 << 30

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise PowerCut

    def write(self, batch: object) -> None:
        self._step()
        super().write(batch)  # type: ignore[arg-type]

    def sync(self) -> None:
        self._step()
        super().sync()

    def ingest_sst(self, cf: ColumnFamily, path: Path) -> None:
        self._step()
        super().ingest_sst(cf, path)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", range(12))
def test_an_installation_that_is_cut_off_anywhere_is_finished_at_the_next_start(
    tmp_path: Path, steps: int, seed: int
) -> None:
    sender, receiver = MemoryEngine(), FragileEngine()
    fill(sender, [*INSIDE, *OUTSIDE])
    fill(receiver, [(RAW, b"dc", b"old"), (RAW, b"dz", b"other region")])
    directory = SnapshotDirectory(tmp_path / "snapshots")
    directory.prepare(frozenset())
    manifest = made(sender, tmp_path / "s")
    send(manifest, tmp_path / "s", directory.receive / "1_7_9")
    applying = RegionLocalState(PeerState.APPLYING, REGION, PeerId(101), "1_7_9")
    batch = receiver.write_batch()
    batch.put(RAFT, keys.region_state_key(1), encode(applying))
    receiver.write(batch)
    receiver.sync()

    receiver.steps = steps
    survivor: MemoryEngine = receiver
    try:
        load_regions(receiver, directory)
    except PowerCut:
        survivor = receiver.crash(random.Random(seed))
    loaded = load_regions(survivor, directory)
    assert [state.region for state in loaded.regions] == [REGION]
    stored = survivor.get(RAFT, keys.region_state_key(1))
    assert stored is not None
    assert decode_region_state(stored).state is PeerState.NORMAL
    assert sorted(content(survivor)) == sorted([*INSIDE, (RAW, b"dz", b"other region")])


def test_leftovers_are_deleted_at_start_but_not_what_is_being_installed(tmp_path: Path) -> None:
    directory = SnapshotDirectory(tmp_path)
    directory.prepare(frozenset())
    for path in (directory.send / "1_1_1", directory.receive / "1_2_2", directory.receive / "1_3_3"):
        path.mkdir()
        (path / MANIFEST).write_bytes(b"x")
    directory.prepare(frozenset(["1_3_3"]))
    assert [path.name for path in directory.send.iterdir()] == []
    assert [path.name for path in directory.receive.iterdir()] == ["1_3_3"]


def test_a_snapshot_that_is_gone_while_it_is_needed_is_an_error(tmp_path: Path) -> None:
    engine = MemoryEngine()
    applying = RegionLocalState(PeerState.APPLYING, REGION, PeerId(101), "1_7_9")
    fill(engine, [(RAFT, keys.region_state_key(1), encode(applying))])
    with pytest.raises(OSError, match="1_7_9"):
        load_regions(engine, SnapshotDirectory(tmp_path))
