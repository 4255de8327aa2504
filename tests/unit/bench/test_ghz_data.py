"""What the load tests send: shares, files, settings."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from embercache.v1 import common_pb2, embed_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.proto import parse_length_prefixed
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import example, given
from hypothesis import strategies as st

from bench.ghz.files import DATA, delimited, protoset
from bench.ghz.measure import FULL, calls_at_rate, calls_in_closed_loop
from bench.ghz.scenarios import FOLDER, NEW, POPULAR, SCENARIOS, STORED, Calls, Scenario, draw
from bench.ghz.tool import ROOT

TEXTS = [f"text number {number} of the corpus" for number in range(2500)]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.name)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    return request.param


def test_the_tiers_have_the_shares_that_are_stated(scenario: Scenario) -> None:
    tiers = Counter(draw(scenario, TEXTS).tiers)

    total = scenario.settings["total"]
    assert tiers.total() == total
    assert tiers["warm"] == round(total * scenario.warm)
    assert tiers["computed"] == round(total * scenario.new)


def test_every_beginning_of_the_calls_has_about_the_same_shares() -> None:
    tiers = Counter(draw(BY_NAME["embed-mixed"], TEXTS).first(1000).tiers)

    assert abs(tiers["warm"] - 120) < 40
    assert abs(tiers["computed"] - 30) < 20


def test_what_memory_does_not_answer_comes_once(scenario: Scenario) -> None:
    calls = draw(scenario, TEXTS)

    counts = Counter(calls.messages)
    for message, tier in zip(calls.messages, calls.tiers, strict=True):
        assert tier == "hot" or counts[message] == 1
    assert len(calls.of("hot")) <= POPULAR[scenario.kind]


def test_only_what_is_to_be_new_is_in_the_namespace_that_is_invalidated() -> None:
    calls = draw(BY_NAME["embed-mixed"], TEXTS)

    for message, tier in zip(calls.messages, calls.tiers, strict=True):
        namespace = embed_pb2.EmbedRequest.FromString(message).namespace
        assert namespace == (NEW if tier == "computed" else STORED)


def test_popular_texts_follow_zipfs_law() -> None:
    calls = draw(BY_NAME["embed-hot"], TEXTS)

    counts = [count for _, count in Counter(calls.messages).most_common()]
    assert counts[0] / len(calls.messages) == pytest.approx(0.147, abs=0.01)
    assert sum(counts[:10]) / len(calls.messages) == pytest.approx(0.431, abs=0.02)


def test_the_draw_is_the_same_each_time(scenario: Scenario) -> None:
    assert draw(scenario, TEXTS) == draw(scenario, TEXTS)


def test_bypassed_calls_have_the_texts_of_the_cold_ones() -> None:
    cold, bypass = (
        [embed_pb2.EmbedRequest.FromString(each) for each in draw(BY_NAME[name], TEXTS).messages]
        for name in ("embed-cold", "embed-bypass")
    )

    assert [each.inputs[0].text for each in cold] == [each.inputs[0].text for each in bypass]
    assert {each.cache.mode for each in bypass} == {common_pb2.CACHE_MODE_BYPASS}
    assert {each.cache.mode for each in cold} == {common_pb2.CACHE_MODE_UNSPECIFIED}


def test_too_few_texts_are_an_error() -> None:
    with pytest.raises(ValueError, match="embed-cold needs 2,100 texts: 1,000"):
        draw(BY_NAME["embed-cold"], TEXTS[:1000])


def test_the_first_calls_keep_their_order() -> None:
    calls = Calls([b"a", b"b", b"a"], ["hot", "warm", "hot"])

    assert calls.first(2) == Calls([b"a", b"b"], ["hot", "warm"])
    assert calls.first(9) == calls
    assert calls.of("hot") == [b"a"]


@given(st.lists(st.integers(0, 40_000)))
@example([0, 1, 127, 128, 16_383, 16_384])
def test_a_data_file_has_each_message_behind_its_length(sizes: list[int]) -> None:
    messages = [BytesValue(value=bytes(size)) for size in sizes]

    file = io.BytesIO(delimited(each.SerializeToString() for each in messages))
    read = list(iter(lambda: parse_length_prefixed(BytesValue, file), None))
    assert read == messages


def test_the_descriptors_have_every_method_that_is_called(scenario: Scenario) -> None:
    pool = DescriptorPool()
    for file in protoset().file:  # each after what it imports
        pool.Add(file)

    assert pool.FindMethodByName(scenario.settings["call"].replace("/", "."))


def test_settings_name_the_files_that_are_written(scenario: Scenario) -> None:
    assert ROOT / scenario.settings["binary-file"] == DATA / f"{scenario.name}.bin"
    assert ROOT / scenario.settings["protoset"] == DATA / "embercache.protoset"


def test_there_is_a_scenario_for_every_file_of_settings() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(BY_NAME)


def test_the_readme_states_calls_rates_and_shares(scenario: Scenario) -> None:
    (row,) = (
        line.split("|")[2:-1]
        for line in (FOLDER / "README.md").read_text("utf-8").splitlines()
        if line.startswith(f"| `{scenario.name}.json`")
    )

    *calls, rate, hot, warm, new = (
        cell.split(",")[0].strip() if "%" in cell else cell.strip() for cell in row
    )
    total, asked = scenario.settings["total"], scenario.settings["rps"]
    at_rate = "" if scenario.bypass else f"{calls_at_rate(scenario, asked, FULL.seconds):,}"
    assert calls == [f"{total:,}", f"{calls_in_closed_loop(scenario, total):,}", at_rate]
    assert rate == f"{asked:,}"
    assert [hot, warm, new] == [
        f"{share:.0%}".replace("%", " %") if share else ""
        for share in (1 - scenario.warm - scenario.new, scenario.warm, scenario.new)
    ]


def test_the_readme_says_how_often_all_of_it_is_sent() -> None:
    assert FULL.rounds == 3
    assert "there are three of each" in (FOLDER / "README.md").read_text("utf-8")


def test_a_file_has_all_calls_of_a_run_at_its_rate(scenario: Scenario) -> None:
    rate, total = scenario.settings["rps"], scenario.settings["total"]
    assert calls_at_rate(scenario, rate, FULL.seconds) <= total


def test_no_quantile_lies_where_one_tier_ends_and_a_slower_one_begins(scenario: Scenario) -> None:
    skipped, rate, total = (scenario.settings[name] for name in ("skipFirst", "rps", "total"))
    tiers = draw(scenario, TEXTS).tiers
    for sent in (
        calls_in_closed_loop(scenario, total),
        calls_at_rate(scenario, rate, FULL.seconds),
    ):
        measured = tiers[skipped:sent]
        hot, warm = (measured.count(tier) / len(measured) for tier in ("hot", "warm"))
        for end in {hot, hot + warm} - {0.0, 1.0}:
            assert min(abs(quantile - end) for quantile in (0.5, 0.95, 0.99)) > 0.01
