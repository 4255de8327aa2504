"""Turns prompts into tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.models.chat_template import ChatTemplate
from sidecar.models.tokenizer_file import load_tokenizer, usable
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenizers import Tokenizer

    from sidecar.models.decoder_pack import DecoderPack
    from sidecar.models.generation import GenerationRequest, Message, Prompt


# What a token of a vocabulary for many languages has of English, about.
_ENGLISH_BYTES = 4


class PromptReader:
    """Reads prompts for one model. For one thread at a time; ``tokenizer`` is for any."""

    def __init__(self, pack: DecoderPack) -> None:
        """Raises `SetupError` if the tokenizer or the chat template cannot be used."""
        self.tokenizer = load_tokenizer(pack.tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        template = pack.chat_template
        self._template = template and ChatTemplate(template, pack.special_tokens)
        self._context_tokens = pack.context_tokens
        self._vocabulary = pack.vocabulary
        with usable(pack.tokenizer):
            self._most_bytes = pack.context_tokens * _longest_token(self.tokenizer)

    def read(self, request: GenerationRequest) -> list[int]:
        """The tokens of the prompt, at least one.

        Raises `InputRejectedError` if the model does not take the prompt or a stop token.
        """
        for token in request.sampling.stop_tokens:
            if not 0 <= token < self._vocabulary:
                raise InputRejectedError(
                    f"stop token {token} is outside of the model's vocabulary of"
                    f" {self._vocabulary} tokens"
                )
        tokens = self._tokens(request.prompt)
        if not tokens:
            raise InputRejectedError("the prompt has no tokens; write something")
        if len(tokens) >= self._context_tokens:
            raise InputRejectedError(
                f"the prompt has {len(tokens)} tokens, and this model reads"
                f" {self._context_tokens} of prompt and answer together; shorten the prompt"
            )
        return tokens

    def _tokens(self, prompt: Prompt) -> list[int]:
        text = prompt if isinstance(prompt, str) else self._render(prompt)
        self._check_bytes([text])
        try:
            # Of a batch, because that lets other threads work. A template writes the special
            # tokens itself.
            (encoding,) = self.tokenizer.encode_batch_fast(
                [text], add_special_tokens=isinstance(prompt, str)
            )
        except BaseException as error:  # a panic of the library is not an Exception
            reason = type(error).__name__
            raise InputRejectedError(f"the prompt cannot be tokenised ({reason})") from None
        ids: list[int] = encoding.ids
        return ids

    def _check_bytes(self, texts: Iterable[str]) -> None:
        """Refuses what cannot fit before any work is spent on it."""
        n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if n_bytes > self._most_bytes:
            raise InputRejectedError(
                f"the prompt has {n_bytes} bytes, and this model reads {self._context_tokens}"
                " tokens of prompt and answer together: about"
                f" {self._context_tokens * _ENGLISH_BYTES} bytes of English, and of no text more"
                f" than {self._most_bytes}; shorten the prompt"
            )

    def _render(self, messages: Sequence[Message]) -> str:
        if not self._template:
            raise InputRejectedError(
                "this model has no template for conversations; send the prompt as text"
            )
        self._check_bytes(content for _, content in messages)
        return self._template.render(messages)


def _longest_token(tokenizer: Tokenizer) -> int:
    """The most bytes of text that become one token."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    names = tokenizer.get_vocab(with_added_tokens=False)
    if _is_byte_level(tokenizer):
        longest = max(map(len, names), default=1)  # each letter of a name stands for a byte
    else:
        # And the space before it, which some drop.
        longest = max((len(name.encode()) for name in names), default=0) + 1
    return max([longest, *(len(name.encode()) for name in added)])


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether its tokens are named in GPT-2's alphabet of 256 letters, one for each byte."""
    text = "ж"  # which no normalization changes
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is not None:
        text = "".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return "Ð¶" in text  # the bytes of it
