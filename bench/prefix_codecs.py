"""What storing prefixes with fewer bits does to answers: tokens over gRPC, and first-token KL.

A sidecar with each codec stores the beginnings of prompts in Redis, and a new one goes on from
there. The answers are compared with those that were generated without any cache.
"""

from __future__ import annotations

import tempfile
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from embercache.v1 import common_pb2

from bench.prefix_calls import generating
from bench.report import print_table
from sidecar.dev_redis import DevRedis
from sidecar.models.decoder import Decoder
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.prefix_codec import decode_block, encode_block

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.prefix_texts import Texts
    from sidecar.models.prefix_codec import PrefixCodec
    from sidecar.models.prefix_store import Block

BEGIN, END, ANSWER = 256, 32, 32
_BLOCK = 16
_NAME = b"a block"


def measure(
    texts: Texts, prompts: int, codecs: Sequence[PrefixCodec], pack: Path
) -> dict[str, Any]:
    """Prints the table; returns the figures for the JSON file.

    Raises `RuntimeError` if the codec that is exact is not.
    """
    pairs = [(texts.take(BEGIN), texts.take(END)) for _ in range(prompts)]
    with tempfile.TemporaryDirectory() as folder:
        with generating(folder) as client:
            expected = [client.stream(b + e, ANSWER, bypass=True).tokens for b, e in pairs]
        same = {codec: _same(folder, codec, pairs, expected) for codec in codecs}
    kl, block_bytes = _divergences(texts, pairs, codecs, pack)
    print_table(
        f"{prompts} prompts of {BEGIN + END} tokens, {BEGIN} from Redis; answers of {ANSWER}",
        ("prefix.codec", "answers the same", "mean KL of the first token", "bytes a token"),
        [(c, f"{same[c]:.0%}", kl[c], round(block_bytes[c] / _BLOCK)) for c in codecs],
    )
    if same["exact"] < 1:
        raise RuntimeError("with the codec that is exact, answers differ from those without cache")
    return {"same_answers": same, "first_token_kl": kl, "stored_block_bytes": block_bytes}


def _same(
    folder: str,
    codec: PrefixCodec,
    pairs: Sequence[tuple[str, str]],
    expected: Sequence[tuple[int, ...]],
) -> float:
    """The share of answers that are what they are without cache, token for token."""
    options = ("--prefix-shared=true", f"--prefix-codec={codec}")
    with DevRedis() as redis:
        environment = {"EMBERCACHE_REDIS_URL": redis.url}
        with generating(folder, *options, environment=environment) as client:
            for begin, _ in pairs:
                client.stream(begin)
        with generating(folder, *options, environment=environment) as client:
            answers = [client.stream(begin + end, ANSWER) for begin, end in pairs]
    if any(dict(answer.reused) != {common_pb2.TIER_WARM: BEGIN} for answer in answers):
        raise RuntimeError(f"not all beginnings came from Redis with prefix.codec {codec}")
    return fmean(a.tokens == tokens for a, tokens in zip(answers, expected, strict=True))


def _divergences(
    texts: Texts, pairs: Sequence[tuple[str, str]], codecs: Sequence[PrefixCodec], pack: Path
) -> tuple[dict[str, float], dict[str, int]]:
    """Of each codec the mean KL in nats, and the bytes of a stored block."""
    decoder = Decoder(read_decoder_pack(pack), "cpu")
    kl: dict[str, list[float]] = {codec: [] for codec in codecs}
    sizes: dict[str, int] = {}
    for begin, end in pairs:
        state = decoder.start(BEGIN + END)
        state.run(texts.ids(begin))
        blocks = state.export(0, BEGIN, _BLOCK)
        exact = _log_softmax(state.run(texts.ids(end)))
        for codec in codecs:
            stored = [encode_block(block, _NAME, codec, 0) or b"" for block in blocks]
            sizes[codec] = max(map(len, stored))
            rounded = _go_on(decoder, stored, texts.ids(end))
            kl[codec].append(float(np.sum(np.exp(exact) * (exact - rounded))))
    return {codec: fmean(values) for codec, values in kl.items()}, sizes


def _go_on(decoder: Decoder, stored: Sequence[bytes], tokens: list[int]) -> NDArray[np.float64]:
    blocks: list[Block] = [decode_block(data, _NAME)[0] for data in stored]
    state = decoder.start(BEGIN + END)
    state.load(blocks)
    return _log_softmax(state.run(tokens))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return normalised
