"""A Jinja environment for templates that came from elsewhere.

The sandbox of Jinja keeps a template from Python's internals and from changing its inputs, and
bounds ``range``. This one also bounds how long loops and recursion go on and how large the texts,
lists and numbers get that the template's own syntax builds. Not bounded is what one call of a
filter or of a string's method makes (``replace``, or ``center`` and ``format`` with a large width),
nor the text of a list that holds another one many times over: these can still take much memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.runtime import Context

MAX_SECONDS = 2.0
"""For one rendering. Ten thousand messages take a usual template 0.06 s."""
MAX_LENGTH = 16 << 20
"""Characters of a text, that of the whole output included, or elements of a list."""
MAX_BITS = 4096
"""Of an integer."""


class BoundError(SecurityError):
    """A template went too far. The message is fit for the caller."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates, and renders one at a time."""

    # "%" is left out: what it makes of a format cannot be told before.
    intercepted_binops = frozenset(["+", "*", "**"])

    def __init__(self, extensions: Sequence[type[Extension] | str]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self._deadline = 0.0

    def compile_bounded(self, source: str) -> tuple[Template, frozenset[str]]:
        """A template, and the texts that are written in it within expressions.

        Raises `jinja2.exceptions.TemplateSyntaxError`, and `RecursionError` if it nests too deeply.
        """
        tree = self.parse(source)
        texts = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        code = self.compile(_Bounding(self).visit(tree))
        template = self.template_class.from_code(self, code, self.make_globals(None))
        return template, frozenset(texts)

    def render_bounded(self, template: Template, variables: dict[str, Any]) -> str:
        """What a template of this environment makes of the variables.

        Raises `BoundError` if it goes too far, and whatever the template runs into.
        """
        self._deadline = time.monotonic() + MAX_SECONDS
        return template.render(variables)

    def check_time(self) -> None:
        """Called in every round of a loop and by every call of a macro."""
        if time.monotonic() > self._deadline:
            raise BoundError("it takes too long")

    def concat(self, parts: Iterable[str]) -> str:
        """Puts together the output of the template, or of a macro or block in it."""
        taken, length = [], 0
        for part in parts:
            length += len(part)
            if length > MAX_LENGTH:
                raise BoundError("it makes too long a text")
            taken.append(part)
        return "".join(taken)

    def join_values(self, *values: Any) -> str:
        """What the operator ``~`` does."""
        return self.concat(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluates an operator whose result is not too large."""
        if _is_large(operator, left, right):
            raise BoundError("it makes too large a value")
        return super().call_binop(context, operator, left, right)


class _Bounding(NodeTransformer):
    """Puts the checks into a parsed template."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        return self._checked(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._checked(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._checked(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("join_values", node.nodes, node.lineno)

    def _checked(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        check = self._call("check_time", [], node.lineno)
        node.body.insert(0, nodes.ExprStmt(check, lineno=node.lineno))
        return node

    def _call(self, method: str, values: list[nodes.Expr], line: int) -> nodes.Call:
        function = nodes.EnvironmentAttribute(method, lineno=line)
        call = nodes.Call(function, values, [], None, None, lineno=line)
        call.set_environment(self._environment)
        return call


def _is_large(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length()
        return bits + right.bit_length() > MAX_BITS
    if operator == "+":
        return _length(left) + _length(right) > MAX_LENGTH
    if operator == "*":
        return max(_length(left) * _times(right), _length(right) * _times(left)) > MAX_LENGTH
    return False


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _times(value: Any) -> int:
    return value if isinstance(value, int) else 0
