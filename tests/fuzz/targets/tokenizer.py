"""``tokenizer.json``: the library that reads it may fail, but must not end the process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from sidecar.models.errors import SetupError
from sidecar.models.tokenise import PairTokeniser, TextTokeniser

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (SetupError,)
MAX_BYTES = 8192
IS_JSON = True
_FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "tokenizer.json"
_TEXTS = [
    "",
    "Hello, W\N{LATIN SMALL LETTER O WITH DIAERESIS}rld 42!",
    "a" * 200,
    "\N{SNOWMAN} \0 \n",
]
_WORDS = ["[UNK]", "[CLS]", "[SEP]", "hello", "h", "##e", "e", "l", "o", "he", "ll", "lo"]


def seeds() -> Iterator[bytes]:
    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    word_piece = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    word_piece.normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(), normalizers.Replace(Regex("[0-9]+"), "n"), normalizers.NFC()]
    )
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    word_piece.enable_truncation(5, stride=2)
    word_piece.enable_padding(length=8)
    bpe = Tokenizer(models.BPE(vocabulary, [("h", "e"), ("l", "l")], byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "isolated"), pre_tokenizers.ByteLevel()]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<s>"])
    unigram = Tokenizer(models.Unigram([(word, -float(i)) for i, word in enumerate(_WORDS)], 0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    for tokenizer in (word_piece, bpe, unigram):
        yield tokenizer.to_str().encode()


def run(data: bytes) -> None:
    _FILE.write_bytes(data)
    for tokenise, inputs in (
        (TextTokeniser(_FILE, 16), _TEXTS),
        (PairTokeniser(_FILE, 16), [("a", text) for text in _TEXTS]),
    ):
        # A model whose tokeniser fails on some texts is of little use, but does no harm.
        try:
            made = tokenise(inputs)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            continue
        assert all(len(tokens.ids) <= 16 for tokens in made)
