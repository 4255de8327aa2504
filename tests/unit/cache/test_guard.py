"""The guard of semantic answers. The tables are what a user should know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.guard import MAX_CHARACTERS, contradiction
from sidecar.cache.guard_text import read
from sidecar.cache.guard_words import _remembered_stem, stem

if TYPE_CHECKING:
    from collections.abc import Callable

# Each line: two texts that may share an answer.
PARAPHRASES = """
how do i get a refund | How can I get my money back?
What time does the store close? | When does the shop close?
What's the fastest way to get to the airport? | How do I get to the airport quickest?
Can you explain recursion to me? | Please explain recursion
explain recursion | Explain recursion please.
How old is the universe? | What is the age of the universe?
What is the speed of light? | How fast does light travel?
How to boil an egg | How do you boil eggs?
who is the president of brazil | Who is Brazil's president?
Who invented the telephone? | Who was the inventor of the telephone?
How do I exit vim? | How to quit Vim
how do I merge two dictionaries in python | Merging two dictionaries in Python
How do I check if a key exists in a dictionary? | Check whether a dictionary contains a key
What does "git stash" do? | What does git stash do?
Why am I unable to log in? | Why can't I log in?
Why can't I log in to my account? | I cannot log in to my account, why?
My card was declined, what should I do? | What should I do if my card was declined?
How do I update my billing information? | How can I change my billing info?
Where can I download my invoice? | Where do I download an invoice?
Does the hotel have a swimming pool? | Is there a swimming pool in the hotel?
Are pets allowed? | Can I bring my pet?
How long is the warranty? | What is the length of the warranty?
How many days of vacation do I have? | How many vacation days do I have?
How do I request vacation? | How can I request time off?
Is breakfast included? | Does the price include breakfast?
What's the wifi password? | What is the Wi-Fi password?
How far is the moon? | What is the distance to the moon?
When did World War II end? | In which year did World War II end?
Convert 100 USD to EUR | How much is 100 dollars in euros?
What is 7 times 8? | What is 7 * 8?
What is 12 + 30? | 12 plus 30
how many ounces are in a pound | How many ounces in a pound?
How do I open a CSV file in Excel? | Opening CSV files in Excel
How do I set up two-factor authentication? | How can I enable two-factor authentication?
What is the best time to visit Japan? | When is the best time to visit Japan?
What should I wear to a wedding? | What to wear to a wedding
How much protein is in 100 g of chicken? | How much protein does 100 grams of chicken have?
Who painted the Mona Lisa? | Who is the painter of the Mona Lisa?
What are the office hours on Monday? | What are Monday's office hours?
Is there parking near the stadium? | Can I park near the stadium?
How do I mute a conversation? | How can I mute conversations?
How do I restore a deleted file? | How can I recover a deleted file?
What is the limit for API requests per minute? | How many API requests per minute are allowed?
How do I get the length of an array in JavaScript? | JavaScript: get array length
how to use async/await in C# | How do I use async/await in C#?
How do I set the timeout to 30 seconds? | Set timeout to 30s
Which port does PostgreSQL use by default? | What is the default port of PostgreSQL?
What is the default port of Redis? | Which port does redis use by default?
How do I make a table with 3 columns in HTML? | How do I create an HTML table with three columns?
How do I pay with PayPal? | Can I pay with PayPal?
Wie setze ich mein Passwort zurück? | Wie kann ich mein Passwort zurücksetzen?
Warum funktioniert mein Drucker nicht? | Warum geht mein Drucker nicht?
Comment réinitialiser mon mot de passe ? | Comment puis-je réinitialiser mon mot de passe ?
¿Cómo restablezco mi contraseña? | ¿Cómo puedo restablecer mi contraseña?
I'm not able to upload photos | I am not able to upload photos.
The app doesn't start on my phone | The app does not start on my phone
Should I take the job or not? | Should I take the job?
What causes inflation? | What are the causes of inflation?
Is coffee bad for you? | Is drinking coffee bad for your health?
How do vaccines work? | How does a vaccine work?
What does the error ECONNREFUSED mean? | What is the meaning of the ECONNREFUSED error?
How can I lower my blood pressure? | How do I reduce my blood pressure?
What is photosynthesis? | What's photosynthesis
HOW DO I RESET MY PASSWORD | How can I reset my password?
How Do I Reset My Password? | how do i reset my password
How do I sort a list in Python? | In Python, how do I sort a list?
What is the difference between TCP and UDP? | What is the difference between UDP and TCP?
How do I read a file line by line in Python? | Reading a file line by line in Python
Which one is better? | Which is better?
It costs 1,000 USD | It costs 1000 dollars
What is new in version 1.2? | What is new in v1.2?
What does "idempotent" mean? | What does idempotent mean?
Is it safe? | is it SAFE
What's the e-mail of support? | What is the email of support?
sort list python | python sort list
Is X unsafe? | Is X not safe?
what redis uses for storage | What does Redis use for storage?
Who do I contact? | Who should I contact?
Can you tell me how I sort a list? | How do I sort a list?
Can you tell me where I park? | Where do I park, can you tell me?
She lost her keys, what can she do? | What can she do, she lost her keys?
How do I lose weight? | How can I lose weight?
The meeting is at 10 a.m. | The meeting is at 10 am
"""
REASONS = {
    "numbers": """
