"""What a template may make in one rendering: bytes of memory, and structures that can be looked at.

Jinja's filters and the methods of strings are C or plain Python: once one of them is under way,
nothing stops it. So what it will make is estimated before.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_MADE = 512 << 20
"""Bytes that one rendering makes in all, and of one structure with all that is in it."""
MAX_NUMBER = 10**6
"""That is given to a filter or a method: a width, a count."""

_OBJECT_BYTES = 64
_MAX_PRECISION = 100
_MAX_INDENT = 16
# A width or precision that is a large number, or is given with the values.
_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[^a-zA-Z%]*(\*|\d{5})")
_WIDE_BRACES = re.compile(r"\{[^{}]*(\{|\d{5})")


class BoundError(SecurityError):
    """A template went too far. The message is fit for the caller."""


class PlainNamespace(Namespace):
    """Jinja's namespace, but its text has nothing of what is in it."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Budget:
    """What one rendering may still make."""

    def __init__(self) -> None:
        self._left = MAX_MADE
        # The object, so that no other one gets its id, and its size with all that is in it.
        self._sizes: dict[int, tuple[object, int]] = {}

    def take(self, n_bytes: int) -> None:
        """Takes note of memory. Raises `BoundError` if there is too much of it."""
        self._left -= n_bytes
        if self._left < 0:
            raise BoundError("it makes too large a value")

    def note(self, value: Any, size: int | None = None) -> Any:
        """Takes note of a value that was made, and returns it; of a list with its size, if known.

        Raises `BoundError`.
        """
        if isinstance(value, str):
            self.take(sys.getsizeof(value))
        elif isinstance(value, (list, tuple, dict)):
            self.take(_OBJECT_BYTES + 8 * len(value))
            if size is None:
                self.size(value)
            else:
                self._sizes[id(value)] = (value, size)
        return value

    def size(self, value: Any) -> int:
        """About the length of a value's text, with all that is in it. Raises `BoundError`."""
        if isinstance(value, str):
            return sys.getsizeof(value)
        if not isinstance(value, (list, tuple, dict)):
            return _OBJECT_BYTES
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1]
        parts: Iterable[Any] = value
        if isinstance(value, dict):
            parts = (part for pair in value.items() for part in pair)
        size = _OBJECT_BYTES + sum(map(self.size, parts))
        if size > MAX_MADE:
            raise BoundError("it makes too large a value")
        self._sizes[id(value)] = (value, size)
        return size

    def join(self, operator: str, left: Any, right: Any) -> int | None:
        """The size of what adds two lists, or repeats one, before it is there; None for others."""
        if operator == "+" and isinstance(left, (list, tuple)):
            size = self.size(left) + self.size(right)
        elif operator == "*" and isinstance(left, (list, tuple)) and isinstance(right, int):
            size = self.size(left) * right
        elif operator == "*" and isinstance(right, (list, tuple)) and isinstance(left, int):
            size = self.size(right) * left
        else:
            return None
        if size > MAX_MADE:
            raise BoundError("it makes too large a value")
        return size

    def before_filter(self, name: str, arguments: list[Any], options: Mapping[str, Any]) -> None:
        """Takes note of what a filter will make; ``arguments`` are the value and its own."""
        self._check_numbers([*arguments, *options.values()])
        value, rest = arguments[0], arguments[1:]
        if name in ("replace", "join", "indent", "format"):
            if name == "join":
                # To be measured it has to be there.
                value = arguments[0] = list(value)
            self._before_text(name, value, [*rest, *options.values()])
        elif name == "tojson":
            indents = [each for each in (options.get("indent"), *rest[1:2]) if each is not None]
            if not all(isinstance(each, int) and each <= _MAX_INDENT for each in indents):
                raise BoundError("it indents too far")
            self.take(self.size(value) * (1 + max([0, *indents])))
        elif name == "round" and any(
            isinstance(each, int) and abs(each) > _MAX_PRECISION
            for each in (*rest, *options.values())
        ):
            raise BoundError("it makes too large a value")
        elif name == "sum" and any(
            isinstance(each, (list, tuple)) for each in (*rest, *options.values())
        ):
            raise BoundError("it adds lists")
        elif name == "list" and isinstance(value, str):
            self.take(8 * len(value))

    def before_method(
        self, text: str, name: str, arguments: list[Any], options: Mapping[str, Any]
    ) -> None:
        """Takes note of what a string's method will make."""
        values = [*arguments, *options.values()]
        self._check_numbers(values)
        if name == "join" and arguments:
            # To be measured it has to be there.
            arguments[0] = list(arguments[0])
            self._before_text(name, arguments[0], [text])
        elif name == "replace":
            self._before_text(name, text, values)
        elif name == "expandtabs":
            self.take(text.count("\t") * max([8, *(n for n in values if isinstance(n, int))]))
        elif name in ("split", "rsplit", "splitlines"):
            separator = next((each for each in values if isinstance(each, str)), "")
            pieces = text.count(separator) if separator else len(text) // 2
            self.take(_OBJECT_BYTES * pieces)

    def before_percent(self, text: str, values: Any) -> None:
        """Takes note of what ``text % values`` will make."""
        if _WIDE_PERCENT.search(text):
            raise BoundError("it makes too wide a text")
        self.take(text.count("%") * (self.size(values) + 10**5))

    def before_format(self, text: str, values: Sequence[Any]) -> None:
        """Takes note of what ``text.format`` will make."""
        if _WIDE_BRACES.search(text):
            raise BoundError("it makes too wide a text")
        self.take(text.count("{") * (sum(map(self.size, values)) + 10**5))

    def _before_text(self, name: str, value: Any, rest: Sequence[Any]) -> None:
        if name == "join":
            between = max([0, *(len(each) for each in rest if isinstance(each, str))])
            self.take(self.size(value) + between * len(value))
        elif name == "replace":
            old, new, *_ = map(str, [*rest, "", ""])
            self.take(str(value).count(old) * len(new) * 4)
        elif name == "indent":
            widths = [each if isinstance(each, int) else len(str(each)) for each in rest]
            self.take(len(str(value).splitlines()) * max([4, *widths]))
        else:
            self.before_percent(str(value), tuple(rest))

    def _check_numbers(self, values: Iterable[Any]) -> None:
        if any(isinstance(each, int) and abs(each) > MAX_NUMBER for each in values):
            raise BoundError("it makes too large a value")
