"""Requests that are wrong, or ask for what is not there: every way that the contract documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from embercache.v1 import search_pb2
from onnx import TensorProto, helper

from tests.e2e.statuses.plain import PLAIN
from tests.e2e.statuses.requests import embed
from tests.e2e.statuses.scenario import check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

# Room for 256 tokens of each generator.
PREFIX_BYTES = 2 * 300_000


@pytest.fixture
def pairs_pack(save_graph: Any, tiny_pack: Path, tmp_path: Path) -> Path:
    """A cross-encoder that reads eight characters of query and passage together."""
    folder = tmp_path / "pairs"
    text = (TensorProto.INT64, ["batch", "sequence"])
    save_graph(
        folder / "model.onnx",
        [
            helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["numbers", "mask"], ["masked"]),
            helper.make_node("ReduceMean", ["masked", "axis"], ["logits"], keepdims=1),
        ],
        dict.fromkeys(("input_ids", "attention_mask"), text),
        {"logits": (TensorProto.FLOAT, ["batch", 1])},
        {"axis": np.array([1], np.int64)},
    )
    (folder / "tokenizer.json").write_bytes((tiny_pack / "tokenizer.json").read_bytes())
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    return folder


async def test_what_is_wrong_with_a_request_is_told_with_what_to_do(
    start: Start,
    tiny_pack: Path,
    tensor_pack: Path,
    pairs_pack: Path,
    make_decoder: Callable[..., Path],
    tmp_path: Path,
    subtests: pytest.Subtests,
) -> None:
    generators = {
        "small": make_decoder("growing"),
        "bare": make_decoder("growing", tokenizer_config={}),
    }
    for name, folder in generators.items():
        (tmp_path / name).symlink_to(folder)
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"quotas": {"spent": {"items_per_second": 1e-3}}}))
    sidecar = await start(
        packs=[tiny_pack, tensor_pack],
        model={
            "packs": [str(tiny_pack), str(tensor_pack)],
            "rerankers": ["maxsim", str(pairs_pack)],
            "provider": "cpu",
            "threads": 1,
        },
        generator={"packs": [str(tmp_path / name) for name in generators], "max_tokens": 2},
        prefix={"max_bytes": PREFIX_BYTES},
        server={
            "address": "127.0.0.1:0",
            "max_message_bytes": 2048,
            "max_batch_items": 4,
            "max_text_bytes": 1000,
        },
        access={"policy_file": str(policy)},
    )
    for number in range(3):
        document = {"id": str(number), "chunks": [{"content": "x" * 900}]}
        await sidecar.searches.Upsert(
            search_pb2.UpsertRequest(documents=[document], namespace="full")
        )
    await sidecar.embeds.Embed(embed("anything", namespace="spent"))
    await check(sidecar.channel, PLAIN, subtests)
