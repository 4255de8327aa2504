"""The words that `sidecar.cache.guard` knows: what denies, what counts, what excludes what."""

from __future__ import annotations

from functools import lru_cache

_ENDINGS = ("ings", "ing", "ied", "ies", "ed", "es", "ly", "s")
# What callers send without a blank may have thousands of characters, and be no word.
_LONGEST_REMEMBERED = 64


def stem(word: str) -> str:
    """What the forms of a word have in common; crude, but the same for each of them."""
    return _remembered_stem(word) if len(word) <= _LONGEST_REMEMBERED else _stem(word)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + ("y" if ending in ("ied", "ies") else "")
            break
    if len(word) > 2 and word[-1] == "e":
        word = word[:-1]
    if len(word) > 2 and word[-1] == word[-2]:
        word = word[:-1]
    return word


_remembered_stem = lru_cache(maxsize=10_000)(_stem)


def word_set(text: str) -> frozenset[str]:
    """The set of the words in a text."""
    return frozenset(text.split())


# Without meaning of their own, where the question is whether two texts name the same things.
STOPWORDS = word_set(
    """
    a about actually all also am an and any are as at be been being but by can could dear did do
    does done each every for from get give got had has have having he hello help her here hers hey
    hi him his how i if in into is it its itself just kindly know let like may me might mine more
    most much must my need no not of off on one only onto or our out over please quite really s
    shall she should show so some tell than thank thanks that the their them then there these they
    this those through to too under up us very want was way we were what when where whether which
    while who whom whose why will with without would yes you your yours
    """
)
ARTICLES = word_set("a an the")

# What stands left of them has another part than what stands right of them.
RELATIONS = word_set(
    """
    to into onto from than over before after by of in on with for as instead without not but through
    via per under above below against until replace replaces is are was
    -> => → - / < > <= >= nach von zu vor als vers de avant après desde hasta
    """
)

# Who does it and to whom, in one form for both.
PERSONS = {
    "i": "i", "me": "i", "you": "you", "he": "he", "him": "he", "she": "she", "her": "she",
    "we": "we", "us": "we", "they": "they", "them": "they",
}  # fmt: skip
# "who sued" asks for the one that did, "who did Apple sue" for the other.
ASKING_WORDS = word_set("who whom what which")
ASKING_FOR_OBJECT = word_set("do does did")

# With words such as "fail", which deny as "does not work" does. Then German, French, Spanish.
# French "ne" is left out: it comes with one of the others, and is left out in speech.
DENIALS = word_set(
    """
    not no never none nobody nothing nowhere neither nor without except excluding unless hardly
    unable impossible avoid avoiding prevent preventing prevents fail fails failed failing lack
    lacks lacking
    nicht kein keine keinen keiner keines keinem nie niemals ohne weder nichts niemand ausser
    pas jamais sans aucun aucune rien sauf
    nunca jamás sin ningún ninguno ninguna nada nadie tampoco excepto salvo
    """
)
DENYING_PREFIXES = ("a", "non", "un", "dis", "in", "im", "il", "ir", "de", "anti", "mis")
# Of words that are opposites if the rest of them is the same.
OPPOSITE_PREFIXES = (
    ("hyper", "hypo"), ("pre", "post"), ("over", "under"), ("up", "down"), ("micro", "macro"),
    ("inter", "intra"), ("in", "out"), ("in", "ex"), ("im", "ex"), ("en", "de"), ("mono", "poly"),
)  # fmt: skip
DENYING_SUFFIXES = ("less", "free")

_MEASURES = word_set("long old far often many much tall high fast big large deep heavy")
_PARTICLES = word_set("in on out off up")
COMPOUNDS = {
    "how": _MEASURES, "log": _PARTICLES, "sign": _PARTICLES, "check": _PARTICLES,
}  # fmt: skip
"""Stems of words that mean something else together with one that follows."""

# What people write without the apostrophe, and what does not split where it stands.
CONTRACTIONS = {
    written: tuple(meant.split())
    for written, meant in {
        "aint": "is not", "arent": "are not", "cannot": "can not", "cant": "can not",
        "couldnt": "could not", "didnt": "did not", "doesnt": "does not", "dont": "do not",
        "hasnt": "has not", "havent": "have not", "isnt": "is not", "shouldnt": "should not",
        "wasnt": "was not", "werent": "were not", "wont": "will not", "wouldnt": "would not",
    }.items()
}  # fmt: skip

_SMALL_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_SMALL_NUMBERS.split())} | {
    "dozen": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100",
    "thousand": "1000", "million": "1000000", "billion": "1000000000",
}  # fmt: skip
# "which one", "one of": no number.
BEFORE_PRONOUN_ONE = word_set(
    """
    which this that the each every another any no other new good better best does do can could
    should would must may how
    """
)
AFTER_PRONOUN_ONE = word_set("of another or")
ROMAN_NUMERALS = word_set("ii iii iv vi vii viii ix xi xii xiii xiv xv")

