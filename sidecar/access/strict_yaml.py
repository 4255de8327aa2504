"""YAML in which no key of a mapping is written twice: of two, a reader takes either for the one."""

from __future__ import annotations

from typing import Any

import yaml


class StrictYamlError(ValueError):
    """A text is not such YAML. The message says where, and quotes nothing."""


def load_strict(text: str) -> object:
    """What a text says. Raises `StrictYamlError`."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - it is a safe loader
    except _DuplicateKeyError as error:
        raise StrictYamlError(f"a key is written twice{_place(error)}") from None
    except yaml.YAMLError as error:
        raise StrictYamlError(f"it is not YAML{_place(error)}") from None
    except Exception:
        # Values that are not of the type that their tag says raise whatever Python does of them.
        raise StrictYamlError("it is not YAML: a value is not what its tag says") from None


class _DuplicateKeyError(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Here, since later the keys that ``<<`` merges stand among those that were written."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                written = (key.tag, key.value)
                if written in seen:
                    raise _DuplicateKeyError(problem_mark=key.start_mark)
                seen.add(written)
        return node


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
