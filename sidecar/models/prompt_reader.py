"""Turns prompts into tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from sidecar.models.chat_template import ChatTemplate
from sidecar.models.errors import SetupError
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.decoder_pack import DecoderPack
    from sidecar.models.generation import GenerationRequest, Message, Prompt


class PromptReader:
    """Reads prompts for one model. For one thread at a time; ``tokenizer`` is for any."""

    def __init__(self, pack: DecoderPack) -> None:
        """Raises `SetupError` if the tokenizer or the chat template cannot be used."""
        try:
            self.tokenizer = Tokenizer.from_file(str(pack.tokenizer))
        except Exception as error:  # the library raises nothing more specific
            raise SetupError(f"{pack.tokenizer}: not a readable tokenizer ({error})") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        template = pack.chat_template
        self._template = template and ChatTemplate(template, pack.special_tokens)
        self._context_tokens = pack.context_tokens
        self._vocabulary = pack.vocabulary

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
        try:
            # A template writes the special tokens itself.
            encoding = self.tokenizer.encode(text, add_special_tokens=isinstance(prompt, str))
        except BaseException as error:  # a panic of the library is not an Exception
            reason = type(error).__name__
            raise InputRejectedError(f"the prompt cannot be tokenised ({reason})") from None
        ids: list[int] = encoding.ids
        return ids

    def _render(self, messages: Sequence[Message]) -> str:
        if not self._template:
            raise InputRejectedError(
                "this model has no template for conversations; send the prompt as text"
            )
        return self._template.render(messages)
