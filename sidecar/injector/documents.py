"""Documents of a YAML or JSON text, each as it is written and as it is meant.

Every scalar of a document that changes is written as it was, quotes and all: readers of YAML differ
in what ``0644``, ``1e3``, ``12:30`` or ``y`` are, and only the one that gets the text decides.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sidecar.injector.patch import apply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.injector.patch import Operation

    _Fastest = yaml.SafeLoader
else:
    # In C, if it was built with that; it reads megabytes of definitions in a second.
    _Fastest = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# At the beginning of a line this is always the mark between documents, even within a block scalar.
_MARK = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_HEAD = re.compile(r"(---[ \t]*(#.*)?(\r?\n|$))?([ \t]*(#.*)?\r?\n)*")
# Text that no reader takes for anything but text, unless it is one of the words.
_PLAIN_TEXT = re.compile(r"[A-Za-z/][A-Za-z0-9_./:-]*(?<!:)")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

# YAML takes it for the end of a line unless it is escaped.
_NEXT_LINE = "\x85"


class DocumentError(Exception):
    """A text that is neither YAML nor JSON. The message names the line."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    ``text`` is all of it, from the mark before it on. ``line`` is where it begins, from 1.
    ``value`` is its JSON.
    """

    text: str
    line: int
    value: Any
    is_json: bool

    def patched(self, operations: Iterable[Operation]) -> str:
        """Its text, as YAML, with changes. Comments at the beginning stay, others are lost."""
        head = _HEAD.match(self.text)
        kept = head[0] if head else ""
        mark = "" if kept.startswith("---") else "---\n"
        written = self.value if self.is_json else yaml.load(self.text, Loader=_Written)  # noqa: S506
        body = yaml.dump(
            apply(written, operations),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=float("inf"),
        )
        return f"{mark}{kept}{body}"


def read_documents(text: str) -> list[Document]:
    """The documents of a text. Raises `DocumentError`."""
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] in ("{", "["):
        try:
            return list(_json_documents(text))
        except ValueError:
            pass  # Flow style of YAML begins like JSON.
    starts = [0, *(match.start() for match in _MARK.finditer(text)), len(text)]
    return [
        _yaml_document(text[start:end], 1 + text.count("\n", 0, start))
        for start, end in itertools.pairwise(starts)
        if text[start:end].strip()
    ]


def _json_documents(text: str) -> Iterator[Document]:
    decoder, position = json.JSONDecoder(), 0
    while rest := text[position:].lstrip():
        start = len(text) - len(rest)
        value, position = decoder.raw_decode(text, start)
        line = 1 + text.count("\n", 0, start)
        yield Document(f"---\n{text[start:position]}\n", line, value, is_json=True)


def _yaml_document(text: str, line: int) -> Document:
    try:
        value = _meant(text)
        # Turns dates into text, and refuses what contains itself.
        value = json.loads(json.dumps(value, default=str))
    except yaml.MarkedYAMLError as error:
        place = line + (error.problem_mark.line if error.problem_mark else 0)
        raise DocumentError(f"line {place}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise DocumentError(f"the document at line {line} is not YAML of an object") from None
    return Document(text, line, value, is_json=False)


def _meant(text: str) -> Any:
    loader = _Meant(text)
    try:
        node = loader.get_single_node()
        _refuse_twins(node, set())
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _refuse_twins(node: yaml.Node | None, seen: set[int]) -> None:
    """Keys that are given twice are an error: others silently take the last."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twins(item, seen)
        return
    keys: set[str] = set()
    for key, value in node.value:
        if key.value in keys and key.value != "<<":
            raise yaml.constructor.ConstructorError(
                None, None, f"{key.value!r} is there twice", key.start_mark
            )
        keys.add(key.value)
        _refuse_twins(value, seen)


class _Meant(_Fastest):
    """Keys are text, as in JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


class _Scalar(str):
    """A scalar as it is written, with its tag and style."""

    __slots__ = ("style", "tag")

    tag: str
    style: str | None


class _Written(yaml.SafeLoader):
    """Leaves scalars as they are written."""


def _construct_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> _Scalar:
    scalar = _Scalar(node.value)
    scalar.tag, scalar.style = node.tag, node.style
    return scalar


for _tag in ("str", "int", "float", "bool", "null", "timestamp", "binary"):
    _Written.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct_scalar)


class _Dumper(yaml.SafeDumper):
    """Writes scalars as they were written, and text of ours so that it is read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        """An alias would change wherever the original does."""
        return True


def _represent_scalar(dumper: yaml.SafeDumper, scalar: _Scalar) -> yaml.ScalarNode:
    return dumper.represent_scalar(scalar.tag, scalar, style=scalar.style)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text and _NEXT_LINE not in text else '"'
    if _PLAIN_TEXT.fullmatch(text) and text.lower() not in _WORDS:
        style = ""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(_Scalar, _represent_scalar)
_Dumper.add_representer(str, _represent_text)
