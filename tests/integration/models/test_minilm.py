"""The built-in model against golden vectors from sentence-transformers; see make_golden.py."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.models.local import LocalEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.models.types import Embedded

with np.load(Path(__file__).with_name("golden.npz")) as _golden:
    TEXTS = [str(text) for text in _golden["texts"]]
    VECTORS = _golden["vectors"]


@pytest.fixture(scope="module")
def loaded(minilm_folder: Path) -> LocalEmbedder:
    return LocalEmbedder.load(minilm_folder, "minilm", provider="cpu")


@pytest.fixture
async def minilm(minilm_folder: Path) -> AsyncIterator[LocalEmbedder]:
    embedder = LocalEmbedder.load(minilm_folder, "minilm", provider="cpu")
    yield embedder
    await embedder.close()


async def embed(embedder: LocalEmbedder, *texts: str) -> list[Embedded]:
    return await asyncio.gather(*embedder.submit(texts))


async def test_each_text_alone_gets_the_reference_vector(minilm: LocalEmbedder) -> None:
    for text, reference in zip(TEXTS, VECTORS, strict=True):
        (embedded,) = await embed(minilm, text)
        assert embedded.vector @ reference >= 0.9999


async def test_all_texts_together_get_the_reference_vectors_in_order(
    minilm: LocalEmbedder,
) -> None:
    for embedded, reference in zip(await embed(minilm, *TEXTS), VECTORS, strict=True):
        assert embedded.vector @ reference >= 0.9999