What was the temperature on May 3? | What was the temperature on May 4?
Call me at 10:30 | Call me at 10:45
Set a timer for 5 minutes | Set a timer for 5 hours
Set a timer for five minutes | Set a timer for ten minutes
How much is 100 USD? | How much is 1,000 USD?
How much protein is in 100 g of chicken? | How much protein is in 100 oz of chicken?
Is 0.1 mg enough? | Is 1.0 mg enough?
Upgrade from 1.2 to 1.3 | Upgrade from 1.3 to 1.4
How do I use utf-8? | How do I use utf-16?
Does the iPhone 12 have 5G? | Does the iPhone 13 have 5G?
The meeting is at 3 pm | The meeting is at 3 am
""",
    "quoted": """
Translate "good night" to French | Translate "good morning" to French
What does 'fn' mean in Rust? | What does 'let' mean in Rust?
""",
    "names": """
Is IPv6 supported? | Is IPv4 supported?
what is vitamin b good for | what is vitamin k good for
When did World War I end? | When did World War II end?
How do I use os.path.join? | How do I use os.path.exists?
How do I use useState? | How do I use useEffect?
What is --force for? | What is --quiet for?
How do I edit ~/.bashrc? | How do I edit ~/.profile?
What is C? | What is C++?
How do I learn C++? | How do I learn C#?
Which currency does Sweden use? | Which currency does Norway use?
Who plays for Real Madrid? | Who plays for Barcelona?
What is the VAT in Spain? | What is the VAT in Italy?
How do I connect to Redis from Node? | How do I connect to Kafka from Node?
Is it open on Monday? | Is it open on Sunday?
""",
    "negation": """
Should I take ibuprofen with food? | Should I take ibuprofen without food?
Which drugs can be taken with alcohol? | Which drugs can't be taken with alcohol?
Is it legal to park here? | Is it illegal to park here?
Who is allowed to enter? | Who isn't allowed to enter?
Is the test reliable? | Is the test unreliable?
List users who have logged in | List users who have never logged in
Show orders that were shipped | Show orders that were not shipped
Show all orders except cancelled ones | Show all orders including cancelled ones
Can I freeze cooked rice? | Can I freeze uncooked rice?
How do I use synchronous replication? | How do I use asynchronous replication?
Which seats are available? | Which seats are unavailable?
Which cheese is lactose-free? | Which cheese has lactose?
Recipes with nuts | Recipes without nuts
Do I need a visa? | Don't I need a visa?
How do I boot in safe mode? | How do I boot in unsafe mode?
Darf ich hier parken? | Darf ich hier nicht parken?
Puis-je entrer ? | Ne puis-je pas entrer ?
Un café avec sucre | Un café sans sucre
¿Puedo entrar? | ¿No puedo entrar?
Un café con azúcar | Un café sin azúcar
Are there direct flights? | Are there no direct flights?
Ist das Essen mit Milch? | Ist das Essen ohne Milch?
Warum startet das Programm? | Warum startet das Programm nicht?
Sind Hunde erlaubt? | Sind keine Hunde erlaubt?
Why did the build fail? | Why did the build pass?
How do I create a passwordless user? | How do I create a user with a password?
Is this file encrypted? | Is this file non-encrypted?
""",
    "opposites": """
