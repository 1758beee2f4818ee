"""What goes wrong around a server: its directory, its ports, its scheduler, its disk. It says what, and what to do."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rocksdict
from tests.process.cluster import Cluster, Process, wait_until
from tests.process.load import Load
from tests.process.network import free_address
from tests.small_disks import fill, mount_small_disk

import pytinykv
from pytinykv.raftstore.keys import RAW_TAGS
from pytinykv.storage import RocksEngine

REFUSES_S = 20.0
GIVES_UP_S = 60.0
DISK_MIB = 48
PAIRS = {b"%06d" % number: b"value %d" % number for number in range(5000)}


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a server that must not come up; return what it says, after "tinykv <command>: "."""
    made: list[Process] = []

    def start(process: Process) -> str:
        made.append(process)
        process.start()
        assert process.wait_exit(REFUSES_S) == 1, process.tail()
        said = re.findall(rf"^tinykv {process.command}: (.*)$", process.log, flags=re.MULTILINE)
        assert len(said) == 1, process.tail()
        assert "Traceback" not in process.log, process.tail()
        assert "nothing left behind" in process.log, process.tail()
        return str(said[0])

    try:
        yield start
    finally:
        for process in made:
            process.kill()


@pytest.fixture
def bootstrapped(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Run a scheduler and one store: enough to have a cluster's data."""
    made = new_cluster()
    made.start(stores=1)
    return made


# --- directories and ports ------------------------------------------------------------------------------------------


def test_a_data_directory_that_is_in_use(bootstrapped: Cluster, refused: Callable[..., str]) -> None:
    for process in bootstrapped.processes:
        second = bootstrapped.make("second", process.command, **scheduler_of(bootstrapped, process))
        second.options["--data-dir"] = str(process.data_dir)
        said = refused(second)
        assert f"in use by the process with pid {process.pid}" in said
        assert "stop it, or choose another data directory" in said
    assert all(process.running for process in bootstrapped.processes)


def scheduler_of(cluster: Cluster, process: Process) -> dict[str, str]:
    return {"scheduler": cluster.address} if process.command == "store" else {}


def test_a_data_directory_of_another_cluster(
    bootstrapped: Cluster, new_cluster: Callable[..., Cluster], refused: Callable[..., str]
) -> None:
    other = new_cluster()
    other.start(stores=0)
    store = bootstrapped.stores[0]
    store.stop()
    stray = other.make_store()
    stray.options["--data-dir"] = str(store.data_dir)
    said = refused(stray)
    assert bootstrapped.scheduler.facts["cluster"] in said
    assert other.scheduler.facts["cluster"] in said
    store.start()
    assert store.wait_ready()["cluster"] == bootstrapped.scheduler.facts["cluster"]


def test_a_data_directory_of_the_other_kind(bootstrapped: Cluster, refused: Callable[..., str]) -> None:
    bootstrapped.stop()
    for process, command in ((bootstrapped.scheduler, "store"), (bootstrapped.stores[0], "scheduler")):
        stray = bootstrapped.make(
            "stray", command, **({"scheduler": bootstrapped.address} if command == "store" else {})
        )
        stray.options["--data-dir"] = str(process.data_dir)
        assert f"holds the data of a {process.command}, not of a {command}" in refused(stray)


def test_a_data_directory_of_a_newer_version(bootstrapped: Cluster, refused: Callable[..., str]) -> None:
    bootstrapped.stop()
    for process in bootstrapped.processes:
        identity = process.data_dir / "identity.json"
        content = identity.read_text()
        identity.write_text(json.dumps(json.loads(content) | {"format_version": 99}))
        assert "has format version 99, this pytinykv knows up to 1: use the newer pytinykv" in refused(process)
        identity.write_text(content)
    bootstrapped.scheduler.start()
    bootstrapped.scheduler.wait_ready()
    bootstrapped.stores[0].start()
    bootstrapped.stores[0].wait_ready()


def test_a_data_directory_of_another_program(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "thesis.tex").touch()
    said = refused(Cluster(tmp_path).scheduler)
    assert "thesis.tex" in said
    assert "choose an empty or a new one" in said
    assert (tmp_path / "scheduler" / "thesis.tex").exists()


def test_a_data_directory_that_is_a_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    scheduler = Cluster(tmp_path).scheduler
    scheduler.data_dir.touch()
    scheduler.start()
    assert scheduler.wait_exit(REFUSES_S) == 2, scheduler.tail()
    assert f"Directory '{scheduler.data_dir}' is a file" in scheduler.log
    scheduler.data_dir.unlink()
    parent = tmp_path / "file"
    parent.touch()
    scheduler.options["--data-dir"] = str(parent / "scheduler")
    assert f"{parent / 'scheduler'} is not a directory" in refused(scheduler)


@pytest.mark.parametrize("option", ["--addr", "--status-addr", "--peer-addr"])
def test_a_port_that_is_in_use(tmp_path: Path, refused: Callable[..., str], option: str) -> None:
    cluster = Cluster(tmp_path)
    for process in (cluster.scheduler, cluster.make_store()):
        if option not in process.options:
            continue
        host, _, port = process.options[option].rpartition(":")
        with socket.socket() as taken:
            taken.bind((host, int(port)))
            taken.listen()
            said = refused(process)
            assert process.options[option] in said
            assert "another process listens there; stop it, or choose another port" in said


def test_addresses_that_others_could_reach_need_a_word(tmp_path: Path) -> None:
    scheduler = Cluster(tmp_path).scheduler
    scheduler.options["--addr"] = "0.0.0.0:0"
    scheduler.start()
    assert scheduler.wait_exit(REFUSES_S) == 2, scheduler.tail()
    assert "--insecure" in scheduler.log


# --- the scheduler --------------------------------------------------------------------------------------------------


def test_a_scheduler_that_cannot_be_reached(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    store = cluster.make_store(scheduler_patience="0.5")
    try:
        store.start()
        assert store.wait_exit(GIVES_UP_S) == 1, store.tail()
        assert f"tinykv store: no scheduler answered in time (asked {cluster.address}" in store.log, store.tail()
        assert "check the addresses and that a scheduler runs there" in store.log
        assert "Traceback" not in store.log
    finally:
        store.kill()


def test_a_scheduler_that_comes_late_is_waited_for(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    store = cluster.add_store()
    wait_until(
        lambda: "waiting for a scheduler" in store.log, within_s=GIVES_UP_S, what="the store has got as far as that"
    )
    cluster.scheduler.start()
    store.wait_ready()
    cluster.wait_replicated(1)


def test_something_else_that_answers_at_the_schedulers_address(
    bootstrapped: Cluster, refused: Callable[..., str]
) -> None:
    """A store is not a scheduler, and that is said at once."""
    stray = bootstrapped.make_store(scheduler=bootstrapped.stores[0].address, scheduler_patience="600")
    assert f"{bootstrapped.stores[0].address} is a store, or another gRPC server, and no scheduler" in refused(stray)


# --- the disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few MiB, which needs the right to."""
    with mount_small_disk(tmp_path / "small-disk", f"{DISK_MIB}m") as path:
        yield path


def test_a_full_disk(small_disk: Path, new_cluster: Callable[..., Cluster]) -> None:
    """The store stops with an error; the others go on, and nothing acknowledged is lost. With space again, it comes back."""
    cluster = new_cluster()
    cluster.start(stores=2)
    store = cluster.make_store()
    store.options["--data-dir"] = str(small_disk / "store-3")
    cluster.stores.append(store)
    store.start()
    store.wait_ready()
    cluster.wait_replicated(3)
    with Load(cluster.address) as load:
        load.wait_progress(20)
        filler = small_disk / "filler"
        fill(filler)
        assert store.wait_exit(GIVES_UP_S) == 1, store.tail()
        assert "no space left on the device" in store.log, store.tail()
        assert "free some, then restart" in store.log
        load.wait_progress()
        filler.unlink()
        store.start()
        store.wait_ready()
        load.wait_progress()
    cluster.wait_replicated(3)
    load.check()


def test_a_disk_that_is_full_at_the_start(tmp_path: Path, small_disk: Path, refused: Callable[..., str]) -> None:
    fill(small_disk / "filler")
    scheduler = Cluster(tmp_path).scheduler
    scheduler.options["--data-dir"] = str(small_disk / "scheduler")
    assert "no space left on the device" in refused(scheduler)


@pytest.mark.parametrize("kind", ["sst", "log"])
def test_a_damaged_file(fresh_cluster: Cluster, refused: Callable[..., str], kind: str) -> None:
    """The store refuses to start and names the file; two of three go on, and have everything."""
    with pytinykv.connect(fresh_cluster.address) as db:
        db.raw.batch_put(PAIRS)
        fresh_cluster.wait_replicated(3)
        victim = fresh_cluster.followers()[0]
        if kind == "sst":
            victim.stop()
            write_sst_files(victim.data_dir / "engine")
            file = largest(victim.data_dir / "engine", kind)
            damage(file, from_end=8)  # the magic number, the last thing in a file
        else:
            victim.kill()
            file = largest(victim.data_dir / "engine", kind)
            content = file.read_bytes()
            used = len(content.rstrip(b"\0"))  # behind it is room for what comes
            damage(file, from_end=len(content) - used // 2)  # not where a crash might have cut it off
        said = refused(victim)
        assert str(file) in said
        assert "damaged" in said
        db.raw.put(b"after", b"v")
        assert dict(db.raw.scan(b"0", b"9")) == PAIRS
        assert db.raw.get(b"after") == b"v"


def test_damage_that_only_a_read_finds(fresh_cluster: Cluster) -> None:
    """A leader that meets a damaged block stops with an error, and the others answer what it was asked."""
    with pytinykv.connect(fresh_cluster.address, timeout=30.0) as db:
        db.raw.batch_put(PAIRS)
        fresh_cluster.wait_replicated(3)
        victim, bystander = fresh_cluster.followers()
        victim.stop()
        write_sst_files(victim.data_dir / "engine")
        file = holding(victim.data_dir / "engine", RAW_TAGS["default"] + b"002500")
        damage(file, from_end=file.stat().st_size - 2000)  # a block of data: nothing that a start looks at
        victim.start()
        victim.wait_ready()
        fresh_cluster.wait_replicated(3)
        make_leader(fresh_cluster, victim, bystander, db)
        assert dict(db.raw.scan(b"0", b"9")) == PAIRS
        assert victim.wait_exit(GIVES_UP_S) == 1, victim.tail()
        assert str(file) in victim.log
        assert "damaged" in victim.log


def make_leader(cluster: Cluster, wanted: Process, bystander: Process, db: pytinykv.Client) -> None:
    """Make a store lead: the only other one that runs has missed a write, so no peer may vote for it (Raft 5.4.1)."""
    bystander.stop()
    db.raw.put(b"missed", b"v")
    other = cluster.leader()
    if other is not wanted:
        other.pause()
    bystander.start()
    try:
        bystander.wait_ready()
        wait_until(
            lambda: not wanted.running or any(region["is_leader"] for region in wanted.regions()),
            within_s=GIVES_UP_S,
            what=lambda: f"{wanted.name} leads\n{cluster.tails()}",
        )
    finally:
        other.resume()


def write_sst_files(directory: Path) -> None:
    """Move what the engine's log holds to SST files, as opening does."""
    RocksEngine.open(directory).close()


def holding(directory: Path, key: bytes) -> Path:
    """Return the SST file that holds a raw key. The log's files don't count, though they hold the same data."""
    database = rocksdict.Rdict(str(directory), access_type=rocksdict.AccessType.read_only())
    try:
        files = database.live_files()
    finally:
        database.close()
    (name,) = [file["name"] for file in files if file["start_key"][:1] == key[:1] and key <= file["end_key"]]
    return directory / str(name).lstrip("/")


def largest(directory: Path, kind: str) -> Path:
    return max(directory.glob(f"*.{kind}"), key=lambda file: file.stat().st_size)


def damage(file: Path, *, from_end: int) -> None:
    """Turn over some bits."""
    content = bytearray(file.read_bytes())
    begin = len(content) - from_end
    assert begin > 0, f"{file} has only {len(content)} bytes"
    for offset in range(begin, min(begin + 16, len(content))):
        content[offset] ^= 0x55
    file.write_bytes(content)


def test_a_damaged_file_of_the_scheduler(bootstrapped: Cluster, refused: Callable[..., str]) -> None:
    bootstrapped.scheduler.kill()
    identity = bootstrapped.scheduler.data_dir / "identity.json"
    content = identity.read_bytes()
    identity.write_bytes(content[: len(content) // 2])
    said = refused(bootstrapped.scheduler)
    assert str(identity) in said
    assert "damaged" in said
    identity.write_bytes(content)
    bootstrapped.scheduler.start()
    bootstrapped.scheduler.wait_ready()


def test_an_address_without_a_listener_is_no_cluster() -> None:
    address = free_address()
    with pytest.raises(pytinykv.SchedulerUnavailableError, match=f"asked {address}"):
        pytinykv.connect(address, timeout=0.5)
