"""Chooses the next token from a model's logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.generation import Sampling

Logits: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = NDArray[np.float32]
Places: TypeAlias = NDArray[np.int64]
"""Ids of tokens, or where in an array a value is."""

# Below this, dividing by a temperature is not defined in float32; it is as good as 0 long before.
_LOWEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
# A top-p without a top-k first looks at so many tokens, then at eight times as many, and so on.
_FIRST_LOOK = 256


class Sampler:
    """Chooses the tokens of one answer, one after the other. Not thread-safe.

    With a temperature of 0 or None it takes the likeliest token, of equal ones that with the lowest
    id. Else it draws exactly one number a token from a generator of its own, so that the same
    seed and logits give the same tokens.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        penalises = sampling.repetition_penalty != 1
        self._seen = np.unique(np.array(prompt, np.int64)) if penalises else None

    def next(self, logits: Logits) -> int:
        """The token that comes next, given what the model says of all tokens: shape ``[vocab]``.

        ``logits`` is left as it is. A token with a logit of -inf is never chosen.

        Raises `ValueError` if a logit is NaN or +inf, or if all are -inf.
        """
        if self._seen is not None:
            logits = _penalised(logits, self._seen, self._sampling.repetition_penalty)
        if self._sampling.temperature:
            token = self._draw(*distribution(logits, self._sampling))
        else:
            token = _likeliest(logits)
        if self._seen is not None:
            self._seen = _with(self._seen, token)
        return token

    def _draw(self, tokens: Places, weights: Weights) -> int:
        sums = np.cumsum(weights, dtype=np.float64)
        # At most 1 - 2**-53 is drawn, so that the product, rounded, is still below the whole sum.
        drawn = self._random.random() * sums[-1]
        return int(tokens[np.searchsorted(sums, drawn, side="right")])


def distribution(logits: Logits, sampling: Sampling) -> tuple[Places, Weights]:
    """The tokens that may come next and their weights: probabilities up to a common factor.

    Applies temperature, top-k, top-p and min-p, in this order; the repetition penalty was applied
    before. Where equally likely tokens compete for a place, those with the lowest ids have it. The
    likeliest token has the weight 1; weights may be 0.

    Raises `ValueError` as `Sampler.next` does.
    """
    top = logits[_likeliest(logits)]
    temperature = max(sampling.temperature or 0, _LOWEST_TEMPERATURE)
    tokens = _largest(logits, sampling.top_k or len(logits))
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits[tokens] - top) / np.float32(temperature))
    if sampling.top_p < 1:
        kept = _nucleus(weights, sampling.top_p)
        tokens, weights = tokens[kept], weights[kept]
    if sampling.min_p > 0:
        kept = np.flatnonzero(weights >= sampling.min_p)
        tokens, weights = tokens[kept], weights[kept]
    return tokens, weights


def _likeliest(logits: Logits) -> int:
    # A NaN, if there is one, counts as the largest here: one comparison checks all.
    token = int(np.argmax(logits))
    if not np.isfinite(logits[token]):
        raise ValueError("the model gave logits that are NaN or infinite")
    return token


def _penalised(logits: Logits, seen: Places, penalty: float) -> Logits:
    """Logits in which each token seen before is less likely by the factor, however often seen.

    Keskar et al., "CTRL", 2019, arXiv 1909.05858, section 4.1; negative logits are multiplied, so
    that they go down as well.
    """
    logits = logits.copy()
    values = logits[seen]
    with np.errstate(over="ignore"):
        logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def _with(seen: Places, token: int) -> Places:
    """``seen``, which is sorted, and the token."""
    place = int(np.searchsorted(seen, token))
    if place < len(seen) and seen[place] == token:
        return seen
    return np.insert(seen, place, token)


def _largest(values: Weights, count: int) -> Places:
    """The places of the ``count`` largest values in ascending order; of equal ones, the first."""
    if count >= len(values):
        return np.arange(len(values))
    least = np.partition(values, -count)[-count]
    places = np.flatnonzero(values >= least)
    if len(places) == count:
        return places
    equal = places[values[places] == least]
    return np.setdiff1d(places, equal[count - len(places) :], assume_unique=True)


def _nucleus(weights: Weights, share: float) -> Places:
    """The places of the fewest weights that together have this share of the sum, in order.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, arXiv 1904.09751.
    """
    wanted = share * weights.sum(dtype=np.float64)
    look = _FIRST_LOOK
    while True:
        places = _largest(weights, look)
        places = places[np.argsort(-weights[places], kind="stable")]
        sums = np.cumsum(weights[places], dtype=np.float64)
        if look >= len(weights) or sums[-1] >= wanted:
            return np.sort(places[: np.searchsorted(sums, wanted) + 1])
        look *= 8
