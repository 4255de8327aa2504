"""How a prompt is cut into runs of the model, and into blocks that are kept.

The same prompt must give the same bits whatever of it was kept before, or else a greedy answer
would change with the state of a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.models.decoder import Decoder

# Longer runs are hardly faster on a CPU. The shorter one is how long others wait.
_FREE_RUN_TOKENS = 256
_SHARED_RUN_TOKENS = 64
# Where runs must be the same, a compromise: longer ones are faster, shorter ones reuse more.
_FIXED_RUN_TOKENS = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True, slots=True)
class Splits:
    """Runs and blocks of one model.

    If the model splits freely (see `Decoder`), runs may be of any length from 2 on. If it does not,
    every prompt is read block by block from its beginning, one run each, so that after the blocks
    that were kept come the very runs that would have come without them.
    """

    block_tokens: int
    is_free: bool

    @classmethod
    def of(cls, decoder: Decoder, block_tokens: int) -> Splits:
        """Those for a model; blocks have ``block_tokens``, or a multiple where runs are fixed."""
        if decoder.splits_freely:
            return cls(block_tokens, is_free=True)
        at_least = _FIXED_RUN_TOKENS[decoder.device]
        return cls(-(-at_least // block_tokens) * block_tokens, is_free=False)

    def reusable_blocks(self, prompt_tokens: int) -> int:
        """How many blocks of a prompt may be taken: the end is read anew, for its logits."""
        return max(0, prompt_tokens - self._least_run) // self.block_tokens

    def reusable_tokens(self, shared: int, prompt_tokens: int) -> int:
        """How many of ``shared`` tokens, with which a prompt begins, need not be read again."""
        if not self.is_free:
            blocks = min(shared // self.block_tokens, self.reusable_blocks(prompt_tokens))
            return blocks * self.block_tokens
        return max(0, min(shared, prompt_tokens - self._least_run))

    def blocks(self, prompt_tokens: int) -> int:
        """How many blocks of a prompt can be kept once it is read."""
        return prompt_tokens // self.block_tokens if prompt_tokens >= self._least_run else 0

    def run_tokens(self, start: int, prompt_tokens: int, *, alone: bool) -> int:
        """How many tokens to read at ``start``. ``alone``: no other generation is at work."""
        left = prompt_tokens - start
        if not self.is_free:
            return min(left, self.block_tokens)
        size = min(left, _FREE_RUN_TOKENS if alone else _SHARED_RUN_TOKENS)
        # No single token is left for the last run.
        return size - 1 if left - size == 1 else size

    @property
    def _least_run(self) -> int:
        return 2 if self.is_free else 1