Which plan includes support? | Which plan excludes support?
Does the drug raise blood pressure? | Does the drug lower blood pressure?
What is 2 * 3? | What is 2 + 3?
Play the second episode | Play the third episode
Who is older, Anna or Maria? | Who is younger, Anna or Maria?
Trains to Vienna | Trains from Vienna
How do I migrate to MySQL? | How do I migrate from MySQL?
is it open in january | is it open in july
Opening hours in the morning | Opening hours in the evening
What did I spend last month? | What did I spend last year?
What did I spend last month? | What will I spend next month?
weekly report | monthly report
What's for breakfast? | What's for dinner?
How do I zoom in? | How do I zoom out?
Are refunds possible within 14 days? | Are refunds possible after 14 days?
Total sales since 2020 | Total sales until 2020
What is the upper limit? | What is the lower limit?
How do I gain weight? | How do I lose weight?
Does aspirin thin blood? | Does aspirin thicken blood?
Is the ice thin? | Is the ice thick?
hyperthyroidism diet | hypothyroidism diet
How do I upload a file? | How do I download a file?
I am underestimating it | I overestimate it
How do I log in? | How do I log out?
How do I sign in? | How do I sign up?
Turn the volume up | Turn the volume down
Turn on the light on the balcony | Turn off the light on the balcony
How do I show hidden files? | How do I hide files?
Is the glass full? | Is the glass empty?
Who is the oldest person? | Who is the youngest person?
How do I merge rows in Excel? | How do I merge columns in Excel?
How do I make text uppercase? | How do I make text lowercase?
Where can I buy tickets? | When can I buy tickets?
Why should I vote? | How should I vote?
How many moons does Mars have? | How old are the moons of Mars?
Can I delete the file? | Must I delete the file?
Who is the queen of Denmark? | Who was the queen of Denmark?
My son has fever | My daughter has fever
What is the dose for children? | What is the dose for adults?
""",
    "order": """
