#!/usr/bin/env python3
"""Write docs/parity.md: every test of TinyKV, and the tests here that cover its behaviour.

    python tools/gen_parity.py            write the page
    python tools/gen_parity.py --check    change nothing; exit 1 if the page is out of date

A test here names the TinyKV test it covers in a marker, `@pytest.mark.tinykv("TestLeaderElection2AA")`, on the
function, on its class, or in the module's `pytestmark`; one marker may carry several names. Names are unique in TinyKV
but for a few such as TestBasic; those are written "package:TestName". The markers are read from the source, nothing is
imported; a module may build parameters with a function of its own that passes one of its arguments on to the marker.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "parity" / "tinykv-tests.tsv"
PAGE = ROOT / "docs" / "parity.md"
COMMAND = "./dev fmt"

LATER = "later"
NOT_APPLICABLE = "no counterpart"


@dataclass(frozen=True)
class Target:
    """One test of TinyKV."""

    package: str
    name: str
    part: str


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Why tests that nothing covers are not wanted now; an empty field matches everything."""

    kind: str
    reason: str
    package: str = ""
    name: str = ""
    part: str = ""

    def matches(self, target: Target) -> bool:
        return (
            self.package in {"", target.package} and self.name in {"", target.name} and self.part in {"", target.part}
        )


ONE_SCHEDULER = "one scheduler node so far; a replicated scheduler comes later"
MERGES = "belongs to the merging of regions, which there is not"

# The first that matches gives the reason; a test that none matches is open.
PENDING: tuple[Pending, ...] = (
    Pending(
        kind=NOT_APPLICABLE,
        package="scheduler/server/kv",
        name="TestEtcdKV",
        reason="the scheduler keeps its state in our own engine, not in etcd",
    ),
    Pending(kind=LATER, package="scheduler/tests/client", reason=ONE_SCHEDULER),
    Pending(kind=LATER, package="scheduler/tests/server", name="TestLeader", reason=ONE_SCHEDULER),
    *(
        Pending(
            kind=NOT_APPLICABLE, package=package, name=name, reason="starts the suite of its package, tests nothing"
        )
        for package, name in (
            ("scheduler/server", "TestServer"),
            ("scheduler/server/core", "TestCore"),
            ("scheduler/server/schedulers", "TestSchedulers"),
        )
    ),
    *(
        Pending(
            kind=NOT_APPLICABLE, package="scheduler/server/schedulers", name=name, reason="min and max are Python's"
        )
        for name in ("TestMaxUint64", "TestMinDuration", "TestMinUint64")
    ),
    Pending(
        kind=NOT_APPLICABLE,
        package="scheduler/server/core",
        name="TestCloneStore",
        reason="looks for a data race; our records are immutable and have one thread",
    ),
    Pending(
        kind=NOT_APPLICABLE,
        package="scheduler/server",
        name="TestInterval",
        reason="slows a scheduler down that finds nothing to do; ours looks at sums that are at hand, once a tick",
    ),
    Pending(
        kind=NOT_APPLICABLE,
        package="scheduler/server/core",
        name="TestStoreWeight",
        reason="stores have no weights: all are meant to carry the same",
    ),
    Pending(
        kind=NOT_APPLICABLE, package="scheduler/server/schedule/operator", name="TestFindAvailableStore", reason=MERGES
    ),
    Pending(
        kind=NOT_APPLICABLE,
        package="scheduler/server/schedule/operator",
        name="TestInterleaveStepGroups",
        reason=MERGES,
    ),
)


@dataclass(frozen=True)
class Cover:
    """One test here and the name in its marker."""

    path: Path
    line: int
    function: str
    marker: str


class ParityError(Exception):
    """A marker names no test of TinyKV, or more than one."""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    try:
        page = render(read_table(), list(find_covers(ROOT / "tests")))
    except ParityError as error:
        print(error, file=sys.stderr)
        return 1
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text() == page:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is out of date: run {COMMAND}", file=sys.stderr)
        return 1
    if not PAGE.exists() or PAGE.read_text() != page:
        PAGE.write_text(page)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def read_table() -> list[Target]:
    """Read TinyKV's tests, in the order of the table."""
    lines = TABLE.read_text().splitlines()[1:]
    return [Target(*line.split("\t")) for line in lines]


def find_covers(directory: Path) -> Iterator[Cover]:
    """Yield every (test, marker name) pair below a directory, in order of file and line."""
    for path in sorted(directory.rglob("test_*.py")):
        module = ast.parse(path.read_text(), filename=str(path))
        yield from covers_in(module, path)


def covers_in(module: ast.Module, path: Path) -> Iterator[Cover]:
    """Yield the covers of one module."""
    reader = MarkerReader(module)
    shared = reader.names_in_pytestmark(module.body)
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            above = [*shared, *reader.names_in_pytestmark(node.body), *reader.names_in(node.decorator_list)]
            for inner in node.body:
                yield from covers_of(inner, path, f"{node.name}.", above, reader)
        else:
            yield from covers_of(node, path, "", shared, reader)


