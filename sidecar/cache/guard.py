"""Finds reasons why two texts that look alike must not share an answer.

Embedding models hardly see a "not", a number or the order of two names: "flights from Paris to
Rome" and "flights from Rome to Paris" have a cosine of 0.999 (all-MiniLM-L6-v2). What they do see
is another topic, so nothing here looks for that. The rules know English best; denials in German,
French and Spanish; numbers, names and quotations in any language that is written with capitals.

A reason that is none costs a computation; one that is overlooked, a wrong answer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sidecar.cache.guard_text import Reading, plain, read
from sidecar.cache.guard_words import (
    ALTERNATIVES,
    ASKING_FOR_OBJECT,
    ASKING_WORDS,
    DENIALS,
    DENYING_PREFIXES,
    DENYING_SUFFIXES,
    OPPOSITE_PREFIXES,
    PERSONS,
    RELATIONS,
    STOPWORDS,
    stem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

# Reading a longer one would keep the event loop from others, and few models read that much.
MAX_CHARACTERS = 4_000
_MANY_SHARED_WORDS = 8
# In longer ones there are too many relations; what is shuffled is found there, too.
_MAX_WORDS_TO_RELATE = 100
_SYMMETRIC = frozenset({"and", "or", "vs", "versus", "nor", "&", "oder", "und", "et", "ou", "y"})


def contradiction(a: str, b: str) -> str | None:
    """Why the answer to ``a`` must not be given to ``b``, in one word; None if nothing is found.

    - ``length``: one of them is longer than `MAX_CHARACTERS`;
    - ``numbers``: other numbers, dates, versions or units;
    - ``quoted``: other quotations;
    - ``names``: other names, abbreviations, identifiers, paths or options;
    - ``negation``: one denies more than the other;
    - ``opposites``: words in the same place that exclude each other, as "before" and "after";
    - ``order``: the same words, in other places, or the question who against whom;
    - ``words``: long texts that are alike but for a few words.

    Symmetric. Never a reason for a text and itself, also in upper or lower case.
    """
    return Guard(a).contradiction(b)


class Guard:
    """`contradiction` of one text with others; that one is read once, when it is needed first."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._reading: Reading | None = None

    def contradiction(self, other: str) -> str | None:
        """As the function of that name."""
        if max(len(self._text), len(other)) > MAX_CHARACTERS:
            return "length"
        if self._reading is None:
            self._reading = read(self._text)
        two = read(other)
        for reason, differs in _CHECKS:
            if differs(self._reading, two):
                return reason
        return None


def _numbers(one: Reading, two: Reading) -> bool:
    return one.numbers != two.numbers


def _quotations(one: Reading, two: Reading) -> bool:
    return _misses_quotation(one, two) or _misses_quotation(two, one)


def _misses_quotation(one: Reading, two: Reading) -> bool:
    if two.quotations:
        return not one.quotations <= two.quotations
    # Not everybody writes quotation marks.
    return any(plain(quotation) not in two.plain for quotation in one.quotations)


def _names(one: Reading, two: Reading) -> bool:
    return _misses_name(one, two) or _misses_name(two, one)


def _misses_name(one: Reading, two: Reading) -> bool:
    if not one.identifiers <= two.keys:
        return True
    missing = one.names - two.keys
    return bool(missing) and not {stem(name) for name in missing} <= {stem(key) for key in two.keys}


def _negation(one: Reading, two: Reading) -> bool:
    # "unsafe" denies if there is something "safe" to compare it with.
    known = {stem(key) for key in one.keys | two.keys}
    return _denials(one, known) != _denials(two, known)


def _denials(reading: Reading, known: Set[str]) -> int:
    return sum(word in DENIALS for word in reading.words) + sum(
        _denies_a_word(key, known) for key in reading.keys - DENIALS
    )


def _denies_a_word(word: str, known: Set[str]) -> bool:
    rests = [word[len(start) :] for start in DENYING_PREFIXES if word.startswith(start)]
    rests += [word[: -len(end)] for end in DENYING_SUFFIXES if word.endswith(end)]
    return any(len(rest) > 2 and stem(rest) in known for rest in rests)


def _opposites(one: Reading, two: Reading) -> bool:
    more: dict[int, set[int]] = {}
    less: dict[int, set[int]] = {}
    counts = _alternatives(one)
    counts.subtract(_alternatives(two))
    for (line, place), count in counts.items():
        if count:
            (more if count > 0 else less).setdefault(line, set()).add(place)
    # One that has a word more of its own, and a word less, has another in its place.
    return any(line in less for line in more) or _have_opposite_prefixes(one, two)


