"""The second half of the demonstration: questions, documents that change, and what that touches."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embercache import Client, Document
from rich.console import Console

from bench.report import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embercache import SearchResult

COLLECTION = "stdlib"
QUESTIONS = (
    "How can I read a compressed file line by line?",
    "a queue that gives the smallest item first",
    "measure how long a piece of code takes",
    "parse command line arguments",
    "send an email with an attachment",
    "split a path into folder and file name",
    "run a function in another thread and get its result",
    "compare two sequences and show what differs",
)
ASKED, REWORDED = "How can I count words in a text?", "How do I count the words in a text?"
NEW = Document(
    "demo.send_email",
    "Send an email with an attachment: builds the message, attaches the file and sends it.",
)
CONSOLE = Console(width=100, highlight=False)


@dataclass(frozen=True)
class Asked:
    """The answer to a question, and how long it took in milliseconds."""

    result: SearchResult
    milliseconds: float

    @property
    def took(self) -> str:
        """Both in short."""
        return f"{self.milliseconds:.1f} {self.result.tier}"


def demonstrate(address: str, corpus: Mapping[str, str]) -> None:
    """Searches the corpus: texts, and for each the name of what it documents."""
    documents = {
        name: Document(name, text, metadata={"package": name.partition(".")[0]})
        for text, name in corpus.items()
    }
    with Client(address, timeout=120) as client:
        _store(client, documents)
        before = _ask_all(client)
        rows = [
            (question, one.result.results[0].id, one.took, two.took)
            for question, one, two in zip(QUESTIONS, before, _ask_all(client), strict=True)
        ]
        print_table("", ("question", "best answer", "ms first", "ms again"), rows)
        _change(client, documents[before[0].result.results[0].id])
        _add(client)
        _reword(client)
        _rerank(client)


def _store(client: Client, documents: Mapping[str, Document]) -> None:
    began = time.perf_counter()
    outcomes = client.upsert(documents.values(), collection=COLLECTION)
    seconds = time.perf_counter() - began
    computed = sum(each.computed for each in outcomes)
    CONSOLE.print(
        f"\n[bold]Search[/]: the same docstrings as {len(outcomes):,} documents, stored in"
        f" {seconds:.1f} s. The model embedded {computed:,} of them; the other vectors were"
        " cached.\n"
    )


def _ask(client: Client, question: str, **options: Any) -> Asked:
    began = time.perf_counter()
    result = client.search(question, collection=COLLECTION, **options)
    return Asked(result, (time.perf_counter() - began) * 1000)


def _ask_all(client: Client) -> list[Asked]:
    return [_ask(client, question) for question in QUESTIONS]


def _change(client: Client, document: Document) -> None:
    changed = replace(document, content=f"{document.content}\n\nNew in this version.")
    client.upsert([changed], collection=COLLECTION)
    _print_fate(f"The document {document.id} changes.", _ask_all(client), document.id)


def _add(client: Client) -> None:
    client.upsert([NEW], collection=COLLECTION)
    _print_fate("A new document comes, about sending email.", _ask_all(client), NEW.id)


def _print_fate(what: str, asked: Sequence[Asked], document: str) -> None:
    """Tells which answers were computed again, and which of them have the document."""
    CONSOLE.print(f"\n{what} The questions, asked once more:", markup=False)
    rows = [
        (
            question,
            "yes" if any(hit.id == document for hit in each.result.results) else "",
            "kept" if each.result.tier == "hot" else "computed again",
            each.took,
        )
        for question, each in zip(QUESTIONS, asked, strict=True)
    ]
    print_table("", ("question", "has the document", "answer", "ms"), rows)


def _reword(client: Client) -> None:
    _ask(client, ASKED, semantic=True)
    asked = _ask(client, REWORDED, semantic=True)
    CONSOLE.print(f"\nA question in other words: {REWORDED}", markup=False)
    match = asked.result.semantic
    if match is None:
        CONSOLE.print("  was searched for: no question asked before is near enough.")
    else:
        CONSOLE.print(f"  answered as: {match.query} (cosine {match.similarity:.3f})", markup=False)


def _rerank(client: Client) -> None:
    first, again = (_ask(client, QUESTIONS[1], rerank=True) for _ in range(2))
    CONSOLE.print(
        f"\nReranked by {first.result.reranker}, 50 candidates: first {first.took} ms, again"
        f" {again.took} ms. Best: {first.result.results[0].id}",
        markup=False,
    )
