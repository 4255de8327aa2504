"""Whose turn it is, where several namespaces wait for one model."""

from __future__ import annotations

from sidecar.models.fair_shares import FairShares


def waiting(*namespaces: str, **weights: float) -> FairShares:
    shares = FairShares(lambda name: weights.get(name, 1.0))
    for name in namespaces:
        shares.begin(name)
    return shares


def turns(shares: FairShares, count: int, work: float = 1.0) -> str:
    """Whose the next turns are, with a run for each."""
    taken = []
    for _ in range(count):
        taken.append(shares.turn())
        shares.charge(taken[-1], work)
    return "".join(taken)


def test_namespaces_take_turns() -> None:
    assert turns(waiting("a", "b", "c"), 6) == "abcabc"


def test_one_with_twice_the_share_has_twice_as_many_turns() -> None:
    taken = turns(waiting("a", "b", a=2), 30)
    assert (taken.count("a"), taken.count("b")) == (20, 10)


def test_one_whose_turns_are_longer_has_fewer() -> None:
    shares = waiting("a", "b")
    work = {"a": 3.0, "b": 1.0}
    taken = []
    for _ in range(40):
        taken.append(shares.turn())
        shares.charge(taken[-1], work[taken[-1]])
    assert (taken.count("a"), taken.count("b")) == (10, 30)


def test_who_wanted_nothing_has_saved_up_nothing() -> None:
    shares = waiting("a")
    turns(shares, 50)
    shares.begin("b")
    assert turns(shares, 6) == "bababa"


def test_who_is_ahead_stays_ahead_though_for_a_moment_he_wants_nothing() -> None:
    shares = waiting("a", "b")
    assert shares.turn() == "a"
    shares.charge("a", 3.0)
    shares.end("a")
    shares.begin("a")
    assert turns(shares, 5) == "bbbba"


def test_who_was_ahead_is_level_once_the_others_have_had_as_much() -> None:
    shares = waiting("a", "b")
    shares.charge("a", 3.0)
    shares.end("a")
    turns(shares, 10)
    shares.begin("a")
    assert turns(shares, 4) == "abab"


def test_a_row_of_newcomers_does_not_keep_one_who_waits_from_his_turns() -> None:
    shares = waiting("patient")
    taken = []
    for each in range(2000):
        shares.begin(f"new {each}")
        taken.append(shares.turn())
        shares.charge(taken[-1], 1.0)
        if taken[-1] != "patient":
            shares.end(taken[-1])
    assert taken.count("patient") >= 20
    # Those who wait behind others have their turns, too.
    shares = waiting("patient")
    patient = 0
    for each in range(2000):
        shares.begin(f"new {each}")
        for _ in range(2):
            patient += (name := shares.turn()) == "patient"
            shares.charge(name, 1.0)
            if name != "patient":
                shares.end(name)
    assert patient >= 1000
    assert len(shares._ahead) < 200


def test_when_nobody_waits_any_more_all_are_level() -> None:
    shares = waiting("a")
    turns(shares, 5)
    shares.end("a")
    shares.begin("a")
    shares.begin("b")
    assert turns(shares, 4) == "abab"


def test_another_share_counts_from_the_next_turn_on() -> None:
    weights = {"a": 1.0}
    shares = FairShares(lambda name: weights.get(name, 1.0))
    shares.begin("a")
    shares.begin("b")
    turns(shares, 10)
    weights["a"] = 4.0
    taken = turns(shares, 50)
    assert (taken.count("a"), taken.count("b")) == (40, 10)


def test_a_namespace_may_fill_up_the_runs_of_others_until_it_is_a_run_ahead() -> None:
    shares = waiting("a", "b", "c", c=4)
    assert shares.turn() == "a"
    assert shares.may_join("a")
    assert shares.may_join("b")
    shares.charge("b", 0.9)
    shares.charge("c", 0.9)
    assert shares.may_join("b")
    shares.charge("b", 0.2)
    shares.charge("c", 0.2)
    assert not shares.may_join("b")
    # With a larger share it is not further ahead for it.
    assert not shares.may_join("c")
    shares.charge("a", 1.0)
    assert turns(shares, 4) == "ccca"
    assert shares.may_join("b")