def _have_opposite_prefixes(one: Reading, two: Reading) -> bool:
    mine, others = ({stem(key) for key in reading.keys} for reading in (one, two))
    for first, second in OPPOSITE_PREFIXES:
        for words, there in ((mine - others, others - mine), (others - mine, mine - others)):
            starting = (word for word in words if word.startswith(first))
            if any(second + word[len(first) :] in there for word in starting):
                return True
    return False


def _alternatives(reading: Reading) -> Counter[tuple[int, int]]:
    words = [*reading.words, *(f"^{word}" for word in reading.words[:1])]
    return Counter(found for word in words for found in ALTERNATIVES.get(stem(word), ()))


def _order(one: Reading, two: Reading) -> bool:
    is_long = max(len(one.words), len(two.words)) > _MAX_WORDS_TO_RELATE
    return (
        _are_shuffled(one.words, two.words)
        or _ask_for_other_sides(one.words, two.words)
        or _ask_for_other_sides(two.words, one.words)
        or (not is_long and _are_swapped(one.words, two.words))
    )


def _ask_for_other_sides(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether one asks who did it ("who sued Apple") and two to whom ("who did Apple sue")."""
    for word in ASKING_WORDS.intersection(one, two):
        verb, (auxiliary, subject) = _after(one, word, 1)[0], _after(two, word, 2)
        is_about_another = verb not in STOPWORDS and stem(verb) != stem(subject)
        if verb and auxiliary in ASKING_FOR_OBJECT and is_about_another:
            return True
    return False


def _after(words: Sequence[str], word: str, count: int) -> list[str]:
    """So many words behind one, empty where there are none."""
    place = words.index(word) + 1
    return [*words[place : place + count], *[""] * count][:count]


def _are_swapped(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether something stood left of a relation, and something right, that changed places."""
    a, b = _content(one), _content(two)
    for relation in RELATIONS.intersection(one, two):
        places = [[i for i, word in enumerate(words) if word == relation] for words in (one, two)]
        if len(places[0]) != len(places[1]):
            continue
        for i, j in zip(*places, strict=True):
            left, right = _sides(a, i)
            other_left, other_right = _sides(b, j)
            if left & other_right and right & other_left:
                return True
    return False


def _sides(content: Sequence[str], place: int) -> tuple[set[str], set[str]]:
    """What stands only left of a place, and only right of it."""
    left, right = set(content[:place]), set(content[place + 1 :])
    return left - right - {""}, right - left - {""}


def _content(words: Sequence[str]) -> list[str]:
    """The stem of each word, empty if it has no meaning of its own."""
    return ["" if word in STOPWORDS else stem(word) for word in words]


def _are_shuffled(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether they are of the same words in another order that may matter.

    It does not among keywords, nor where only words without a meaning of their own have moved, or a
    phrase went to the front ("in Python, how do I ..."), or around "and".
    """
    if len(one) != len(two) or STOPWORDS.isdisjoint(one):
        return False
    one, two = _normal_order(one), _normal_order(two)
    a, b = ([stem(PERSONS.get(word, word)) for word in words] for words in (one, two))
    if Counter(a) != Counter(b) or _joined(a) in _joined([*b, *b]):
        return False
    return _content_and_persons(one) != _content_and_persons(two)


def _content_and_persons(words: Sequence[str]) -> list[str]:
    named = [
        PERSONS.get(word, content) for word, content in zip(words, _content(words), strict=True)
    ]
    return [*filter(None, named)]


def _joined(words: Sequence[str]) -> str:
    return "\n" + "".join(f"{word}\n" for word in words)


def _normal_order(words: Sequence[str]) -> list[str]:
    ordered = list(words)
    for place in range(1, len(ordered) - 1):
        if ordered[place] in _SYMMETRIC and ordered[place - 1] > ordered[place + 1]:
            ordered[place - 1], ordered[place + 1] = ordered[place + 1], ordered[place - 1]
    return ordered


def _words(one: Reading, two: Reading) -> bool:
    """In a long text, a few words make no difference to its vector; they are what was asked."""
    a, b = set(_content(one.words)) - {""}, set(_content(two.words)) - {""}
    shared = len(a & b)
    return shared >= _MANY_SHARED_WORDS and 0 < len(a ^ b) <= shared / 2


_CHECKS: tuple[tuple[str, Callable[[Reading, Reading], bool]], ...] = (
    ("numbers", _numbers),
    ("quoted", _quotations),
    ("names", _names),
    ("negation", _negation),
    ("opposites", _opposites),
    ("order", _order),
    ("words", _words),
)