Upgrade from 1.2 to 1.3 | Upgrade from 1.3 to 1.2
Did Germany beat Brazil? | Did Brazil beat Germany?
Does Anna owe Bob money? | Does Bob owe Anna money?
Is Anna taller than Maria? | Is Maria taller than Anna?
Is 5 greater than 3? | Is 3 greater than 5?
Move files from laptop to server | Move files from server to laptop
How do I go from Lyon to Nice by train? | How do I go from Nice to Lyon by train?
Can cats be allergic to humans? | Can humans be allergic to cats?
Should I use A instead of B? | Should I use B instead of A?
Does rain cause floods? | Do floods cause rain?
Is every dog an animal? | Is every animal a dog?
How do I use Java from Python? | How do I use Python from Java?
Sort from high to low | Sort from low to high
Wie komme ich von Köln nach Bonn? | Wie komme ich von Bonn nach Köln?
he beat her | she beat him
Do I owe you money? | Do you owe me money?
Did they invite us? | Did we invite them?
who sued apple | who did apple sue
Who bought Instagram? | Who did Instagram buy?
What causes inflation? | What does inflation cause?
Who has Apple sued? | Who has sued Apple?
""",
}

LANDLORD = (
    "Can a landlord in this city raise the rent during the first year of a contract if the"
    " apartment was {}?"
)


def pairs(table: str) -> list[tuple[str, str]]:
    return [(a, b) for a, _, b in (line.partition(" | ") for line in table.strip().split("\n"))]


DIFFERENT = [(reason, *pair) for reason, table in REASONS.items() for pair in pairs(table)]


@pytest.mark.parametrize(("a", "b"), pairs(PARAPHRASES))
def test_a_paraphrase_may_share_the_answer(a: str, b: str) -> None:
    assert contradiction(a, b) is None
    assert contradiction(b, a) is None


@pytest.mark.parametrize(("reason", "a", "b"), DIFFERENT)
def test_what_only_looks_alike_is_refused_for_its_reason(reason: str, a: str, b: str) -> None:
    assert contradiction(a, b) == reason
    assert contradiction(b, a) == reason


def test_long_texts_that_differ_in_a_word_are_refused_and_short_ones_left_to_the_model() -> None:
    a, b = LANDLORD.format("renovated"), LANDLORD.format("damaged")
    assert contradiction(a, b) == "words"
    assert contradiction("How do I boil eggs?", "How do I cook eggs?") is None


def test_a_long_text_may_have_other_words_without_meaning_or_other_forms() -> None:
    a = LANDLORD.format("renovated")
    assert (
        contradiction(a, f"Hello, please tell me: {a.replace('raise', 'raising')} Thanks") is None
    )


def test_a_text_too_long_to_be_read_is_refused_even_with_itself() -> None:
    text = "a word " * (MAX_CHARACTERS // 7)
    assert contradiction(text, text) is None
    assert contradiction(text + "too much", text) == "length"
    assert contradiction("x", text + "too much") == "length"


FRAGMENTS = """
how to from not isn't one 5 km $3.50 v1.2 2nd f() a_b C++ Paris "q" 'r' or and e.g. -x /etc/hosts
p@q.de http://x.y - + un safe unsafe no-one the iPhone 1,000
"""
ALL = sorted({text for _, a, b in DIFFERENT for text in (a, b)})
TEXTS = st.one_of(
    st.sampled_from(ALL),
    st.text(st.characters(max_codepoint=0x17F, exclude_characters="İıŉſ"), max_size=60),
    st.lists(
        st.sampled_from(FRAGMENTS.split()),
        max_size=12,
    ).map(" ".join),
)


@given(TEXTS, TEXTS)
def test_it_is_symmetric(a: str, b: str) -> None:
    assert contradiction(a, b) == contradiction(b, a)


@given(TEXTS, st.sampled_from([str.upper, str.lower, str.title, str.swapcase, str.casefold]))
def test_a_text_never_contradicts_itself_however_it_is_written(
    text: str, change: Callable[[str], str]
) -> None:
    assert contradiction(text, text) is None
    assert contradiction(text, change(text)) is None


@given(
    TEXTS,
    TEXTS,
    st.sampled_from(["", " ", "\n", "\t  "]),
    st.text("?!.,;: \n…", max_size=4),
)
def test_blanks_and_punctuation_at_the_ends_make_no_difference(
    a: str, b: str, before: str, after: str
) -> None:
    assert contradiction(before + a + after, b) == contradiction(a, b)


def test_what_is_too_long_to_be_a_word_is_not_remembered() -> None:
    before = _remembered_stem.cache_info().currsize
    for number in range(20):
        assert stem(f"{number}{'a' * 4000}s") == f"{number}{'a' * 3999}"
    assert _remembered_stem.cache_info().currsize == before


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", [".", ":", " ?", "…", "-", "-_", "@", "a@", "“a", "«", "„", "/-"])
def test_the_time_to_read_a_text_grows_as_its_length_does(unit: str) -> None:
    """Otherwise one that is 100 times as long as it may be takes a minute."""
    text = (unit * 400_000)[:400_000]
    assert read(text + "z").plain.endswith("z ")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    ["a", "a.", "a+", "a-", "/a", "a/", "-", "1,", "_", "'a", '"', "“a", "a@", "://", "a::", "./",
     "how ", "to a ", "Paris to Rome ", "\n", "Aa", "C++", "one "],
)  # fmt: skip
def test_no_text_takes_long_to_read(unit: str) -> None:
    text = (unit * MAX_CHARACTERS)[:MAX_CHARACTERS]
    for _ in range(5):
        contradiction(text, text[::-1])
