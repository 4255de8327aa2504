"""What each codec costs: bytes in Redis and error, on real vectors of the pack minilm.

python -m bench.codecs
"""

from __future__ import annotations

import argparse
import asyncio

import numpy as np

from bench.corpus import docstrings
from bench.report import add_json_option, print_table, write_json
from sidecar.cache.codec import Codec, Entry, Value, decode_vector, encode_vector, pack
from sidecar.models.local import LocalEmbedder
from sidecar.models.packs import default_folder, resolve


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=1000)
    add_json_option(parser)
    options = parser.parse_args()
    vectors = asyncio.run(_vectors(options.texts))
    neighbours = _nearest(vectors)
    rows = []
    for codec in (Codec.FLOAT32, Codec.FLOAT16, Codec.INT8):
        payloads = [encode_vector(vector, codec) for vector in vectors]
        decoded = np.stack([decode_vector(payload, codec) for payload in payloads])
        entry = Entry(Value(payloads[0], codec, vectors.shape[1], 9, False), 1, 2)
        cosine = np.sum(decoded * vectors, axis=1, dtype=np.float64) / (
            np.linalg.norm(decoded, axis=1) * np.linalg.norm(vectors, axis=1)
        )
        rows.append(
            (
                codec.name.lower(),
                len(pack(entry, b"key")),
                f"{np.abs(decoded - vectors).max():.1e}",
                f"{max(0.0, 1 - cosine.min()):.1e}",
                f"{np.mean(_nearest(decoded) == neighbours):.2%}",
            )
        )
    print_table(
        f"{len(vectors)} vectors of {vectors.shape[1]} elements",
        ("codec", "bytes", "largest error", "largest 1 - cosine", "same nearest neighbour"),
        rows,
    )
    names = ("bytes", "largest_error", "largest_cosine_distance", "same_nearest_neighbour")
    write_json(options.json, {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows})


async def _vectors(count: int) -> np.ndarray:
    embedder = await asyncio.to_thread(
        LocalEmbedder.load, resolve("minilm", default_folder()), "minilm"
    )
    results = await asyncio.gather(*embedder.submit(docstrings(count)))
    await embedder.close()
    return np.stack([result.vector for result in results])


def _nearest(vectors: np.ndarray) -> np.ndarray:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)


if __name__ == "__main__":
    main()
