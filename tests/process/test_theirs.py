"""What tikv-python repeats by itself is neither held against a store, nor does it excuse one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import tikv
from tests.process.theirs import TheirPort

from pytinykv.client.errors import StoreError
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.history import RawHistory
from pytinykv.simulation.workloads import Session

K = b"k"
LOST = grpc.StatusCode.UNAVAILABLE, "Socket closed"
UNREACHABLE = grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection refused"
REFUSED = grpc.StatusCode.INVALID_ARGUMENT, "no"


class Store:
    """One key of a store, which answers as it is told to, and a scheduler that knows where it is."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.answers: list[tuple[grpc.StatusCode, str] | str] = []
        """How the next requests fail: gRPC's status, or the kind of a region error. Their effects are for the test."""
        self.asked = 0

    async def call(self, address: str, method: Any, request: Any, timeout: float) -> Any:
        response = method.response()
        if address == "pd":
            return self._tell(method.path, response)
        self.asked += 1
        if self.answers:
            answer = self.answers.pop(0)
            if not isinstance(answer, str):
                raise grpc.aio.AioRpcError(answer[0], grpc.aio.Metadata(), grpc.aio.Metadata(), answer[1])
            if answer:
                getattr(response.region_error, answer).SetInParent()
            response.region_error.message = "as told"
            return response
        match method.path.rpartition("/")[2]:
            case "RawGet":
                response.not_found, response.value = self.value is None, self.value or b""
            case "RawPut":
                self.value = request.value
            case "RawDelete":
                self.value = None
            case "RawCompareAndSwap":
                expected = None if request.previous_not_exist else request.previous_value
                response.succeed = self.value == expected
                response.previous_not_exist, response.previous_value = self.value is None, self.value or b""
                self.value = request.value if response.succeed else self.value
        return response

    def _tell(self, path: str, response: Any) -> Any:
        match path.rpartition("/")[2]:
            case "GetMembers":
                response.leader.client_urls.append("http://pd")
            case "GetRegion":
                response.region.peers.add(id=2, store_id=3)
                response.region.id = 1
                response.leader.CopyFrom(response.region.peers[0])
            case "GetStore":
                response.store.address = "store"
        return response


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """Make the store that clients find; their pauses take no time."""
    made = Store()

    async def no_pause(_seconds: float) -> None:
        pass

    monkeypatch.setattr("tikv._async._client.sleep", no_pause)
    return made


@pytest.fixture
def history() -> RawHistory:
    return RawHistory()


@pytest.fixture
async def join(store: Store, history: RawHistory) -> AsyncIterator[Callable[[str], Session]]:
    """Make clients of the store."""
    clients: list[tikv.AsyncRawClient] = []

    def make(name: str) -> Session:
        clients.append(tikv.AsyncRawClient("pd", atomic=True))
        transport: Any = clients[-1]._transport
        transport.call = store.call
        return Session(name, TheirPort(name, clients[-1], history), history, timeout_s=10.0)

    yield make
    for client in clients:
        await client.close()


Join = Callable[[str], Session]


async def test_a_put_that_was_sent_twice_may_happen_again_later(store: Store, history: RawHistory, join: Join) -> None:
    one, other = join("one"), join("other")
    store.answers = [LOST]
    await one.put(K, b"a")
    assert store.asked == 2
    await other.put(K, b"b")
    assert await one.get(K) == b"b"
    store.value = b"a"  # so late the first sending arrives
    assert await one.get(K) == b"a"
    assert history.check() == 5


@pytest.mark.parametrize(
    "doubt", [LOST, (grpc.StatusCode.DEADLINE_EXCEEDED, ""), "undetermined_result", "stale_command", ""]
)
async def test_each_doubtful_sending_may_happen_once(
    store: Store, history: RawHistory, join: Join, doubt: tuple[grpc.StatusCode, str] | str
) -> None:
    one, other = join("one"), join("other")
    store.answers = [doubt, doubt]
    await one.put(K, b"a")
    for number in range(2):
        await other.put(K, b"b%d" % number)
        store.value = b"a"
        assert await other.get(K) == b"a"
    history.check()
    await other.put(K, b"c")
    store.value = b"a"  # once too often
    assert await other.get(K) == b"a"
    with pytest.raises(Violation, match="linearizability"):
        history.check()


@pytest.mark.parametrize(
    "refusal", [UNREACHABLE, "not_leader", "epoch_not_match", "region_not_found", "server_is_busy"]
)
async def test_a_sending_that_was_not_done_excuses_no_stale_read(
    store: Store, history: RawHistory, join: Join, refusal: tuple[grpc.StatusCode, str] | str
) -> None:
    one, other = join("one"), join("other")
    store.answers = [refusal]
    await one.put(K, b"a")
    assert store.asked == 2
    await other.put(K, b"b")
    store.value = b"a"
    assert await other.get(K) == b"a"
    with pytest.raises(Violation, match="linearizability"):
        history.check()


async def test_an_acknowledged_put_that_is_lost_is_found(store: Store, history: RawHistory, join: Join) -> None:
    one = join("one")
    store.answers = [LOST]
    await one.put(K, b"a")
    store.value = None
    assert await one.get(K) is None
    with pytest.raises(Violation, match="linearizability"):
        history.check()


async def test_a_put_that_gave_up_may_have_happened_or_not(store: Store, history: RawHistory, join: Join) -> None:
    one = join("one")
    store.answers = [LOST, REFUSED]
    with pytest.raises(StoreError):
        await one.put(K, b"a")
    assert await one.get(K) is None
    store.value = b"a"
    assert await one.get(K) == b"a"
    history.check()
    store.value = None
    assert await one.get(K) is None
    with pytest.raises(Violation, match="linearizability"):
        history.check()


async def test_a_put_that_was_refused_did_not_happen(store: Store, history: RawHistory, join: Join) -> None:
    one = join("one")
    store.answers = [REFUSED]
    with pytest.raises(StoreError):
        await one.put(K, b"a")
    store.value = b"a"
    assert await one.get(K) == b"a"
    with pytest.raises(Violation, match="linearizability"):
        history.check()


async def test_a_swap_is_sent_once_and_may_happen_late(store: Store, history: RawHistory, join: Join) -> None:
    one = join("one")
    assert (await one.compare_and_swap(K, None, b"a")).succeeded
    store.answers = [LOST]
    with pytest.raises(StoreError):
        await one.compare_and_swap(K, b"a", b"b")
    assert store.asked == 2
    assert await one.get(K) == b"a"
    store.value = b"b"
    assert await one.get(K) == b"b"
    assert not (await one.compare_and_swap(K, b"a", b"c")).succeeded
    await one.delete(K)
    assert await one.get(K) is None
    history.check()
    store.value = b"b"
    assert await one.get(K) == b"b"
    with pytest.raises(Violation, match="linearizability"):
        history.check()
