"""The checked-in protobuf modules are what their `.proto` files say."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import Default
from grpc_tools import protoc

from pytinykv.wire import pb
from pytinykv.wire.pb import POOL

PB = Path(str(pb.__file__)).parent
SOURCE = PB.parent.parent.parent
NAMES = sorted(path.stem for path in PB.glob("*.proto"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """Descriptors made from the `.proto` files just now, by the generator at hand."""
    target = tmp_path_factory.mktemp("protoc") / "set"
    protos = [f"pytinykv/wire/pb/{name}.proto" for name in NAMES]
    assert protoc.main(["protoc", f"-I{SOURCE}", f"--descriptor_set_out={target}", *protos]) == 0
    files = FileDescriptorSet.FromString(target.read_bytes()).file
    return {Path(file.name).stem: file for file in files}


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """The compiler spells out JSON names where it writes descriptors, and not where it writes modules."""

    def clear(fields: list[FieldDescriptorProto]) -> None:
        for field in fields:
            field.ClearField("json_name")

    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        clear(list(message.field))
        pending += message.nested_type
    return file


@pytest.mark.parametrize("name", NAMES)
def test_module_agrees_with_its_proto_file(name: str, fresh: dict[str, FileDescriptorProto]) -> None:
    checked_in = FileDescriptorProto()
    importlib.import_module(f"pytinykv.wire.pb.{name}_pb2").DESCRIPTOR.CopyToProto(checked_in)
    assert without_json_names(checked_in) == without_json_names(fresh[name]), "run tools/gen_proto.py"


@pytest.mark.parametrize("name", NAMES)
def test_messages_stay_out_of_the_default_pool(name: str) -> None:
    path = f"pytinykv/wire/pb/{name}.proto"
    assert POOL.FindFileByName(path).name == path
    with pytest.raises(KeyError):
        Default().FindFileByName(path)


def test_generated_code_runs_on_the_oldest_protobuf_that_we_allow() -> None:
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    (requirement,) = (text for text in project["dependencies"] if text.startswith("protobuf"))
    oldest = tuple(int(part) for part in re.findall(r"\d+", requirement.partition(">=")[2])[:2])
    for name in NAMES:
        generated = re.search(r"Protobuf Python Version: (\d+)\.(\d+)", (PB / f"{name}_pb2.py").read_text())
        assert generated is not None
        assert (int(generated[1]), int(generated[2])) <= oldest
        assert f"<{int(generated[1]) + 2}" in requirement, "generated code runs on the next major version, no further"
