"""What `sidecar.cache.guard` sees in a text: its words, numbers, names and quotations.

Where words begin and end does not depend on upper and lower case, so that a text has the same words
however it is written; case only tells which of them may be names.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.cache.guard_words import (
    AFTER_PRONOUN_ONE,
    ARTICLES,
    BEFORE_PRONOUN_ONE,
    COMPOUNDS,
    CONTRACTIONS,
    NUMBER_WORDS,
    ROMAN_NUMERALS,
    STOPWORDS,
    UNITS,
    stem,
    word_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TOKEN = re.compile(
    r"""
    (?P<number>
        (?<![^\W_])                          # not inside of a word
        (?P<currency>[$€£¥₹]\s?)?
        (?:v\.?(?=\d))?
        (?P<sign>(?<![^\s(=:,])-)?
        (?P<digits>\d+(?:[.,:/-]\d+)*|\.\d+)
        (?P<suffix>[^\W_]*)
    )
  | (?P<code>
        [a-z][a-z0-9+.-]{0,20}://\S*\w           # the address of a page
      | (?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+   # of a mailbox
      | (?<![\w.])(?:~|\.{1,2})?(?:/[\w.-]*\w)+  # /etc/hosts
      | (?<![\w.-])[\w.-]{0,64}\w(?:/\w[\w.-]*){2,}(?<=\w)  # a/b/c
      | (?<![\w-])--?[^\W\d_][\w-]*(?<=\w)      # --option
      | [^\W\d_](?:\+\+|\#)(?!\w)               # C++, C#
      | (?<!\w)\.[^\W\d_]\w+                    # .NET
      | (?!(?:[^\W\d_]\.)+[^\W\d_]\b)          # but for e.g.
        [^\W\d]\w*(?:(?:\.|::|->)\w+)+          # a.b
      | [^\W\d]\w*(?=\(\))                      # f()
      | \w*_\w*                                 # snake_case
    )
  | (?P<word>
        (?:[^\W\d_]\.)+[^\W\d_]\b             # e.g.
      | [^\W\d_][^\W_]*(?:[-'][^\W\d_][^\W_]*)*
    )
  | (?P<symbol>==|!=|<=|>=|->|=>|°[cf]\b|[-+*/^<>=%→&])
    """,
    re.VERBOSE | re.IGNORECASE,
)
_QUOTATION = re.compile(
    r"""
    "([^"]{1,500})" | “([^“”]{1,500})” | „([^„“”]{1,500})[“”] | «([^«»]{1,500})» | `([^`]{1,500})`
  | (?<!\w)'([^']{1,500})'(?!\w)
    """,
    re.VERBOSE,
)
# Apostrophe; hyphens, dashes and the sign for minus; times, divided, unequal, at most, at least.
_PLAIN_CHARACTERS = str.maketrans(
    {"\u2019": "'"}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | {"\u00d7": "*", "\u00f7": "/", "\u2260": "!=", "\u2264": "<=", "\u2265": ">="}
)
_PLAIN_WORD = re.compile(r"[^\W_]+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SENTENCE_END = re.compile(r"[.!?:\n]")
# Not a pattern, which would try a long run in vain from each of its characters.
_ENDING = ".?!…,;:" + "".join(filter(str.isspace, map(chr, range(0x3001))))

_WHOLE_BEFORE_NOT = {"ca": "can", "wo": "will", "sha": "shall"}
_SHORTENED = {"m": "am", "re": "are", "ve": "have", "ll": "will"}
_IS_SHORT_FOR = word_set("what who where when how why that there it he she here")
_ELISIONS = word_set("l d n j s c m t qu")
_BEFORE_INFINITIVE = word_set(
    """
    how what where when want wants need needs like way ways able possible have has going try trying
    used safe easy hard allowed best
    """
)


@dataclass(slots=True)
class Reading:
    """A text, read; all of it in lower case.

    - ``words``: in their order, contractions resolved; numbers, identifiers and symbols among them;
    - ``numbers``: each with its unit;
    - ``names``: words that may be the name of something; ``identifiers``: names that have no other
      forms, such as ``parse_date``; ``keys``: all that either can be found among;
    - ``quotations``; ``plain``: the words of the text between blanks, to find quotations in.
    """

    words: list[str] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    quotations: set[str] = field(default_factory=set)
    plain: str = ""


def read(text: str) -> Reading:
    """Reads a text. Case, and blanks and punctuation at its ends, make no difference to words."""
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN_CHARACTERS).strip()
    text = text.rstrip(_ENDING)
    reading = Reading(plain=plain(text))
    for groups in _QUOTATION.findall(text):
        reading.quotations.add(" ".join("".join(groups).casefold().split()).rstrip(".?!,;: "))
    words: list[str] = []
    end = 0
    for token in _TOKEN.finditer(text):
        # A capital tells nothing where a sentence begins.
        starts = end == 0 or _SENTENCE_END.search(text, end, token.start()) is not None
        end = token.end()
        if token["number"]:
            words.append(_number(token))
            reading.keys.add(words[-1].partition(" ")[2])
        elif token["code"]:
            words.append(token["code"].casefold())
            reading.identifiers.add(words[-1])
        elif token["symbol"]:
            words.append(token["symbol"].casefold())
        else:
            words += _parts(token["word"])
            _note_name(reading, token["word"], starts=starts)
    reading.keys |= reading.identifiers.union(UNITS.get(word, word) for word in words)
    reading.words = list(_resolved(words, reading.numbers))
    return reading


def plain(text: str) -> str:
    """The words of a text, with a blank before and behind each."""
    return " ".join(["", *_PLAIN_WORD.findall(text.casefold()), ""])


def _number(token: re.Match[str]) -> str:
    """A number in one spelling, a blank, and its unit as far as it is part of the token."""
    digits = token["digits"]
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    unit = (token["currency"] or token["suffix"]).strip().casefold()
    return f"{'-' if token['sign'] else ''}{digits} {UNITS.get(unit, unit)}"


def _parts(word: str) -> Iterator[str]:
    """The words that a word is put together of, in lower case."""
    for part in word.casefold().replace(".", "").split("-"):
        head, apostrophe, tail = part.partition("'")
        if part in CONTRACTIONS:
            yield from CONTRACTIONS[part]
        elif part.endswith("n't") and len(part) > 3:
            yield _WHOLE_BEFORE_NOT.get(part[:-3], part[:-3])
            yield "not"
        elif not apostrophe or tail in ("s", "d"):
            yield head
            if tail == "s" and head in _IS_SHORT_FOR:
                yield "is"
        elif tail in _SHORTENED:
            yield head
            yield _SHORTENED[tail]
        else:
            yield tail if head in _ELISIONS else head + tail


def _note_name(reading: Reading, word: str, *, starts: bool) -> None:
    key = word.casefold().replace(".", "").replace("-", "").removesuffix("'s")
    if len(key) == 1:
        is_identifier = word not in ("I", "A") if word.isupper() else key not in "aeio"
    else:
        is_identifier = key in ROMAN_NUMERALS or any(map(str.isdigit, key))
    is_name = key not in STOPWORDS and any(map(str.isupper, word[1:] if starts else word))
    key = UNITS.get(key, key)
    reading.keys.add(key)
    if is_identifier:
        reading.identifiers.add(key)
    elif is_name:
        reading.names.add(key)


def _resolved(words: Sequence[str], numbers: Counter[str]) -> Iterator[str]:
    """Words as they are to be compared; counts the numbers among them."""
    previous = ""
    place = 0
    while place < len(words):
        word, following = words[place], words[place + 1] if place + 1 < len(words) else ""
        place += 1
        number = _as_number(previous, word, following)
        if number is not None:
            if number.endswith(" ") and following in UNITS:
                number += UNITS[following]
                place += 1
            numbers[number] += 1
            word = number
        elif following in COMPOUNDS.get(stem(word), ()):
            word = f"{stem(word)}-{following}"
            place += 1
        elif word == "or" and following == "not":
            place += 1
            continue
        elif word in ARTICLES or (word == "to" and previous in _BEFORE_INFINITIVE):
            previous = word
            continue
        yield word
        previous = word


def _as_number(previous: str, word: str, following: str) -> str | None:
    """The word with a place for a unit, if it is a number."""
    if " " in word:
        return word
    if word == "one" and (previous in BEFORE_PRONOUN_ONE or following in AFTER_PRONOUN_ONE):
        return None
    return f"{NUMBER_WORDS[word]} " if word in NUMBER_WORDS else None
