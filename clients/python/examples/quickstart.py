"""Embeds a few texts and finds the nearest to a question.

Start a sidecar (``embercache serve --dev``), then run this twice: the second time, the vectors
come from cache. ``EMBERCACHE_ADDRESS`` says where the sidecar is, if not at 127.0.0.1:50551.
"""

from __future__ import annotations

import sys

from embercache import Client, EmbercacheError

DOCUMENTS = [
    "An ember is a piece of glowing coal.",
    "A cache keeps answers so that they need not be computed again.",
    "The sidecar runs beside the application in its pod.",
]
QUESTION = "What is stored so that it is not worked out twice?"


def main() -> None:
    """Prints the documents by their similarity to the question."""
    with Client() as client:
        documents = client.embed(DOCUMENTS, input_type="document")
        question = client.embed([QUESTION], input_type="query")
    similarities = documents.vectors @ question.vectors[0]
    print(f"model {documents.model}, version {documents.model_version}")
    for i in similarities.argsort()[::-1]:
        tier = documents.tiers[i]
        print(f"{similarities[i]:6.3f}  {tier:8}  {DOCUMENTS[i]}")


if __name__ == "__main__":
    try:
        main()
    except EmbercacheError as error:
        sys.exit(f"the sidecar did not answer: {error}")
