"""The files that ghz reads: requests, and the descriptors of the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import embed_pb2, generate_pb2, search_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from bench.ghz.scenarios import FOLDER, SCENARIOS, Calls, Scenario, draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.descriptor import FileDescriptor

DATA = FOLDER / "data"


def write_files(texts: Sequence[str]) -> Mapping[Scenario, Calls]:
    """Writes the files that the settings name; returns what is in them."""
    _write("embercache.protoset", protoset().SerializeToString())
    calls = {scenario: draw(scenario, texts) for scenario in SCENARIOS}
    for scenario, drawn in calls.items():
        _write(f"{scenario.name}.bin", delimited(drawn.messages))
    return calls


def delimited(messages: Iterable[bytes]) -> bytes:
    """The messages one after the other, each behind its length as a varint."""
    return b"".join(_varint(len(message)) + message for message in messages)


def protoset() -> FileDescriptorSet:
    """The services and all they need, so that ghz asks no server what they look like."""
    found = FileDescriptorSet()
    for module in (embed_pb2, search_pb2, generate_pb2):
        _add(found, module.DESCRIPTOR)
    return found


def _add(found: FileDescriptorSet, file: FileDescriptor) -> None:
    """Adds a file after those that it imports."""
    for imported in file.dependencies:
        _add(found, imported)
    if all(each.name != file.name for each in found.file):
        found.file.append(FileDescriptorProto.FromString(file.serialized_pb))


def _write(name: str, content: bytes) -> None:
    """Leaves a file alone that is right: another run may be reading it."""
    file = DATA / name
    if not file.is_file() or file.read_bytes() != content:
        file.write_bytes(content)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
