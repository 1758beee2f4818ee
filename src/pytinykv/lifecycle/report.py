"""The report a stop ends with: what was done, how long each part took, what was left behind and where it was started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pytinykv.lifecycle.census import Census
from pytinykv.waitgraph import CallSite, WaitGraph, render_graph


class StageOutcome(StrEnum):
    """How one part of a stop ended."""

    OK = "ok"
    RAISED = "raised"
    OVERRAN = "overran"
    """Its deadline passed; it was abandoned."""


class LeakKind(StrEnum):
    """What can be left behind."""

    TASK = "task"
    THREAD = "thread"
    CHILD = "child process"
    DESCRIPTOR = "file descriptor"
    SERVER = "server"
    CALL = "remote call"


@dataclass(frozen=True, slots=True)
class StageResult:
    """One part of a stop: a registered stage, or one of the parts every stop has (children, tasks, threads)."""

    name: str
    took_s: float
    outcome: StageOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was still there when the stop was over."""

    kind: LeakKind
    name: str
    started_at: CallSite
    stack: tuple[str, ...] = ()
    """Where it is now, outermost first; the last line names what it waits for."""
    started_by: tuple[CallSite, ...] = ()
    """The callers of `started_at`, innermost first, where they are known."""

    def render(self) -> str:
        """Return what it is, where it was started and where it is now, as lines for people."""
        lines = [f"{self.kind} {self.name}", f"  started at {self.started_at}"]
        lines.extend(f"    called at {site}" for site in self.started_by)
        if self.stack:
            lines.append("  at")
            lines.extend(f"    {line}" for line in self.stack)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop did. `ok` is the verdict: every stage went well and nothing is left, here and in every child."""

    name: str
    took_s: float
    stages: tuple[StageResult, ...]
    own_leaks: tuple[Leak, ...] = ()
    children: tuple[StopReport, ...] = ()
    failures: tuple[str, ...] = ()
    """Tasks and threads that had failed before the stop, one line each: information, not part of the verdict."""
    before: Census | None = None
    """The process when the scope was made; taken for a root scope only."""
    after: Census | None = None
    graph: WaitGraph | None = None
    """What waited for what when something first overran its deadline; None when nothing did."""

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """Everything left behind, by this scope and the scopes below it."""
        return tuple(leak for report in self.walk() for leak in report.own_leaks)

    @property
    def ok(self) -> bool:
        """Whether every stage went well and nothing was left behind, here and below."""
        return not any(
            report.own_leaks or any(stage.outcome is not StageOutcome.OK for stage in report.stages)
            for report in self.walk()
        )

    @property
    def forced(self) -> bool:
        """Whether something had to be abandoned: it is left behind, or a stage overran."""
        return any(
            report.own_leaks or any(stage.outcome is StageOutcome.OVERRAN for stage in report.stages)
            for report in self.walk()
        )

    def walk(self) -> Iterator[StopReport]:
        """Iterate over this report and those below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def render(self) -> str:
        """Return the report as text for people: verdict, stages with their times, counts, leaks with their stacks."""
        lines = [f"{self.name}: {self._verdict()} in {self.took_s:.3f} s"]
        self._render_stages(lines, "  ")
        if self.before is not None and self.after is not None:
            lines.append(f"  before: {self.before}")
            lines.append(f"  after:  {self.after}")
        for leak in self.leaks:
            lines.extend(
                f"  LEFT {line}" if n == 0 else f"  {line}" for n, line in enumerate(leak.render().split("\n"))
            )
        graph = next((report.graph for report in self.walk() if report.graph is not None), None)
        if graph is not None:
            lines.append("  when the first deadline had passed:")
            lines.extend(f"  {line}".rstrip() for line in render_graph(graph).split("\n"))
        return "\n".join(lines)

    def _verdict(self) -> str:
        if self.ok:
            return "stopped, nothing left behind"
        if self.leaks:
            return f"STOPPED WITH {len(self.leaks)} THING(S) LEFT BEHIND"
        return "STOPPED WITH ERRORS"

    def _render_stages(self, lines: list[str], indent: str) -> None:
        for stage in self.stages:
            detail = f" ({stage.detail})" if stage.detail else ""
            lines.append(f"{indent}{stage.took_s:8.3f} s  {stage.outcome:<7}  {stage.name}{detail}")
        lines.extend(f"{indent}failed before the stop: {failure}" for failure in self.failures)
        for child in self.children:
            lines.append(f"{indent}{child.took_s:8.3f} s  {'ok' if child.ok else 'FAILED':<7}  scope {child.name}")
            child._render_stages(lines, indent + "    ")  # noqa: SLF001 - same class
