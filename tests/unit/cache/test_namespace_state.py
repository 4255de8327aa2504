"""What a sidecar makes of answers and messages, in whatever order they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache import namespace_state
from sidecar.cache.change_log import ChangeLog
from sidecar.cache.namespace_state import KnownTags, NamespaceState, kind_scope

TAG, OTHER = b"t" * 16, b"o" * 16


@pytest.fixture
def state() -> NamespaceState:
    return new_state()


def new_state() -> NamespaceState:
    state = NamespaceState("n", KnownTags(), ChangeLog())
    state.merge_base(1)
    return state


def know(state: NamespaceState, generation: int) -> None:
    with state.asking([TAG]) as question:
        state.learn(question, {TAG: generation})


def test_a_message_raises_what_is_known_and_never_lowers_it(state: NamespaceState) -> None:
    know(state, 5)
    state.hear(TAG, 7)
    assert state.generation(TAG) == 7
    state.hear(TAG, 6)
    assert state.generation(TAG) == 7


def test_a_message_makes_no_tag_known_for_a_later_one_may_be_on_its_way(
    state: NamespaceState,
) -> None:
    state.hear(TAG, 7)
    assert state.generation(TAG) is None
    know(state, 5)
    state.forget_tags()
    state.hear(TAG, 7)
    assert state.generation(TAG) is None


def test_every_message_changes_the_stamp(state: NamespaceState) -> None:
    stamp = state.stamp
    state.hear(TAG, 7)
    assert state.stamp != stamp


def test_an_answer_that_is_older_than_what_was_heard_meanwhile_is_not_believed(
    state: NamespaceState,
) -> None:
    with state.asking([TAG, OTHER]) as question:
        state.hear(TAG, 7)
        state.learn(question, {TAG: 5, OTHER: 5})
    assert state.generation(TAG) == 7
    assert state.generation(OTHER) == 5


def test_an_answer_from_before_all_tags_became_unknown_makes_none_known(
    state: NamespaceState,
) -> None:
    with state.asking([TAG]) as question:
        state.forget_tags()
        state.learn(question, {TAG: 5})
        assert state.generation(TAG) is None
        # But one that was asked for since is raised by it.
        know(state, 4)
        state.learn(question, {TAG: 5})
        assert state.generation(TAG) == 5


def test_an_answer_from_before_counts_for_those_who_have_asked_since(
    state: NamespaceState,
) -> None:
    with state.asking([TAG]) as old:
        state.forget_tags()
        with state.asking([TAG]) as new:
            state.learn(old, {TAG: 7})
            state.learn(new, {TAG: 5})
    assert state.generation(TAG) == 7


@given(st.data())
def test_at_the_end_a_tag_is_unknown_or_as_it_was_last_invalidated(data: st.DataObject) -> None:
    """The store moves on; messages come in order but late, answers come late in any order."""
    state = new_state()
    store, unread = 1, []
    questions: list[tuple[object, object, int]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["invalidate", "message", "ask", "answer", "forget"])):
            case "invalidate":
                store += 1
                unread.append(store)
            case "message" if unread:
                state.hear(TAG, unread.pop(0))
            case "ask":
                asking = state.asking([TAG])
                questions.append((asking, asking.__enter__(), store))
            case "answer" if questions:
                place = data.draw(st.integers(0, len(questions) - 1))
                asking, question, generation = questions.pop(place)
                state.learn(question, {TAG: generation})
                asking.__exit__(None, None, None)
            case "forget":
                state.forget_tags()
        # What was heard is obeyed, in any case.
        heard = unread[0] - 1 if unread else store
        assert state.generation(TAG) is None or state.generation(TAG) >= heard
    for generation in unread:
        state.hear(TAG, generation)
    assert state.generation(TAG) in (None, store)


@given(st.data())
def test_changes_are_told_once_and_in_order_however_replies_and_messages_interleave(
    data: st.DataObject,
) -> None:
    state = new_state()
    know(state, 100)
    count = data.draw(st.integers(1, 8))
    generations = [100 + 10 * number for number in range(count + 1)]
    steps = [(generations[i + 1], generations[i], b"%d" % i) for i in range(count)]
    # Those that this sidecar announced itself are heard of twice.
    own = data.draw(st.lists(st.sampled_from(steps), unique=True))
    arrivals = data.draw(st.permutations(steps + own))
    for step in arrivals:
        state.hear(TAG, *step)
        current = generations.index(state.generation(TAG))
        for start in range(current + 1):
            told = state.changes_since(TAG, generations[start])
            assert told is None or told == [b"%d" % i for i in range(start, current)]
    for start in range(count + 1):
        expected = [b"%d" % i for i in range(start, count)]
        assert state.changes_since(TAG, generations[start]) == expected


def test_an_invalidation_without_a_change_leaves_a_gap(state: NamespaceState) -> None:
    know(state, 1)
    state.hear(TAG, 2, 1, b"change")
    state.hear(TAG, 3)
    state.hear(TAG, 4, 3, b"change")
    assert state.changes_since(TAG, 1) is None
    assert state.changes_since(TAG, 2) is None
    assert state.changes_since(TAG, 3) == [b"change"]
    assert state.changes_since(TAG, 4) == []


def test_of_a_tag_that_is_not_known_no_changes_are(state: NamespaceState) -> None:
    state.hear(TAG, 2, 1, b"change")
    assert state.changes_since(TAG, 1) is None
    know(state, 2)
    assert state.changes_since(TAG, 1) == [b"change"]


def test_another_base_breaks_the_chain(state: NamespaceState) -> None:
    know(state, 1)
    state.hear(TAG, 2, 1, b"change")
    state.merge_base(5)
    know(state, 5)
    assert state.changes_since(TAG, 1) is None
    assert state.changes_since(TAG, 2) is None


def test_too_many_tags_invalidated_alone_invalidate_the_namespace(
    state: NamespaceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace_state, "MAX_UNSHARED_TAGS", 3)
    epoch = state.epoch
    for number in range(4):
        state.invalidate_unshared([b"%016d" % number], 50)
    assert not state.unshared
    assert state.epoch > epoch
    assert list(state.unshared_scopes) == [b""]


def test_what_is_invalidated_again_while_the_store_is_told_remains_to_be_shared(
    state: NamespaceState,
) -> None:
    state.invalidate_unshared([TAG], 50)
    state.raise_unshared(kind_scope("search"), 50)
    told, mark = dict(state.unshared), state.unshared_scopes[kind_scope("search")]
    state.invalidate_unshared([TAG], 60)
    state.raise_unshared(kind_scope("search"), 60)
    state.tags_shared(told)
    state.scope_shared(kind_scope("search"), mark)
    assert list(state.unshared) == [TAG]
    assert list(state.unshared_scopes) == [kind_scope("search")]
    state.tags_shared(dict(state.unshared))
    state.scope_shared(kind_scope("search"), state.unshared_scopes[kind_scope("search")])
    assert not state.unshared
    assert not state.unshared_scopes
