"""What the models say, computed in this process, without a cache and one by one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.models.generation import Generation, GenerationRequest, Sampling
from sidecar.models.local import LocalEmbedder
from sidecar.models.local_generator import LocalGenerator
from sidecar.models.prefixes import Prefixes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Vector = Any
_PREFIX_BYTES = 2**28


@dataclass(frozen=True)
class Prompt:
    """A generation to ask for. The answer is the same each time: greedy, or with a seed."""

    text: str
    max_tokens: int
    seed: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For ``generate`` of the client."""
        sampled = {} if self.seed is None else {"temperature": 0.8, "seed": self.seed}
        return {"max_tokens": self.max_tokens, **sampled}

    @property
    def sampling(self) -> Sampling:
        """For a generator."""
        if self.seed is None:
            return Sampling(max_tokens=self.max_tokens)
        # As it travels: a float of 32 bits.
        temperature = float(np.float32(0.8))
        return Sampling(max_tokens=self.max_tokens, temperature=temperature, seed=self.seed)


@dataclass(frozen=True)
class Said:
    """What a generator says to a prompt."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Truth:
    """``vectors`` of texts, float32, and what is ``said`` to prompts."""

    vectors: dict[str, NDArray[np.float32]]
    said: dict[Prompt, Said]

    def cosine(self, query: str, text: str) -> float:
        """Of the vectors of two texts."""
        a, b = (self.vectors[each].astype(np.float64) for each in (query, text))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


async def compute(
    minilm: Path, texts: Sequence[str], generator: Path, prompts: Sequence[Prompt]
) -> Truth:
    """Runs the models, each prompt without what was kept of the others."""
    embedder = await asyncio.to_thread(
        LocalEmbedder.load,
        minilm,
        minilm.name,
        provider="cpu",
        threads=1,
        batch_tokens=1,
        queue_inputs=100_000,
    )
    vectors = {
        text: (await future).vector
        for text, future in zip(texts, embedder.submit(texts), strict=True)
    }
    await embedder.close()
    return Truth(vectors, await _say(generator, prompts))


class _Scope:
    """Names the blocks of prompts."""

    def key(self, parent: bytes, tokens: bytes) -> bytes:
        return blake2b(parent + tokens, digest_size=16).digest()


async def _say(folder: Path, prompts: Sequence[Prompt]) -> dict[Prompt, Said]:
    prefixes = Prefixes(_PREFIX_BYTES)
    generator = await asyncio.to_thread(
        LocalGenerator.load, folder, folder.name, prefixes=prefixes, provider="cpu", threads=1
    )
    said = {}
    for prompt in prompts:
        generation = Generation()
        request = GenerationRequest(
            prompt.text, prompt.sampling, _Scope(), reads_prefix=False, keeps_prefix=False
        )
        generator.start(request, generation)
        completion = await generation
        said[prompt] = Said(
            "".join(piece.text for piece in completion.pieces),
            tuple(token for piece in completion.pieces for token in piece.tokens),
        )
    await generator.close()
    await prefixes.close()
    return said
