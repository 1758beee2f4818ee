"""The parity page is made of markers in any form we write them, and refuses those that name nothing."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gen_parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_parity", ROOT / "tools/gen_parity.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def covers(gen_parity: ModuleType, source: str) -> list[tuple[str, str]]:
    found = gen_parity.covers_in(ast.parse(source), ROOT / "tests/test_made_up.py")
    return [(cover.function, cover.marker) for cover in found]


def test_markers_are_found_on_functions_classes_and_modules(gen_parity: ModuleType) -> None:
    source = """
pytestmark = [pytest.mark.slow, pytest.mark.tinykv("OfModule")]

@pytest.mark.tinykv("OfFunction", "AndAnother")
async def test_function(): ...

@pytest.mark.tinykv("OfClass")
class TestClass:
    def test_method(self): ...

def helper(): ...
"""
    assert covers(gen_parity, source) == [
        ("test_function", "OfModule"),
        ("test_function", "OfFunction"),
        ("test_function", "AndAnother"),
        ("TestClass.test_method", "OfModule"),
        ("TestClass.test_method", "OfClass"),
    ]


def test_markers_of_single_parameters_are_found_also_through_a_function(gen_parity: ModuleType) -> None:
    source = """
def cases(count, name):
    return [pytest.param(n, marks=pytest.mark.tinykv(name)) for n in range(count)]

@pytest.mark.parametrize("n", [*cases(3, "Made"), pytest.param(9, marks=pytest.mark.tinykv("Plain"))])
def test_it(n): ...
"""
    assert sorted(covers(gen_parity, source)) == [("test_it", "Made"), ("test_it", "Plain")]


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [("TestNothing", "has no test 'TestNothing'"), ("TestBasic", '"scheduler/server:TestBasic"')],
)
def test_a_marker_that_names_nothing_or_too_much_is_refused(
    gen_parity: ModuleType, marker: str, complaint: str
) -> None:
    cover = gen_parity.Cover(ROOT / "tests/test_made_up.py", 7, "test_it", marker)
    with pytest.raises(gen_parity.ParityError, match=complaint):
        gen_parity.resolve(gen_parity.read_table(), [cover])


def test_a_name_with_its_package_is_unique(gen_parity: ModuleType) -> None:
    targets = gen_parity.read_table()
    cover = gen_parity.Cover(ROOT / "tests/test_made_up.py", 7, "test_it", "scheduler/server/core:TestBasic")
    [target] = gen_parity.resolve(targets, [cover])
    assert (target.package, target.name) == ("scheduler/server/core", "TestBasic")
    assert len(set(targets)) == len(targets) == 298
