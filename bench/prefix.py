"""What keeping the beginnings of prompts is worth, and what it costs, over gRPC.

    python -m bench.prefix [--quick] [--peers PYTHON] [--json FILE]

First tokens with the prompt's beginning in memory, in Redis and on disk; tokens a second, beside
other engines if a Python is named that has them; memory under many prompts; and what the codecs
of the shared tiers do to answers.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bench import prefix_codecs, prefix_first_token, prefix_memory, prefix_speed
from bench.prefix_calls import PACK
from bench.prefix_texts import Texts
from bench.report import add_json_option, write_json
from sidecar.models.packs import default_folder
from sidecar.models.prefix_codec import PrefixCodec
from sidecar.models.pull import pull


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    speed_rounds: int
    prompts: int
    codec_prompts: int
    codecs: tuple[PrefixCodec, ...]
    disk: bool


FULL = Size(7, 5, 1000, 16, get_args(PrefixCodec), disk=True)
QUICK = Size(3, 1, 250, 3, ("exact",), disk=False)


def main() -> None:
    """Measures, prints tables, and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, prompts and codecs; no disk"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="PYTHON",
        help="a Python with llama-cpp-python, onnxruntime-genai or both",
    )
    add_json_option(parser)
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    began = time.perf_counter()
    for name in ("minilm", PACK):
        pull(name, default_folder(), lambda stage, done, total: None)
    pack = default_folder() / PACK
    texts = Texts(pack)
    figures = prefix_first_token.measure(texts, size.rounds, disk=size.disk)
    figures |= prefix_speed.measure(texts, size.speed_rounds, pack, options.peers)
    figures |= prefix_memory.measure(texts, size.prompts)
    figures |= prefix_codecs.measure(texts, size.codec_prompts, size.codecs, pack)
    print(f"All of it took {time.perf_counter() - began:.0f} s.")
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
