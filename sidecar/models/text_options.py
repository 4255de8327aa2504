"""How the texts of a pack become tokens, as the files of a Hugging Face export tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.models.errors import SetupError
from sidecar.models.pack_folder import MAX_TOKENIZER_BYTES
from sidecar.models.tokenizer_file import MAX_VOCABULARY

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.models.graph import Graph
    from sidecar.models.pack_folder import PackFolder

TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
"""The inputs that a graph of texts may have."""

# Positions of these models start behind the number of the padding token.
_SHIFTED_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet"}


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a pack's texts become tokens.

    ``prompts`` maps ``"query"`` and ``"document"`` to the prefix that such texts want. ``digest``
    is that of the file ``tokenizer``.
    """

    tokenizer: Path
    digest: bytes
    max_tokens: int
    pad_id: int
    prompts: dict[str, str]

    def parts(self) -> list[bytes]:
        """What of it a model version is made of."""
        parts = [self.digest, str((self.max_tokens, self.pad_id)).encode()]
        return parts + [part.encode() for item in sorted(self.prompts.items()) for part in item]


def read_text_options(folder: PackFolder, path: Path, graph: Graph) -> TextOptions | None:
    """Reads the options of the pack in ``folder``, whose graph is at ``path``.

    None if there is no tokeniser. Raises `SetupError` if the graph does not take tokens, or if it
    is not told how many.
    """
    tokenizer = folder.find("tokenizer.json", MAX_TOKENIZER_BYTES)
    if tokenizer is None:
        return None
    names = {spec.name for spec in graph.inputs}
    for name in ("input_ids", "attention_mask"):
        if name not in names:
            raise SetupError(f"{path}: has no input {name!r}; export it with one")
    if unknown := names - TEXT_INPUTS:
        raise SetupError(f"{path}: unsupported input {min(unknown)!r}; export it without")
    for spec in graph.inputs:
        if len(spec.shape) != 2 or spec.shape[1] is not None:
            raise SetupError(
                f"{path}: input {spec.name!r} has shape {spec.shape}; export it with a dynamic"
                " sequence axis, [batch, sequence]"
            )
    config = folder.json("config.json", dict) or {}
    return TextOptions(
        tokenizer=tokenizer,
        digest=folder.digest(tokenizer),
        max_tokens=_max_tokens(folder, config),
        pad_id=_pad_id(folder, config, 0),
        prompts=_prompts(folder),
    )


def _max_tokens(folder: PackFolder, config: dict[str, Any]) -> int:
    sentence = (folder.json("sentence_bert_config.json", dict) or {}).get("max_seq_length")
    tokenizer = (folder.json("tokenizer_config.json", dict) or {}).get("model_max_length")
    positions = config.get("max_position_embeddings")
    if type(positions) is int and str(config.get("model_type")) in _SHIFTED_POSITIONS:
        positions -= _pad_id(folder, config, 1) + 1
    # A tokenizer without a limit has a huge number there, mostly a float.
    limits = [limit for limit in (tokenizer, positions) if isinstance(limit, int | float)]
    length = sentence if sentence is not None else min(limits, default=None)
    if type(length) is not int or not 0 < length < 1_000_000:
        raise SetupError(
            f"{folder.path / 'sentence_bert_config.json'}: write"
            ' {"max_seq_length": N} there, the number of tokens that the model reads at most'
        )
    return length


def _pad_id(folder: PackFolder, config: dict[str, Any], default: int) -> int:
    number = config.get("pad_token_id")
    if number is None:
        return default
    if type(number) is not int or not 0 <= number < MAX_VOCABULARY:
        raise SetupError(f"{folder.path / 'config.json'}: pad_token_id must be the id of a token")
    return number


def _prompts(folder: PackFolder) -> dict[str, str]:
    name = "config_sentence_transformers.json"
    prompts = (folder.json(name, dict) or {}).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise SetupError(f"{folder.path / name}: prompts must map names to texts")
    found = {"query": prompts.get("query"), "document": prompts.get("document")}
    found["document"] = found["document"] or prompts.get("passage")
    return {kind: prompt for kind, prompt in found.items() if prompt}
