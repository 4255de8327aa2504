"""A Jinja environment for templates that came from elsewhere.

The sandbox of Jinja keeps a template from Python's internals and from changing its inputs, and
bounds ``range``. This one also bounds how long a rendering goes on and how much it makes: see
`sidecar.models.bounded_values`. A few filters and methods that can make much of little, and that
models' templates have no use for, are left out.
"""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from sidecar.models.bounded_values import BoundError, Budget, PlainNamespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.runtime import Context

MAX_SECONDS = 2.0
"""Of CPU, for one rendering. Ten thousand messages take a usual template 0.1 s."""
MAX_WALL_SECONDS = 30.0
"""For one rendering. Generous: a machine that is busy takes longer over what is sound."""
MAX_LENGTH = 16 << 20
"""Characters of a text, that of the whole output included, or elements of a list."""
MAX_BITS = 4096
"""Of an integer."""

_NO_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")
_NO_METHODS = ("format_map", "maketrans", "translate")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates, and renders one at a time."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, extensions: Sequence[type[Extension] | str]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self._cpu_deadline = self._deadline = math.inf
        self._budget = Budget()
        for name in _NO_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.globals["namespace"] = PlainNamespace

    def compile_bounded(self, source: str) -> tuple[Template, frozenset[str]]:
        """A template, and the texts that are written in it within expressions.

        Raises `jinja2.exceptions.TemplateSyntaxError`, and `RecursionError` if it nests too deeply.
        """
        for name, function in self.filters.items():
            self.filters[name] = self._bounded(name, function)
        self._budget = Budget()
        tree = self.parse(source)
        texts = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        code = self.compile(_Bounding(self).visit(tree))
        template = self.template_class.from_code(self, code, self.make_globals(None))
        return template, frozenset(texts)

    def render_bounded(self, template: Template, variables: dict[str, Any]) -> str:
        """What a template of this environment makes of the variables.

        Raises `BoundError` if it goes too far, and whatever the template runs into.
        """
        self._cpu_deadline = time.thread_time() + MAX_SECONDS
        self._deadline = time.monotonic() + MAX_WALL_SECONDS
        self._budget = Budget()
        try:
            return template.render(variables)
        finally:
            self._budget = Budget()

    def check_time(self) -> None:
        """Called in every round of a loop and by every call of a macro."""
        if time.thread_time() > self._cpu_deadline or time.monotonic() > self._deadline:
            raise BoundError("it takes too long")

    def note(self, value: Any) -> Any:
        """Called with every list, tuple or mapping that the template writes."""
        return self._budget.note(value)

    def concat(self, parts: Iterable[str]) -> str:
        """Puts together the output of the template, or of a macro or block in it."""
        taken, length = [], 0
        for part in parts:
            length += len(part)
            if length > MAX_LENGTH:
                raise BoundError("it makes too long a text")
            taken.append(part)
        text: str = self._budget.note("".join(taken))
        return text

    def join_values(self, *values: Any) -> str:
        """What the operator ``~`` does."""
        return self.concat(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluates an operator whose result is not too large."""
        if operator == "%" and isinstance(left, str):
            self._budget.before_percent(left, right)
        elif _is_large(operator, left, right):
            raise BoundError("it makes too large a value")
        size = self._budget.join(operator, left, right)
        return self._budget.note(super().call_binop(context, operator, left, right), size)

    def call(self, context: Context, function: Any, *arguments: Any, **options: Any) -> Any:
        """Calls a function, a macro or a method that does not make too much."""
        self.check_time()
        text, given = getattr(function, "__self__", None), list(arguments)
        if isinstance(text, str):
            if function.__name__ in _NO_METHODS:
                raise BoundError(f"it uses {function.__name__}")
            self._budget.before_method(text, function.__name__, given, options)
        return self._budget.note(super().call(context, function, *given, **options))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """What stands for the method ``format`` of a string."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        safe, text = wrapped, str(value.__self__)

        def format_bounded(*values: Any, **named: Any) -> str:
            self._budget.before_format(text, [*values, *named.values()])
            return safe(*values, **named)

        return format_bounded

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            self.check_time()
            given = list(arguments[first:])
            self._budget.before_filter(name, given, options)
            return self._budget.note(function(*arguments[:first], *given, **options))

        return call


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

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return self._noted(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return self._noted(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        # Else it is what values are assigned to.
        return self._noted(node) if node.ctx == "load" else self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("join_values", node.nodes, node.lineno)

    def _checked(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        check = self._call("check_time", [], node.lineno)
        node.body.insert(0, nodes.ExprStmt(check, lineno=node.lineno))
        return node

    def _noted(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return self._call("note", [node], node.lineno)

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
