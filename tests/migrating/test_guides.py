"""Each migration guide's two programs run, mean the same, and leave each other alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Move:
    """A guide, and what is to be known of its peer.

    ``port`` is that of its server in the page. ``before`` and ``after`` say whether the program
    needs the peer's packages, ``keeps`` what keeps the old entries.
    """

    heading: str
    peer: str
    port: int = 0
    before: bool = True
    after: bool = False
    keeps: str = ""


MOVES = (
    Move("RedisVL EmbeddingsCache", "redisvl", after=True, keeps="redis"),
    Move("LangChain CacheBackedEmbeddings", "langchain", after=True, keeps="redis"),
    Move("GPTCache", "gptcache", keeps="file"),
    Move("LiteLLM proxy", "litellm", port=4000, after=True, keeps="redis"),
    Move("Triton response cache", "triton", port=8001, keeps="server"),
    Move("sentence-transformers", "sentence-transformers"),
    Move("llama-cpp-python's server", "llama-cpp", port=8000, before=False),
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("move", [pytest.param(move, id=move.peer) for move in MOVES])
def test_both_programs_mean_the_same_and_neither_computes_twice(
    move: Move,
    guide_of: Callable[[str], Any],
    python_of: Callable[[str], str],
    peer_server: Callable[..., str],
    start_sidecar: Callable[[str], Any],
    common_sidecar: Any,
    addresses: Any,
    asked: Callable[[str], Any],
    keys: Callable[[], set[bytes]],
    run: Callable[..., dict[str, Any]],
) -> None:
    guide = guide_of(move.heading)
    python = python_of(move.peer)
    if move.port:
        settings = addresses("".join(guide.settings[:1]))
        addresses.set(
            f"127.0.0.1:{move.port}", peer_server(move.peer, python, guide.commands, settings)
        )
    addresses.set("127.0.0.1:50552", common_sidecar.openai)
    sidecar = start_sidecar(guide.settings[1]) if guide.settings else common_sidecar
    before, after = map(addresses, guide.programs)
    python_before = python if move.before else sys.executable
    python_after = python if move.after else sys.executable

    others = keys()
    old = run(python_before, before)
    old_keys = keys() - others
    sidecar.forget()
    cold = sidecar.computed()
    new = run(python_after, after, EMBERCACHE_ADDRESS=sidecar.address)
    warm = sidecar.computed()
    again = run(python_after, after, EMBERCACHE_ADDRESS=sidecar.address)
    assert sidecar.computed() == warm != cold
    asked_before = asked(before)
    back = run(python_before, before)

    if move.keeps:
        assert asked(before) == asked_before
    assert bool(old_keys) == (move.keeps == "redis")
    assert old_keys <= keys()
    _assert_alike(old, new)
    assert new == again
    _assert_alike(old, back)


@pytest.mark.timeout(300)
def test_the_sidecar_stands_before_the_gateway_as_well(
    guide_of: Callable[[str], Any],
    python_of: Callable[[str], str],
    peer_server: Callable[..., str],
    start_sidecar: Callable[[str], Any],
    addresses: Any,
    run: Callable[..., dict[str, Any]],
) -> None:
    guide, python = guide_of("LiteLLM proxy"), python_of("litellm")
    without_cache = addresses(guide.settings[0].partition("litellm_settings")[0])
    gateway = peer_server("litellm", python, guide.commands, without_cache)
    addresses.set("127.0.0.1:4000", gateway)
    sidecar = start_sidecar(guide.settings[2])
    direct, cached = (run(python, addresses(program)) for program in guide.programs)
    computed = sidecar.computed()
    assert run(python, addresses(guide.programs[1])) == cached
    assert sidecar.computed() == computed
    _assert_alike(direct, cached)


def _assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same directions, or two answers."""
    assert one.keys() == other.keys() != set()
    if "answer" in one:
        assert one["answer"].strip()
        assert other["answer"].strip()
        return
    left, right = np.array(one["vectors"]), np.array(other["vectors"])
    assert left.shape == right.shape == (2, 384)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    assert ((left * right).sum(axis=1) / lengths > 0.999).all()


def test_every_guide_of_the_page_is_tested(headings: list[str]) -> None:
    assert set(headings) == {move.heading for move in MOVES}
