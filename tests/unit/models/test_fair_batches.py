"""Batches where several namespaces wait, and where some inputs can wait longer than others."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.demand import Priority
from sidecar.models.batcher import BACKGROUND_TURN, Batcher, BatchLimits

LIMITS = BatchLimits(tokens=512, rows=128, run_cost=12)
INTERACTIVE, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND


@dataclass(frozen=True)
class Input:
    number: int
    namespace: str
    length: int
    priority: Priority = INTERACTIVE


def add(batcher: Batcher[Input], *items: Input) -> None:
    for item in items:
        batcher.add(item, item.length, namespace=item.namespace, priority=item.priority)


def inputs(namespace: str, *lengths: int, priority: Priority = INTERACTIVE) -> list[Input]:
    return [Input(number, namespace, size, priority) for number, size in enumerate(lengths)]


limits_strategy = st.builds(
    BatchLimits, tokens=st.integers(1, 600), rows=st.integers(1, 20), run_cost=st.integers(0, 2000)
)
lengths_strategy = st.one_of(st.integers(0, 5), st.integers(0, 300))
weights_strategy = st.floats(0.1, 10)


@given(
    limits_strategy,
    st.lists(
        st.tuples(st.sampled_from("abc"), lengths_strategy, st.sampled_from(Priority)),
        max_size=60,
    ),
    st.sets(st.integers(0, 59)),
    st.lists(st.integers(0, 5), max_size=20),
)
def test_every_input_leaves_exactly_once(
    limits: BatchLimits,
    rows: list[tuple[str, int, Priority]],
    unwanted: set[int],
    arrivals: list[int],
) -> None:
    batcher: Batcher[Input] = Batcher(limits, lambda name: {"a": 3.0}.get(name, 1.0))
    coming = [Input(number, *row) for number, row in enumerate(rows)]
    left: list[Input] = []
    for count in [*arrivals, len(coming)]:
        add(batcher, *coming[:count])
        del coming[:count]
        left += batcher.discard(lambda item: item.number in unwanted)
        left += batcher.take()
    while batch := batcher.take():
        left += batch
    assert not batcher
    assert sorted(item.number for item in left) == list(range(len(rows)))


@given(
    limits_strategy,
    st.dictionaries(st.sampled_from("abcd"), weights_strategy, min_size=2),
    st.lists(lengths_strategy, min_size=1, max_size=20),
    st.integers(0, 100),
)
@example(BatchLimits(17, 17, 1), {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.75}, [0], 28)
def test_namespaces_that_go_on_waiting_have_work_done_by_their_shares(
    limits: BatchLimits, shares: dict[str, float], sizes: list[int], batches: int
) -> None:
    """Up to what a run holds, which none can have in parts: the bound of the paper."""
    batcher: Batcher[Input] = Batcher(limits, shares.__getitem__)
    for place, name in enumerate(shares):
        # Each has lengths of its own, so that some fill up runs more easily than others, and more
        # than a run takes: else none would wait for a moment.
        lengths = sizes[place % len(sizes) :: 2] or sizes
        add(batcher, *inputs(name, *lengths * limits.rows * 2))
    done: defaultdict[str, float] = defaultdict(float)
    for _ in range(batches):
        for item in batcher.take():
            done[item.namespace] += limits.work(item.length)
            add(batcher, item)
    largest = max(2.0, limits.work(max(sizes)))
    ahead = [done[name] / share for name, share in shares.items()]
    assert max(ahead) - min(ahead) <= (1 + largest) / min(shares.values()) + 1e-6


@given(
    limits_strategy,
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 7), lengths_strategy), min_size=1, max_size=40),
    st.integers(0, 20),
    lengths_strategy,
)
def test_who_begins_to_wait_is_served_once_others_had_a_run_or_two_of_work_each(
    limits: BatchLimits, others: int, load: list[tuple[int, int]], batches: int, length: int
) -> None:
    batcher: Batcher[Input] = Batcher(limits)
    busy = [Input(0, str(number % others), size) for number, size in load] * 20
    add(batcher, *busy)
    for _ in range(batches):
        add(batcher, *batcher.take())
    newcomer = Input(1, "new", length)
    add(batcher, newcomer)
    largest = max(limits.work(item.length) for item in busy)
    done = 0.0
    while newcomer not in (batch := batcher.take()):
        done += sum(limits.work(item.length) for item in batch)
        add(batcher, *batch)
        assert done <= others * (2 + max(1, largest))


def test_a_query_does_not_wait_for_the_thousands_of_another_namespace() -> None:
    batcher: Batcher[Input] = Batcher(LIMITS)
    add(batcher, *inputs("bulk", *[200] * 5000))
    batcher.take()
    add(batcher, *inputs("shop", 10))
    assert Input(0, "shop", 10) in batcher.take() + batcher.take()


def test_neighbours_in_length_of_other_namespaces_fill_a_run() -> None:
    batcher: Batcher[Input] = Batcher(LIMITS)
    for name in "abcd":
        add(batcher, *inputs(name, *[10] * 3))
    assert Counter(item.namespace for item in batcher.take()) == dict.fromkeys("abcd", 3)


def test_who_has_many_like_neighbours_does_not_fill_all_runs_of_who_has_few() -> None:
    batcher: Batcher[Input] = Batcher(LIMITS)
    add(batcher, *inputs("many", *[10] * 10_000))
    add(batcher, *inputs("few", *[10] * 500))
    batches = [Counter(item.namespace for item in batcher.take()) for _ in range(18)]
    assert sum(batch["few"] for batch in batches) > 400


def test_the_background_waits_while_anything_else_does() -> None:
    batcher: Batcher[Input] = Batcher(LIMITS)
    add(batcher, *inputs("a", *[10] * 30, priority=BACKGROUND))
    add(batcher, *inputs("a", 300, 10, 10))
    order = [{item.priority for item in batcher.take()} for _ in range(3)]
    assert order == [{INTERACTIVE}, {INTERACTIVE}, {BACKGROUND}]
    assert not batcher


def test_the_background_has_a_turn_now_and_then_however_much_else_waits() -> None:
    batcher: Batcher[Input] = Batcher(LIMITS)
    add(batcher, *inputs("a", *[512] * 1000))
    add(batcher, *inputs("b", *[512] * 5, priority=BACKGROUND))
    order = [batcher.take()[0].priority for _ in range(3 * (BACKGROUND_TURN + 1))]
    assert order == ([INTERACTIVE] * BACKGROUND_TURN + [BACKGROUND]) * 3


def test_namespaces_share_the_background_fairly_too() -> None:
    batcher: Batcher[Input] = Batcher(LIMITS, lambda name: {"a": 3.0}.get(name, 1.0))
    add(batcher, *inputs("a", *[512] * 40, priority=BACKGROUND))
    add(batcher, *inputs("b", *[512] * 40, priority=BACKGROUND))
    counts = Counter(batcher.take()[0].namespace for _ in range(40))
    assert counts == {"a": 30, "b": 10}
