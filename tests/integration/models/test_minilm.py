"""The built-in model against golden vectors from sentence-transformers; see make_golden.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.models.errors import SetupError
from sidecar.models.local import LocalEmbedder
from sidecar.models.manifest import sha256
from sidecar.models.minilm_graph import build_minilm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.models.types import Embedded

with np.load(Path(__file__).with_name("golden.npz")) as _golden:
    TEXTS = [str(text) for text in _golden["texts"]]
    VECTORS = _golden["vectors"]


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


async def test_a_vector_does_not_depend_on_its_batch_mates(minilm: LocalEmbedder) -> None:
    alone = [(await embed(minilm, text))[0].vector for text in TEXTS]
    runs = minilm.counters.batches
    together = [embedded.vector for embedded in await embed(minilm, *TEXTS)]
    assert minilm.counters.batches - runs < len(TEXTS)
    for one, other in zip(alone, together, strict=True):
        assert one @ other >= 0.99999
        np.testing.assert_allclose(one, other, atol=1e-6)


async def test_vectors_are_of_unit_length(minilm: LocalEmbedder) -> None:
    for embedded in await embed(minilm, *TEXTS):
        assert np.linalg.norm(embedded.vector) == pytest.approx(1, abs=1e-6)


async def test_texts_longer_than_256_tokens_are_truncated(minilm: LocalEmbedder) -> None:
    found = await embed(minilm, "word " * 254, "word " * 255)
    assert [(e.tokens, e.truncated) for e in found] == [(256, False), (256, True)]
    np.testing.assert_allclose(found[0].vector, found[1].vector, atol=1e-6)


def test_info_is_that_of_the_model(minilm_folder: Path) -> None:
    info = LocalEmbedder.load(minilm_folder, "minilm", provider="cpu").info
    assert (info.dimensions, info.max_tokens, info.runs_on) == (384, 256, "cpu")
    assert (info.accepts_text, info.accepts_tensor, info.prompts) == (True, False, {})


def test_the_graph_is_built_to_the_same_bytes_everywhere(minilm_folder: Path) -> None:
    """All sidecars have to find the same model version, which is a digest of these bytes."""
    assert sha256(minilm_folder / "model.onnx") == (
        "0b4b33c7f164fd03ff05aea060272e30d9c016a5b646a0a1668e464203e7dca4"
    )


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(SetupError, match=r"model.safetensors: has no weight .*; it is another"):
        build_minilm(tmp_path)
