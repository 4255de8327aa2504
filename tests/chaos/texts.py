"""What clients ask for: made from words, the same in every run."""

from __future__ import annotations

import random

from tests.chaos.truth import Prompt

_WORDS = (
    *("ember", "coal", "ash", "smoke", "spark", "hearth", "kiln", "forge", "bellows", "wick"),
    *("glows", "cools", "keeps", "carries", "warms", "melts", "hardens", "cracks", "drifts"),
    *("why", "when", "slowly", "never", "the", "a", "red", "old", "wet", "quiet", "hollow"),
)

_SYSTEM = (
    "The handbook of the forge says: never leave the bellows unattended, keep the coal dry, and"
    " let the iron cool in ash, not in water, unless it is to be hardened. "
)


def texts(name: str, count: int) -> list[str]:
    """Texts of 3 to 40 words, none twice, nor in what has another name."""
    rng = random.Random(name)
    return [
        f"{name} {number}: " + " ".join(rng.choices(_WORDS, k=rng.randint(3, 40)))
        for number in range(count)
    ]


def prompts(count: int) -> list[Prompt]:
    """Half of them begin alike, which a generator keeps; every fourth is drawn with a seed."""
    made = []
    for number, text in enumerate(texts("prompt", count)):
        seed = number if number % 4 == 3 else None
        made.append(Prompt((_SYSTEM if number % 2 else "") + text, 6 + number % 5, seed))
    return made
