"""The third part of the demonstration: questions about one long text, which is read only once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embercache import Client
from rich.console import Console

from bench.processes import sidecar
from bench.report import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embercache import Generated

PACK = "smollm2-135m"
# A small model answers best if it is shown how.
BEGIN = """{handbook}
Here are questions of visitors, and answers from the handbook.

Question: Who is the director?
Answer: The director is Samuel Okafor.

Question: What does scanning cost?
Answer: Scanning is free.

"""
ASK = "Question: {question}\nAnswer:"
FIRST = "Who founded the library?"
OTHERS = (
    "What was the building before?",
    "Where are the old maps?",
    "How do I become a volunteer?",
)
AFTER_RESTART = "How long does a tour take?"
_WHERE = {"hot": "memory", "warm": "Redis"}
CONSOLE = Console(width=100, highlight=False)


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and the milliseconds to its first piece and to its end."""

    question: str
    answer: Generated
    first_ms: float
    total_ms: float

    @property
    def source(self) -> str:
        """What did not have to be computed."""
        if self.answer.is_hit:
            return f"the whole answer, from {_WHERE[self.answer.tier]}"
        reused = self.answer.reused_tokens.items()
        kept = ", ".join(f"{count:,} from {_WHERE[tier]}" for tier, count in reused)
        return f"{kept or 'none'} of {self.answer.prompt_tokens:,} tokens"


def demonstrate(address: str, options: Sequence[str], environment: Mapping[str, str]) -> None:
    """Asks questions of a sidecar with these options, then of another one with the same Redis."""
    begin = BEGIN.format(handbook=Path(__file__).with_name("demo_handbook.txt").read_text("utf-8"))
    options = (*options, "--generator-packs", PACK, "--prefix-shared", "true")
    CONSOLE.print(
        "\n[bold]Generation[/]: a model of 135 million parameters answers questions about the same"
        f" {len(begin.split()):,} words.\n"
    )
    with sidecar(*options, environment=environment):
        asked = _ask_each(address, begin, (FIRST, *OTHERS, FIRST))
    CONSOLE.print("\n  The sidecar is started anew: its memory is empty.\n")
    with sidecar(*options, environment=environment):
        asked += _ask_each(address, begin, (AFTER_RESTART, FIRST))
    cold = asked[0].first_ms
    print_table(
        "",
        ("question", "cached", "ms to first token", "faster by", "ms to the end"),
        [
            (one.question, one.source, one.first_ms, f"{cold / one.first_ms:.0f}x", one.total_ms)
            for one in asked
        ],
    )


def _ask_each(address: str, begin: str, questions: Sequence[str]) -> list[Asked]:
    with Client(address, timeout=60) as client:
        client.generators()  # connects
        return [_ask(client, begin, question) for question in questions]


def _ask(client: Client, begin: str, question: str) -> Asked:
    """Shows the answer as it comes."""
    CONSOLE.print(f"  {question}", end="", style="bold", markup=False)
    began = time.perf_counter()
    first = 0.0
    stream = client.generate_stream(
        begin + ASK.format(question=question), max_tokens=64, temperature=0, stop=["\n"]
    )
    for piece in stream:
        first = first or time.perf_counter()
        CONSOLE.print(piece, end="", markup=False, soft_wrap=True)
    ended = time.perf_counter()
    CONSOLE.print()
    return Asked(question, stream.result, (first - began) * 1000, (ended - began) * 1000)
