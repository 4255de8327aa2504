"""What is kept of a model elsewhere comes back as it was, and nothing else comes back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.last_known import decode_info, encode_info
from sidecar.models.types import ModelInfo, RerankerInfo

COUNTS = st.integers(0, 2**31 - 1)
MODELS = st.builds(
    ModelInfo,
    name=st.text(),
    version=st.text(),
    dimensions=COUNTS,
    max_tokens=COUNTS,
    accepts_text=st.booleans(),
    accepts_tensor=st.booleans(),
    runs_on=st.text(),
    prompts=st.dictionaries(st.text(), st.text()),
)
RERANKERS = st.builds(RerankerInfo, name=st.text(), version=st.text(), runs_on=st.text())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(MODELS | RERANKERS)
def test_a_description_comes_back_as_it_was(info: ModelInfo | RerankerInfo) -> None:
    assert decode_info(encode_info(info)) == info


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong
        decode_info(data)


@given(MODELS, st.sampled_from(list(ModelInfo.__dataclass_fields__)), JSON)
def test_a_field_of_another_type_is_refused(info: ModelInfo, field: str, value: Any) -> None:
    changed = asdict(info) | {field: value}
    try:
        read = decode_info(json.dumps(changed).encode())
    except ValueError:
        return
    assert type(getattr(read, field)) is type(getattr(info, field))


@pytest.mark.parametrize("number", [-1, 2**31, True, 1.0])
def test_a_number_that_no_model_has_is_refused(number: Any) -> None:
    fields = asdict(ModelInfo("m", "v", 8, 0, True, False, "there")) | {"dimensions": number}
    with pytest.raises(ValueError, match="something is wrong"):
        decode_info(json.dumps(fields).encode())
