"""Links and paths in the documentation lead somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Repository, TextFile

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`]+)`")
DOTTED = re.compile(r"`([a-z_]\w*(?:\.[a-zA-Z_]\w*)+)`")
OUR_PATH = re.compile(r"(?:src|tests|docs|tools)/[\w./-]*\w/?$")
HEADING = re.compile(r"#{1,6}\s+(.*)")


def test_relative_links_lead_to_files_and_headings(repository: Repository) -> None:
    dead = [
        f"{file.name}:{number}: {target}"
        for file in repository.markdown()
        for number, line in prose_lines(file)
        for target in LINK.findall(line)
        if not target.startswith(("http://", "https://", "mailto:")) and not leads_somewhere(file, target)
    ]
    assert dead == []


def test_paths_written_as_code_exist(repository: Repository) -> None:
    dead = [
        f"{file.name}:{number}: {span}"
        for file in repository.markdown()
        if not is_history(file)
        for number, line in prose_lines(file)
        for span in CODE_SPAN.findall(line)
        if OUR_PATH.match(span) and not (repository.root / span).exists()
    ]
    assert dead == []


def test_modules_named_in_the_code_exist(repository: Repository) -> None:
    """`storage.memory` in a docstring is a module, `wire.Connector` a name that occurs in the package."""
    sources = {file.name.removeprefix("src/pytinykv/").removesuffix(".py"): file for file in repository.python("src")}
    packages = {name.partition("/")[0] for name in sources}
    dead = [
        f"{file.name}: {dotted}"
        for file in sources.values()
        for dotted in DOTTED.findall(file.text)
        if dotted.partition(".")[0] in packages and not is_there(dotted, sources)
    ]
    assert dead == []


def is_there(dotted: str, sources: dict[str, TextFile]) -> bool:
    """Whether a dotted name is a module or package, or a name in the text of the module or package before its last dot."""
    path = dotted.replace(".", "/")
    owner, _, name = path.rpartition("/")
    owners = [sources[each] for each in (owner, f"{owner}/__init__") if each in sources]
    return (
        path in sources or f"{path}/__init__" in sources or any(re.search(rf"\b{name}\b", file.text) for file in owners)
    )


def is_history(file: TextFile) -> bool:
    """Tell whether a page tells of the past, where files may have gone since."""
    return file.name == "CHANGELOG.md" or file.name.startswith("docs/adr/0")


def prose_lines(file: TextFile) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines outside fenced code."""
    fenced = False
    for number, line in enumerate(file.lines, start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def leads_somewhere(file: TextFile, target: str) -> bool:
    path_part, _, anchor = target.partition("#")
    path = (file.path.parent / path_part).resolve() if path_part else file.path
    if not path.exists():
        return False
    return not anchor or anchor in anchors(path.read_text(encoding="utf-8"))


def anchors(markdown: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings; equal headings get -1, -2, …"""
    found: set[str] = set()
    for line in markdown.splitlines():
        heading = HEADING.match(line)
        if heading:
            text = re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
            copies = sum(1 for anchor in found if re.fullmatch(re.escape(text) + r"(-\d+)?", anchor))
            found.add(f"{text}-{copies}" if copies else text)
    return found
