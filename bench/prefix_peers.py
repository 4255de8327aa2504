"""Another engine, driven by `bench.prefix_speed`; runs in a Python that has the engine installed.

    python prefix_peers.py llama-cpp-python FILE.gguf THREADS
    python prefix_peers.py onnxruntime-genai FOLDER THREADS

Says its version, then reads one JSON object a line, ``{"prompt": [tokens], "generate": n}``, and
answers each with the seconds to the first token and from there to the last. A prompt that begins
like the one before is read only from where it differs.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTEXT = 2048


def main() -> None:
    """Reads requests until there are no more."""
    engine, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # Engines print what they like to standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    generate = ENGINES[engine](model, threads)
    print(json.dumps({"version": version(engine)}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        tokens = generate(request["prompt"])
        next(tokens)
        first = time.perf_counter()
        for _ in itertools.islice(tokens, request["generate"] - 1):
            pass
        last = time.perf_counter()
        print(json.dumps({"first": first - began, "rest": last - first}), file=answers)


def llama(model: str, threads: int) -> Callable[[list[int]], Iterator[int]]:
    """llama.cpp; flash attention is the faster way here."""
    from llama_cpp import Llama

    engine = Llama(
        model,
        n_ctx=CONTEXT,
        n_batch=CONTEXT,
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=True,
        verbose=False,
    )

    def generate(prompt: list[int]) -> Iterator[int]:
        # It finds by itself how far the prompt begins like the last one.
        yield from engine.generate(prompt, temp=0.0)

    return generate


def genai(model: str, threads: int) -> Callable[[list[int]], Iterator[int]]:
    """onnxruntime-genai; the threads are in the folder's genai_config.json."""
    import numpy as np
    import onnxruntime_genai as og

    engine = og.Model(model)
    params = og.GeneratorParams(engine)
    # The model's own end of the answer does not end the measurement.
    params.set_search_options(do_sample=False, min_length=CONTEXT, max_length=CONTEXT)
    state = og.Generator(engine, params)
    read: list[int] = []

    def generate(prompt: list[int]) -> Iterator[int]:
        pairs = itertools.zip_longest(read, prompt)
        same = next(place for place, (old, new) in enumerate(pairs) if old != new)
        state.rewind_to(same)
        state.append_tokens(np.array([prompt[same:]], np.int32))
        read[:] = prompt
        while True:
            state.generate_next_token()
            yield int(state.get_next_tokens()[0])

    return generate


ENGINES = {"llama-cpp-python": llama, "onnxruntime-genai": genai}

if __name__ == "__main__":
    main()