def covers_of(node: ast.stmt, path: Path, prefix: str, above: list[str], reader: MarkerReader) -> Iterator[Cover]:
    """Yield the covers of one statement, if it is a test."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
        for name in dict.fromkeys([*above, *reader.names_in(node.decorator_list)]):
            yield Cover(path, node.lineno, prefix + node.name, name)


class MarkerReader:
    """Finds the names in `pytest.mark.tinykv(...)`, also where a function of the module makes the mark."""

    def __init__(self, module: ast.Module) -> None:
        self._position_of: dict[str, int] = {}
        """Function that passes an argument on to the marker -> the argument's position."""
        for node in module.body:
            if isinstance(node, ast.FunctionDef):
                self._note_function(node)

    def _note_function(self, function: ast.FunctionDef) -> None:
        parameters = [parameter.arg for parameter in function.args.args]
        for call in ast.walk(function):
            if is_marker(call):
                for argument in call.args:
                    if isinstance(argument, ast.Name) and argument.id in parameters:
                        self._position_of[function.name] = parameters.index(argument.id)

    def names_in_pytestmark(self, body: list[ast.stmt]) -> list[str]:
        """Return the names in `pytestmark = …` of a module or class."""
        found: list[str] = []
        for node in body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets
            ):
                found += self.names_in([node.value])
        return found

    def names_in(self, expressions: list[ast.expr]) -> list[str]:
        """Return the names in all marks inside some expressions; those of single parameters included."""
        found: list[str] = []
        for expression in expressions:
            for call in ast.walk(expression):
                if is_marker(call):
                    found += texts(call.args)
                elif (
                    isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in self._position_of
                ):
                    position = self._position_of[call.func.id]
                    found += texts(call.args[position : position + 1])
        return found


def is_marker(node: ast.AST) -> TypeGuard[ast.Call]:
    """Tell whether a node is a call of the marker."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tinykv"


def texts(expressions: list[ast.expr]) -> list[str]:
    """Return the values of those expressions that are plain strings."""
    return [node.value for node in expressions if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def resolve(targets: list[Target], covers: list[Cover]) -> dict[Target, list[Cover]]:
    """Sort the covers by what they cover. Raises ParityError, naming every wrong marker at once."""
    by_name: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        by_name[target.name].append(target)
        by_name[f"{target.package}:{target.name}"].append(target)
    covered: dict[Target, list[Cover]] = defaultdict(list)
    wrong: list[str] = []
    for cover in covers:
        match by_name.get(cover.marker, []):
            case [target]:
                covered[target].append(cover)
            case []:
                wrong.append(f"{where(cover)}: TinyKV has no test {cover.marker!r} ({TABLE.relative_to(ROOT)})")
            case several:
                choices = ", ".join(f'"{target.package}:{target.name}"' for target in several)
                wrong.append(f"{where(cover)}: {cover.marker!r} is ambiguous; write one of {choices}")
    if wrong:
        raise ParityError("\n".join(wrong))
    return covered


def where(cover: Cover) -> str:
    """Return file:line of a cover."""
    return f"{cover.path.relative_to(ROOT)}:{cover.line}"


def reason_pending(target: Target) -> tuple[str, str]:
    """Return (kind, reason) for a test that nothing covers."""
    for pending in PENDING:
        if pending.matches(target):
            return pending.kind, pending.reason
    return "open", "wanted now, not there yet"


def render(targets: list[Target], covers: list[Cover]) -> str:
    """Return the whole page."""
    covered = resolve(targets, covers)
    packages = list(dict.fromkeys(target.package for target in targets))
    lines = [
        "# Parity with TinyKV's tests",
        "",
        f"Generated by `tools/gen_parity.py` from the markers in `tests/`; do not edit, run `{COMMAND}`.",
        "",
        "TinyKV's tests are our catalogue of behaviours. A test of ours that covers one carries",
        '`@pytest.mark.tinykv("TestName")`. It covers the behaviour, in our own setting; it is not a translation.',
        "",
        f"{len(covered)} of {len(targets)} are covered. The others are *later* (the part of the system they test is",
        "not there yet), *no counterpart* (they test something this design does not have), or *open* (wanted now).",
        "",
        "| TinyKV package | tests | covered | open | later | no counterpart |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for package in packages:
        group = [target for target in targets if target.package == package]
        kinds = [reason_pending(target)[0] for target in group if target not in covered]
        counts = [len(group), len(group) - len(kinds), *(kinds.count(kind) for kind in ("open", LATER, NOT_APPLICABLE))]
        lines.append(f"| [`{package}`](#{anchor(package)}) | {' | '.join(str(count or '') for count in counts)} |")
    for package in packages:
        lines += ["", f"## {package}", "", "| test | part | covered by |", "| --- | --- | --- |"]
        lines += [row(target, covered.get(target, [])) for target in targets if target.package == package]
    return "\n".join(lines) + "\n"


def anchor(heading: str) -> str:
    """Return the anchor a Markdown renderer gives a heading."""
    return "".join(char for char in heading.lower() if char.isalnum() or char in "-_ ").replace(" ", "-")


def row(target: Target, covers: list[Cover]) -> str:
    """Return one line of a package's table."""
    if covers:
        links = [f"[`{c.function}`](../{c.path.relative_to(ROOT)})" for c in covers]
        return f"| {target.name} | {target.part} | {'<br>'.join(links)} |"
    kind, reason = reason_pending(target)
    return f"| {target.name} | {target.part} | *{kind}*: {reason} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
