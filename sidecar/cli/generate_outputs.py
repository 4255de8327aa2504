"""Shows what ``embercache generate`` generated."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from sidecar.cli.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embercache import Generated

# What a terminal obeys rather than shows (C0, DEL and C1), and what would turn the order of the
# text around it. Written so that they are right in JSON too.
_ESCAPED = {
    code: f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def printable(text: str) -> str:
    """The text, which may come from anywhere, so that it cannot control a terminal."""
    return text.translate(_ESCAPED)


@contextlib.contextmanager
def open_text() -> Iterator[Callable[[str], None]]:
    """What to call with each piece of a text: it is written at once, and its last line ended.

    Where standard output is no terminal, the text is written as it is, in UTF-8.
    """
    is_terminal = sys.stdout.isatty()
    last = "\n"

    def write(piece: str) -> None:
        nonlocal last
        sys.stdout.buffer.write((printable(piece) if is_terminal else piece).encode())
        sys.stdout.buffer.flush()
        last = piece[-1:]

    try:
        yield write
    finally:
        if last != "\n":
            write("\n")


def as_json(result: Generated) -> str:
    """All that is known of it, as one JSON object."""
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
    return printable(text) if sys.stdout.isatty() else text


def summary(result: Generated, first_seconds: float | None) -> str:
    """What answered, and how fast; ``first_seconds`` went by until there was text, if any came."""
    parts = [_answered(result)]
    if first_seconds is not None:
        parts.append(f"first text after {first_seconds * 1000:,.1f} ms")
    if not result.is_hit and result.prompt_tokens:
        parts.append(_reused(result))
    parts.append(counted(result.completion_tokens, "token") + _rate(result))
    parts.append(f"finish reason: {result.finish_reason}")
    return f"{result.model}: {'; '.join(parts)}"


def _answered(result: Generated) -> str:
    answered = f"from the {result.tier} tier, {result.age:,.0f} s old"
    if not result.is_hit:
        answered = result.tier
    if result.similarity is not None:
        answered += f", the answer to another prompt, of similarity {result.similarity:.4f}"
    return answered


def _reused(result: Generated) -> str:
    reused = result.reused_tokens
    line = f"{sum(reused.values()):,} of {result.prompt_tokens:,} tokens of the prompt reused"
    if reused:
        line += f" ({', '.join(f'{count:,} {tier}' for tier, count in reused.items())})"
    return line


def _rate(result: Generated) -> str:
    """Tokens a second after the first; nothing if this call did not generate them."""
    seconds = result.timings.total - result.timings.first_token
    after_first = result.completion_tokens - 1
    return f" at {after_first / seconds:,.1f}/s" if seconds > 0 and after_first > 0 else ""