# Spellings of a unit, then "|" and the next one; a line for each kind.
_UNITS = """
    mm millimeter millimetre | cm centimeter centimetre | m meter metre | km kilometer kilometre |
        inch inches | ft foot feet | yd yard | mi mile
    mg milligram | g gram gramme | kg kilo kilogram | t ton tonne | oz ounce | lb lbs pound
    ml milliliter millilitre | l liter litre | gal gallon | pint | cup
    °c celsius | °f fahrenheit | kelvin
    ns nanosecond | ms millisecond | s sec second | min minute | h hr hrs hour hourly |
        d day daily | week weekly | month monthly | quarter quarterly |
        year yearly annual annually annum | decade | century
    am | pm
    bit | byte | kb kilobyte | kib | mb megabyte | mib | gb gigabyte | gib | tb terabyte | tib
    w watt | kw kilowatt | mw megawatt | kwh
    $ dollar usd | € euro eur | £ gbp sterling | ¥ yen jpy | chf franc | ₹ rupee inr
    % percent
"""

# Words that exclude those between other bars of the same line.
_OPPOSITES = """
    enable activate | disable deactivate
    start begin launch boot | stop end quit halt
    open | close shut
    on | off
    in inside | out outside
    within | after | before
    since | until till
    upper | lower
    up | down
    to | from
    with | without
    before | after
    over above | under below beneath
    more greater higher > | less fewer lower smaller <
    most | least fewest
    max maximum maximal | min minimum minimal
    increase raise grow | decrease reduce lower shrink
    add insert append | remove delete drop | update edit modify
    create make | delete destroy remove
    buy purchase bought | sell sold
    lend | borrow
    send sent | receive received
    push | pull fetch
    read | write written | delete
    get | set | unset
    save | load | discard
    show | hide
    log-in login log-on sign-in signin sign-on | log-out logout log-off sign-out sign-off signout |
        sign-up signup register
    check-in checkin | check-out checkout
    undo | redo
    install | uninstall | reinstall | upgrade update | downgrade
    allow permit grant | block deny forbid ban revoke
    accept approve | reject decline refuse
    inbound incoming | outbound outgoing
    public | private
    local | remote
    client | server
    frontend | backend
    parent | child | sibling
    source | destination target
    sender | recipient receiver
    producer publisher | consumer subscriber
    primary | secondary | replica
    deposit | withdraw withdrawal
    debit | credit
    profit | loss
    income revenue | expense cost
    arrive arrival | depart departure leave
    win won | lose lost
    gain gained | lose lost
    thin thinner | thick thicken thicker
    pass | fail
    success succeed | failure fail
    true | false
    yes | no
    positive | negative
    good better best | bad worse worst
    right correct | wrong incorrect
    big large bigger larger biggest largest | small smaller smallest little
    long longer longest | short shorter shortest
    tall taller tallest | short shorter shortest
    high highest | low lowest
    fast faster fastest quick quicker quickest | slow slower slowest
    cheap cheaper cheapest | expensive pricey
    early earlier earliest | late later latest
    old older oldest | new newer newest latest | young younger youngest
    hot hotter hottest warm | cold colder coldest cool
    easy easier easiest | hard harder hardest difficult
    strong | weak
    light | dark
    light | heavy
    full | empty
    wet | dry
    safe | dangerous
    first 1st | second 2nd | third 3rd | fourth 4th | fifth 5th | last final
    next | last previous | this current
    always | never | sometimes
    all every each | some | none
    many | few
    left | right
    top | bottom
    front | back rear
    north | south | east | west
    northern | southern | eastern | western
    horizontal | vertical
    row | column
    ascending asc | descending desc
    uppercase | lowercase
    red | blue | green | yellow | black | white
    today | tomorrow | yesterday | tonight
    morning | noon | afternoon | evening | night
    breakfast | lunch | dinner
    summer | winter | autumn
    monday mon | tuesday tue | wednesday wed | thursday thu | friday fri | saturday sat | sunday sun
    january jan | february feb | march | april apr | june jun | july jul | august aug |
        september sep sept | october oct | november nov | december dec
    he his him | she her hers
    man men male | woman women female
    boy | girl
    father dad | mother mom mum
    son | daughter
    brother | sister
    husband | wife
    adult | child children kid | baby infant | student | senior
    where | when | who whom whose | why | how
    how-long | how-old | how-far | how-often | how-many | how-much | how-tall how-high | how-fast |
        how-big how-large | how-deep | how-heavy
    is are am | was were
    do does | did
    ^can ^could ^may ^might | ^should | ^must
    + plus | - minus | * times multiplied | / divided
    == equal | != unequal
    > | < | >= | <=
"""


def _lines(table: str) -> list[list[list[str]]]:
    """Alternatives of each line, which goes on while it ends with a bar."""
    joined = " ".join(
        line.strip() + ("" if line.endswith("|") else "\n") for line in table.split("\n")
    )
    lines = [[slot.split() for slot in line.split("|")] for line in joined.splitlines()]
    return [line for line in lines if line[0]]


UNITS: dict[str, str] = {
    spelling: slot[0]
    for line in _lines(_UNITS)
    for slot in line
    for name in slot
    for spelling in (name, name + "s")
}
"""The unit that a spelling means; only next to a number, for "s" and "min" mean more."""


def _alternatives() -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    # Where no number stands beside them, only spellings that mean nothing else.
    units = [
        [[name for name in slot if len(name) > 1 and name != "min"] for slot in line]
        for line in _lines(_UNITS)
    ]
    for number, line in enumerate([*_lines(_OPPOSITES), *units]):
        for place, slot in enumerate(line):
            for name in {stem(name) for name in slot}:
                found.setdefault(name, []).append((number, place))
    return found


ALTERNATIVES = _alternatives()
"""Stem of a word -> the lines of words that exclude one another, and its place in each."""
