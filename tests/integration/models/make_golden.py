"""Writes golden.npz: texts, and their vectors as sentence-transformers computes them.

Not run by the tests. It needs sentence-transformers and the weights of all-MiniLM-L6-v2, in the
folder that holds model.safetensors:

    python make_golden.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

SENTENCE = "Sidecar caches answer repeated calls before a model has to. "
TEXTS = [
    "cat",
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset my password?",
    "",
    " ",
    "\n\t  \r\n",
    "🔥🦊 caching is fun 🎉👩‍💻",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "שלום עולם",
    "机器学习模型的缓存代理",
    "こんにちは、世界。今日はいい天気ですね。",
    "Ünïcödé naïve café, Straße, ﬁne, Ⅳ, x²",
    "def f(x): return {k: v**2 for k, v in x.items() if v != 0}  # code",
    "english, 中文, العربية, русский, 😀 mixed with\ttabs\nand lines",
    SENTENCE * 12,
    (SENTENCE * 200)[:10_000],
    "supercalifragilistic" * 20,
    "a b c d e f g " * 60,
]


def main() -> None:
    """Computes one text at a time, so that no batch-mate has a part in it."""
    model = SentenceTransformer(sys.argv[1], device="cpu")
    vectors = np.stack([model.encode(text, batch_size=1) for text in TEXTS])
    np.savez_compressed(Path(__file__).with_name("golden.npz"), texts=TEXTS, vectors=vectors)


if __name__ == "__main__":
    main()
