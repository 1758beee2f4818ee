"""Our messages agree with the published formats, row by row (tests/wire/facts/README.md)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_health.v1 import health_pb2

from pytinykv.wire import pb, service_methods
from pytinykv.wire.pb import POOL, healthpb_pb2

FACTS = Path(__file__).parent / "facts"
SCALARS = {
    getattr(FieldDescriptor, f"TYPE_{name.upper()}"): name
    for name in (
        "uint64",
        "uint32",
        "int64",
        "int32",
        "bool",
        "bytes",
        "string",
        "double",
        "float",
        "fixed64",
        "sint64",
    )
}
MODULES = [
    importlib.import_module(f"pytinykv.wire.pb.{path.stem}_pb2")
    for path in sorted(Path(str(pb.__file__)).parent.glob("*.proto"))
    if path.stem not in ("adminpb", "healthpb", "etcdpb")  # our own; gRPC's own, compared below; one call of etcd
]


class Field(NamedTuple):
    number: int
    type: str
    group: str


class Facts(NamedTuple):
    rpcs: dict[str, tuple[str, str]]
    messages: dict[str, dict[str, Field]]
    enums: dict[str, dict[str, int]]

    def describes(self, type_text: str) -> bool:
        name = type_text.removeprefix("repeated ").removeprefix("stream ")
        if name.startswith("map<"):
            name = name[4:-1].split(",")[1].strip()
        return name in self.messages or name in self.enums or name in SCALARS.values()


def read_facts(name: str) -> Facts:
    facts = Facts({}, {}, {})
    for line in (FACTS / name).read_text().splitlines()[1:]:
        kind, subject, *rest = line.split("\t")
        if kind == "rpc":
            facts.rpcs[subject] = (rest[0], rest[1])
        elif kind == "message":
            facts.messages.setdefault(subject, {})
        elif kind == "enum":
            facts.enums.setdefault(subject, {})[rest[0]] = int(rest[1])
        else:
            assert kind == "field", line
            member, number, type_text, group = (*rest, "")[:4]
            facts.messages.setdefault(subject, {})[member] = Field(int(number), type_text.replace(" ", ""), group)
    return facts


SERVICES = ("tikvpb.Tikv", "pdpb.PD", "deadlock.Deadlock")
TIKV = read_facts("tikv.tsv")
TINYKV = read_facts("tinykv.tsv")


def our_messages() -> Iterator[Descriptor]:
    def walk(message: Descriptor) -> Iterator[Descriptor]:
        if not message.GetOptions().map_entry:
            yield message
        for nested in message.nested_types:
            yield from walk(nested)

    for module in MODULES:
        for message in module.DESCRIPTOR.message_types_by_name.values():
            yield from walk(message)


def our_enums() -> Iterator[EnumDescriptor]:
    for module in MODULES:
        yield from module.DESCRIPTOR.enum_types_by_name.values()
    for message in our_messages():
        yield from message.enum_types


def type_of(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        return f"map<{type_of(key)},{type_of(value)}>"
    kind = field.message_type or field.enum_type
    name = kind.full_name if kind is not None else SCALARS[field.type]
    return f"repeated{name}" if field.is_repeated else name


def field_facts(message: Descriptor) -> dict[str, Field]:
    return {
        field.name: Field(
            field.number,
            type_of(field),
            f"oneof {field.containing_oneof.name}" if field.containing_oneof is not None else "",
        )
        for field in message.fields
    }


def reserved_numbers(message: Descriptor) -> set[int]:
    copy = DescriptorProto()  # a descriptor does not show its reserved ranges, its serialised form does
    message.CopyToProto(copy)
    return {number for part in copy.reserved_range for number in range(part.start, part.end)}


def spelled(type_text: str) -> str:
    """`repeateduint64`, as compared, with its space again."""
    return type_text.replace("repeated", "repeated ", 1) if type_text.startswith("repeated") else type_text


OURS = {message.full_name: message for message in our_messages()}


@pytest.mark.parametrize("name", sorted(TIKV.messages))
def test_message_agrees_with_the_published_format(name: str) -> None:
    described = {member: fact for member, fact in TIKV.messages[name].items() if TIKV.describes(spelled(fact.type))}
    left_out = {fact.number for member, fact in TIKV.messages[name].items() if member not in described}
    assert field_facts(OURS[name]) == described
    assert reserved_numbers(OURS[name]) == left_out


def test_no_message_or_enum_is_our_invention() -> None:
    assert set(OURS) == set(TIKV.messages)
    assert {enum.full_name for enum in our_enums()} == set(TIKV.enums)


def test_enum_values_agree_with_the_published_format() -> None:
    ours = {enum.full_name: {value.name: value.number for value in enum.values} for enum in our_enums()}
    assert ours == TIKV.enums


@pytest.mark.parametrize("service", SERVICES)
def test_rpcs_agree_with_the_published_format(service: str) -> None:
    def spell(full_name: str, *, streaming: bool) -> str:
        return f"stream {full_name}" if streaming else full_name

    published = {
        path: types
        for path, types in TIKV.rpcs.items()
        if path.startswith(f"/{service}/") and all(TIKV.describes(name) for name in types)
    }
    ours = {
        path: (
            spell(method.request_type.DESCRIPTOR.full_name, streaming=method.request_streaming),
            spell(method.response_type.DESCRIPTOR.full_name, streaming=method.response_streaming),
        )
        for path, method in service_methods(service).items()
    }
    assert ours == published


def test_every_published_service_is_ours() -> None:
    assert {path.split("/")[1] for path in TIKV.rpcs} == set(SERVICES)
    for name in SERVICES:
        assert POOL.FindServiceByName(name).full_name == name


def test_tinykv_differs_from_tikv_only_where_it_is_known_to() -> None:
    """A message that TinyKV spells differently needs a class of its own: these, and no others."""
    differing = {
        f"{message}.{member}"
        for message, members in TINYKV.messages.items()
        if message in TIKV.messages
        for member, fact in members.items()
        if not same_on_the_wire(fact, TIKV.messages[message].get(member))
    }
    assert differing == {
        "eraftpb.ConfState.nodes",
        "kvrpcpb.CheckTxnStatusRequest.current_ts",
        "kvrpcpb.CheckTxnStatusResponse.action",
        "kvrpcpb.CheckTxnStatusResponse.commit_version",
        "kvrpcpb.CheckTxnStatusResponse.lock_ttl",
        "kvrpcpb.RawScanRequest.cf",
        "kvrpcpb.RawScanResponse.error",
        "kvrpcpb.RawScanResponse.kvs",
    }
    assert TINYKV.enums["kvrpcpb.Op"]["Lock"] != TIKV.enums["kvrpcpb.Op"]["Lock"]


def test_health_messages_agree_with_grpcs_own() -> None:
    ours, theirs = FileDescriptorProto(), FileDescriptorProto()
    healthpb_pb2.DESCRIPTOR.CopyToProto(ours)
    health_pb2.DESCRIPTOR.CopyToProto(theirs)
    assert ours.package == theirs.package
    assert list(ours.message_type) == list(theirs.message_type)
    assert list(ours.service) == list(theirs.service)


def same_on_the_wire(one: Field, other: Field | None) -> bool:
    return other is not None and (one.number, one.type) == (other.number, other.type)
