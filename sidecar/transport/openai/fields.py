"""The fields of a JSON object, each taken once and by its type."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NoReturn

from sidecar.transport.openai.errors import ApiError, bad_field

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_LARGEST_FLOAT = 3.4e38
# Names of fields are shown to the caller only if they can hardly be anything else.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_UNKNOWN = "is no field that is known here: leave it out"


class Fields:
    """A JSON object that is read strictly; ``path`` is where it is in the request.

    A field that is null counts as absent, as it does at OpenAI. Every method that takes a field
    returns None for one that is absent, and raises `ApiError` for one of another type.
    """

    def __init__(self, values: Mapping[str, object], path: str = "") -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def path(self, name: str) -> str:
        """Where a field is in the request."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> object | None:
        """A field of any type."""
        return self._values.pop(name, None)

    def text(self, name: str) -> str | None:
        """A string that UTF-8 can hold."""
        value = self.take(name)
        return None if value is None else text(value, self.path(name))

    def required_text(self, name: str) -> str:
        """A string that must be there and is not empty."""
        value = self.text(name)
        if not value:
            raise bad_field(self.path(name), "a string that is not empty must be given")
        return value

    def texts(self, name: str, most: int) -> list[str] | None:
        """A list of at most ``most`` strings."""
        values = self.items(name, most)
        if values is None:
            return None
        return [text(value, f"{self.path(name)}[{i}]") for i, value in enumerate(values)]

    def items(self, name: str, most: int) -> list[object] | None:
        """A list of at most ``most``."""
        value = self.take(name)
        return None if value is None else items(value, self.path(name), most)

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise bad_field(self.path(name), "give true or false")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number from ``low`` to ``high``."""
        value = self.take(name)
        return None if value is None else integer(value, self.path(name), low, high)

    def number(
        self, name: str, low: float = -_LARGEST_FLOAT, high: float = _LARGEST_FLOAT
    ) -> float | None:
        """A number from ``low`` to ``high``."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise bad_field(self.path(name), "give a number")
        # False for a NaN too.
        if not low <= value <= high:
            raise bad_field(self.path(name), f"give a number from {low:g} to {high:g}")
        return float(value)

    def fields(self, name: str) -> Fields:
        """An object; one without fields if it is absent."""
        return fields(self._values.pop(name, {}), self.path(name))

    def finish(
        self, ignored: Collection[str] = (), neutral: Mapping[str, tuple[object, ...]] | None = None
    ) -> None:
        """Raises `ApiError` if a field is left that is not ignored.

        ``neutral`` are fields for which there is nothing here; their values there ask for nothing.
        """
        neutral = neutral or {}
        for name, value in self._values.items():
            if name in ignored:
                continue
            if name not in neutral:
                if not _NAME.fullmatch(name):
                    raise ApiError(400, f"a field in {self._path or 'the request'} {_UNKNOWN}")
                raise bad_field(self.path(name), _UNKNOWN)
            if not any(_is_same(value, other) for other in neutral[name]):
                raise bad_field(
                    self.path(name), "this is not supported here, and the answer would be another"
                )


def read_object(data: bytes) -> Fields:
    """The object that a body holds. Raises `ApiError` if it holds anything else."""
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON in UTF-8: send an object") from None
    return fields(value, "")


def fields(value: object, path: str) -> Fields:
    """A value that must be an object. Raises `ApiError`."""
    if not isinstance(value, dict):
        if path:
            raise bad_field(path, "give an object")
        raise ApiError(400, "the body is not a JSON object")
    return Fields(value, path)


def items(value: object, path: str, most: int) -> list[object]:
    """A value that must be a list of at most ``most``. Raises `ApiError`.

    It is counted before anything is made of it: a small body can hold millions.
    """
    if not isinstance(value, list):
        raise bad_field(path, "give a list")
    if len(value) > most:
        raise bad_field(path, f"the list has {len(value)}, more than {most}")
    return value


def text(value: object, path: str) -> str:
    """A value that must be a string that UTF-8 can hold. Raises `ApiError`."""
    if not isinstance(value, str):
        raise bad_field(path, "give a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_field(path, "the string has half of a surrogate pair: send whole ones") from None
    return value


def integer(value: object, path: str, low: int, high: int) -> int:
    """A value that must be a whole number from ``low`` to ``high``. Raises `ApiError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad_field(path, f"give a whole number from {low} to {high}")
    return value


def _is_same(one: object, other: object) -> bool:
    # In Python, 0 is False too.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError
