"""What the guides call my_model: the pack under ONNX Runtime, and a generator behind HTTP.

``MY_MODEL_PACK`` is the folder of the pack, ``MY_MODEL_URL`` the address of the generator. What
was asked for is written into ``computed.jsonl``.
"""

from __future__ import annotations

import functools
import json
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.peers.encoder import Encoder


def embed(texts: Sequence[str]) -> list[list[float]]:
    """The vectors of texts."""
    _note(*texts)
    return _encoder()(texts)


def generate(prompt: str) -> str:
    """The answer to a prompt; never from a cache."""
    _note(prompt)
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 40,
        "embercache": {"mode": "bypass"},
    }
    url = f"{os.environ['MY_MODEL_URL']}/chat/completions"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        text: str = json.load(answer)["choices"][0]["message"]["content"]
        return text


@functools.cache
def _encoder() -> Encoder:
    from bench.peers.encoder import Encoder  # Programs that only generate have no ONNX Runtime.

    return Encoder(os.environ["MY_MODEL_PACK"])


def _note(*inputs: str) -> None:
    with Path("computed.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in inputs)
