"""What a kind of cluster has to be able to do: servers in this process (`in_process`), or processes (`processes`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pytinykv.testing.answers import Orders

PREFIX = "tinykv-testing-"
"""What the names of temporary directories begin with."""

USUAL_SCHEDULER: Final[dict[str, object]] = {"leader_operators_max": 0, "region_operators_max": 0}
"""Nothing is moved for the sake of balance unless a test asks for it: what it has put somewhere stays there."""


NOT_STARTED: Final = "the cluster was not started: use it in `with`, or call `start`"
HAS_ENDED: Final = "the cluster has ended: make another one"
_COMPONENTS: Final = ("scheduler", "raftstore")


class ClusterError(Exception):
    """A cluster for tests can't start, or can't do what it was asked for; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What a cluster is started with."""

    stores: int = 3
    """How many, 1 to 9."""
    port: int = 0
    """That of the scheduler; 0: a free one."""
    replicas: int = 0
    """How many peers each region has; 0: as many as there are stores, at most three."""
    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    """Settings of the components, as in the configuration file: `{"scheduler": {…}, "raftstore": {…}}`."""

    @property
    def peers(self) -> int:
        """How many peers each region is to have."""
        return self.replicas or min(self.stores, 3)

    def validate(self) -> None:
        """Raise ValueError, or TypeError, for what can't be."""
        for name, given in (("stores", self.stores), ("port", self.port), ("replicas", self.replicas)):
            if not isinstance(given, int):
                raise TypeError(f"{name} must be a whole number, not {given!r}")
        if not 1 <= self.stores <= 9:
            raise ValueError(f"a cluster for tests has 1 to 9 stores, not {self.stores}")
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"{self.port} is no port")
        if not 0 <= self.replicas <= self.stores:
            raise ValueError(f"{self.stores} stores can't hold {self.replicas} replicas")
        settings: object = self.settings
        if not isinstance(settings, dict) or not all(isinstance(one, dict) for one in settings.values()):
            raise TypeError(f'settings must be like {{"raftstore": {{"tick_s": 0.1}}}}, not {self.settings!r}')
        for component in self.settings:
            if component not in _COMPONENTS:
                raise ValueError(f"settings: there is no component {component!r}; there are {', '.join(_COMPONENTS)}")


def check_numbers(config: ClusterConfig, *numbers: int) -> None:
    """Raise ValueError for a number that no store of the cluster has."""
    for number in numbers:
        if not 1 <= number <= config.stores:
            raise ValueError(f"there is no store {number}; stores are 1 to {config.stores}")


def check_ways(config: ClusterConfig, one: int, other: int) -> None:
    """As `check_numbers`, for the two ends of what is to be cut."""
    check_numbers(config, one, other)
    if one == other:
        raise ValueError(f"store {one} can't be cut off from itself: name two stores")


class Backend(Protocol):
    """The servers of one cluster. Its calls run in one event loop; stores are told by their numbers, 1 and up."""

    @property
    def address(self) -> str:
        """Where the scheduler serves, once started."""
        ...

    @property
    def orders(self) -> Orders:
        """The answers that are asked for."""
        ...

    async def start(self) -> None:
        """Start the scheduler and all stores; return when each serves. Raises ClusterError."""
        ...

    async def close(self) -> None:
        """End everything, paused or not, and leave nothing. Idempotent."""
        ...

    def store_id(self, number: int) -> int:
        """Return which store of the cluster it is."""
        ...

    def store_address(self, number: int) -> str:
        """Return where clients reach it."""
        ...

    def is_running(self, number: int) -> bool:
        """Whether it was started and has not ended."""
        ...

    def log(self) -> str:
        """Return what the servers have logged."""
        ...

    async def start_store(self, number: int) -> None: ...

    async def stop_store(self, number: int) -> None: ...

    async def kill_store(self, number: int) -> None: ...

    async def pause_store(self, number: int) -> None: ...

    async def resume_store(self, number: int) -> None: ...

    def cut(self, sender: int, receiver: int) -> None: ...

    def heal(self, *numbers: int) -> None: ...
