"""Puts a conversation into the form in which a model was trained to read it."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols

from sidecar.models.bounded_jinja import BoundedEnvironment
from sidecar.models.bounded_values import BoundError
from sidecar.models.errors import SetupError
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import nodes
    from jinja2.parser import Parser

    from sidecar.models.generation import Message


class ChatTemplate:
    """A Jinja template as Hugging Face models have it, compiled once. Not thread-safe.

    It is given what ``apply_chat_template`` of transformers gives: ``messages``, the special tokens
    by their names, ``add_generation_prompt``, and no tools or documents. It may use ``tojson``,
    ``raise_exception``, ``strftime_now`` (local time), ``break``, ``continue`` and ``generation``
    blocks. It runs in a sandbox, within the bounds of `BoundedEnvironment`.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compiles the template; ``special_tokens`` maps names such as ``bos_token`` to tokens.

        Raises `SetupError` if it cannot be compiled.
        """
        self._environment = BoundedEnvironment([loopcontrols, _GenerationBlock])
        self._environment.filters["tojson"] = _to_json
        self._environment.globals["raise_exception"] = _raise_exception
        self._environment.globals["strftime_now"] = _strftime_now
        try:
            self._template, self._texts = self._environment.compile_bounded(source)
        except TemplateSyntaxError as error:
            raise SetupError(
                f"the model's chat template is not valid: line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # what a compiler may stumble upon is not known
            raise SetupError(
                f"the model's chat template cannot be compiled ({type(error).__name__}: {error})"
            ) from error
        self._variables = {**special_tokens, "tools": None, "documents": None}

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt after which the model says what the assistant says next.

        Raises `InputRejectedError` if the template refuses the conversation or fails on it. The
        message has no text of the conversation.
        """
        variables = self._variables | {
            "messages": [{"role": role, "content": content} for role, content in messages],
            "add_generation_prompt": True,
        }
        # Neither message nor cause of an error is passed on as it is: the template may have put
        # text of the user into it.
        try:
            return self._environment.render_bounded(self._template, variables)
        except _RefusedError as error:
            (message,) = error.args
            reason = f": {message}" if message in self._texts else ""
            raise InputRejectedError(
                f"the model's chat template refuses this conversation{reason}"
            ) from None
        except BoundError as error:
            raise InputRejectedError(
                f"the model's chat template does not get through this conversation: {error}"
            ) from None
        except Exception as error:  # whatever a template may run into
            raise InputRejectedError(
                "the model's chat template fails on this conversation"
                f" ({type(error).__name__}); try other roles, or send the prompt as text"
            ) from None


class _RefusedError(Exception):
    """A template called ``raise_exception``."""


def _raise_exception(message: object) -> None:
    raise _RefusedError(str(message))


def _strftime_now(form: str) -> str:
    if any(character.isdigit() for character in form):  # a width
        raise BoundError("it tells the time with a width")
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja's escapes for HTML, which a model would read as they are."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _GenerationBlock(Extension):
    """``{% generation %}``, which marks what the assistant said: of use only to training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
