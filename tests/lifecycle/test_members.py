from __future__ import annotations

from tests.helpers import forever

from pytinykv.lifecycle import Leak, Member, Scope, StageOutcome, StopReport


def outcomes(report: StopReport) -> dict[str, StageOutcome]:
    return {stage.name: stage.outcome for stage in report.stages}


class Server(Member):
    def __init__(self) -> None:
        super().__init__("server")
        self.left: list[Leak] = []
        self.error: Exception | None = None

    async def stop_member(self, deadline_s: float) -> None:
        assert deadline_s > 0
        if self.error is not None:
            raise self.error

    def leaks(self) -> list[Leak]:
        return self.left


class TestMembers:
    async def test_member_is_stopped_with_the_scope(self, scope: Scope) -> None:
        scope.adopt(Server())
        report = await scope.stop()
        assert outcomes(report) == {"server": StageOutcome.OK}

    async def test_member_that_fails_or_leaks_is_reported(self, scope: Scope) -> None:
        server = Server()
        server.error = OSError("no")
        server.left = [scope.start("x", forever).as_leak()]
        scope.adopt(server)
        report = await scope.stop()
        assert outcomes(report)["server"] is StageOutcome.RAISED
        assert len(report.leaks) == 1

    async def test_disowned_member_is_its_closers_business(self, scope: Scope) -> None:
        server = Server()
        scope.adopt(server)
        scope.disown(server)
        scope.disown(server)
        assert (await scope.stop()).stages == ()
