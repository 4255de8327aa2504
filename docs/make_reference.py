"""Writes docs/reference.md from the contract in proto/.

python docs/make_reference.py
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs/reference.md"
_HEAD = """# gRPC: reference

Every service, message and value of `proto/embercache/v1`, with its comments. What matters most of
it is told in [The API](api.md).
"""
# The numbers of fields in descriptor.proto, of which paths to comments are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS, _METHODS, _VALUES = 2, 3, 4, 2, 2


class _File:
    """A file of the contract, and its comments."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._comments = {
            tuple(each.path): (each.leading_comments or each.trailing_comments).strip("\n")
            for each in file.source_code_info.location
        }
        self._file = file

    def lines(self) -> Iterator[str]:
        """What there is in it, line by line."""
        yield f"\n## {Path(self._file.name).name}\n"
        for number, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICES, number))
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, message.name, (_MESSAGES, number))
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, enum.name, (_ENUMS, number))

    def _service(self, service: ServiceDescriptorProto, path: Sequence[int]) -> Iterator[str]:
        yield f"\n### {service.name}\n"
        yield self._text(path)
        for number, method in enumerate(service.method):
            asked = ("stream " if method.client_streaming else "") + _link(method.input_type)
            said = ("stream " if method.server_streaming else "") + _link(method.output_type)
            yield f"\n#### {service.name}.{method.name}\n\n{asked} → {said}\n"
            yield self._text((*path, _METHODS, number))

    def _message(self, message: DescriptorProto, name: str, path: Sequence[int]) -> Iterator[str]:
        if message.options.map_entry:
            return
        yield f"\n### {name}\n"
        yield self._text(path)
        if message.field:
            yield "\n| field | type | |\n|---|---|---|"
        maps = {each.name: each for each in message.nested_type if each.options.map_entry}
        for number, field in enumerate(message.field):
            kind, text = _type(field, maps), self._cell((*path, _FIELDS, number))
            if field.HasField("oneof_index") and not field.proto3_optional:
                text = f"one of `{message.oneof_decl[field.oneof_index].name}`. {text}"
            yield f"| `{field.name}` | {kind} | {text} |"
        for number, nested in enumerate(message.nested_type):
            yield from self._message(nested, f"{name}.{nested.name}", (*path, _NESTED, number))
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.{enum.name}", (*path, _NESTED_ENUMS, number))

    def _enum(self, enum: EnumDescriptorProto, name: str, path: Sequence[int]) -> Iterator[str]:
        yield f"\n### {name}\n"
        yield self._text(path)
        yield "\n| value | |\n|---|---|"
        for number, value in enumerate(enum.value):
            yield f"| `{value.name}` = {value.number} | {self._cell((*path, _VALUES, number))} |"

    def _text(self, path: Sequence[int]) -> str:
        """A comment, with what it has lined up, statuses for one, as it is."""
        lines = [line.removeprefix(" ") for line in self._comments.get(tuple(path), "").split("\n")]
        text = "\n".join(lines)
        return re.sub(r"((?:^ {2,}.*\n?)+)", r"\n```text\n\1\n```\n", text, flags=re.MULTILINE)

    def _cell(self, path: Sequence[int]) -> str:
        text = " ".join(self._comments.get(tuple(path), "").split())
        return text.replace("|", "\\|").replace("<", "&lt;")


def text() -> str:
    """The page as it is now."""
    lines = (line for file in _files() for line in _File(file).lines())
    return re.sub(r"\n{3,}", "\n\n", _HEAD + "\n".join(lines)).rstrip() + "\n"


def _files() -> Iterator[FileDescriptorProto]:
    names = sorted((ROOT / "proto/embercache/v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        include = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"-o{out}"]
        if protoc.main([*arguments, "--include_source_info", *map(str, names)]):
            raise SystemExit("the contract cannot be read")
        yield from FileDescriptorSet.FromString(out.read_bytes()).file


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = (_type(each, {}) for each in entry.field)
        return f"map of {key} to {value}"
    if field.type_name:
        kind = _link(field.type_name)
    else:
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _link(name: str) -> str:
    """A type of the contract, as a link to where it is told."""
    own = name.removeprefix(".embercache.v1.")
    if own == name:
        return f"`{name.removeprefix('.')}`"
    return f"[{own}](#{own.lower().replace('.', '')})"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
