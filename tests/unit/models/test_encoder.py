"""What the encoder makes of small real models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto

from sidecar.models.encoder import Encoder
from sidecar.models.errors import SetupError
from sidecar.models.pack import read_pack
from sidecar.models.tokenise import Tokens
from sidecar.models.types import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLS, SEP = 2, 3
ONE, TWO, THREE, NAN = 4, 5, 6, 7  # token ids; their vectors are [1, 1], [2, 2], [3, -3], NaN


def encoder(folder: Path) -> Encoder:
    return Encoder(read_pack(folder), "cpu")


def run(folder: Path, *texts: list[int]) -> NDArray[np.float32]:
    return encoder(folder).run([Tokens(ids, truncated=False) for ids in texts])


def unit(*vector: float) -> NDArray[np.float64]:
    return np.array(vector) / np.linalg.norm(vector)


@pytest.fixture
def pooling(make_pack: Any) -> Any:
    def make(mode: str, *, normalise: bool = False) -> Path:
        modules = ["Transformer", "Pooling"] + ["Normalize"] * normalise
        make_pack.json("modules.json", [{"type": f"a.{m}", "path": f"1_{m}"} for m in modules])
        make_pack.json("1_Pooling/config.json", {f"pooling_mode_{mode}": True})
        return make_pack.text()

    return make


def test_mean_pooling_ignores_padding(pooling: Any) -> None:
    vectors = run(pooling("mean_tokens"), [ONE, THREE], [TWO], [ONE, ONE, THREE])
    np.testing.assert_allclose(vectors, [[2, -1], [2, 2], [5 / 3, -1 / 3]], rtol=1e-6)


def test_cls_pooling_takes_the_first_token(pooling: Any) -> None:
    vectors = run(pooling("cls_token"), [ONE, THREE], [TWO])
    np.testing.assert_array_equal(vectors, [[1, 1], [2, 2]])


def test_last_token_pooling_takes_the_last_token_before_the_padding(pooling: Any) -> None:
    vectors = run(pooling("lasttoken"), [ONE, THREE], [TWO])
    np.testing.assert_array_equal(vectors, [[3, -3], [2, 2]])


def test_vectors_are_normalised_where_the_pack_says_so(pooling: Any) -> None:
    vectors = run(pooling("mean_tokens", normalise=True), [ONE, THREE])
    np.testing.assert_allclose(vectors, [unit(2, -1)], rtol=1e-6)


def test_without_pooling_configuration_it_is_the_normalised_mean(make_pack: Any) -> None:
    np.testing.assert_allclose(run(make_pack.text(), [ONE, THREE]), [unit(2, -1)], rtol=1e-6)


def test_a_text_without_tokens_gets_a_finite_vector(make_pack: Any) -> None:
    np.testing.assert_array_equal(run(make_pack.text(), [], [ONE])[0], [0, 0])


def test_vectors_that_the_graph_has_pooled_stay_as_they_are(make_pack: Any) -> None:
    folder = make_pack.text(output="sentence_embedding", pooled_rows="right")
    np.testing.assert_array_equal(run(folder, [ONE, TWO]), [[3, 3]])


@pytest.mark.parametrize("ids", [TensorProto.INT32, TensorProto.INT64])
def test_both_integer_types_and_token_types_are_fed(make_pack: Any, ids: int) -> None:
    folder = make_pack.text(ids=ids, extra_inputs=["token_type_ids"])
    np.testing.assert_allclose(run(folder, [TWO]), [unit(2, 2)], rtol=1e-6)


def test_texts_are_padded_with_the_models_padding_token(make_pack: Any) -> None:
    make_pack.json("config.json", {"pad_token_id": TWO})
    folder = make_pack.text(output="sentence_embedding", pooled_rows="right")  # sees the padding
    np.testing.assert_array_equal(run(folder, [ONE], [ONE, ONE, ONE]), [[5, 5], [3, 3]])


def test_nan_stays_in_the_row_of_its_own_input(make_pack: Any) -> None:
    vectors = run(make_pack.text(), [ONE], [NAN], [TWO])
    assert np.isfinite(vectors).all(axis=1).tolist() == [True, False, True]


def test_a_wrong_number_of_vectors_is_an_error(make_pack: Any) -> None:
    folder = make_pack.text(output="sentence_embedding", pooled_rows="one")
    assert run(folder, [ONE]).shape == (1, 2)
    with pytest.raises(ModelError, match=r"answered 2 inputs with shape \[1, 2\], not \[2, 2\]"):
        run(folder, [ONE], [TWO])


def test_a_model_of_another_number_of_vectors_does_not_load(make_pack: Any) -> None:
    with pytest.raises(SetupError, match=r"model.onnx: one input gave shape \[3, 2\]"):
        encoder(make_pack.text(output="sentence_embedding", pooled_rows="more"))


def test_token_vectors_are_the_texts_own_of_unit_length(make_pack: Any) -> None:
    texts = [
        Tokens([CLS, ONE, THREE, SEP], truncated=False, special=[1, 0, 0, 1]),
        Tokens([TWO], truncated=False),
        Tokens([CLS, SEP], truncated=False, special=[1, 1]),
        Tokens([], truncated=False),
    ]
    one, two, empty, none = encoder(make_pack.text()).run_tokens(texts)
    np.testing.assert_allclose(one, [unit(1, 1), unit(1, -1)], rtol=1e-6)
    np.testing.assert_allclose(two, [unit(1, 1)], rtol=1e-6)
    np.testing.assert_array_equal(empty, [[1, 0], [0, 1]])
    assert none.shape == (0, 2)


def test_states_of_another_number_of_tokens_are_an_error(make_pack: Any) -> None:
    folder = make_pack.text(
        output="sentence_embedding",
        pooled_rows="right",
        states="token_embeddings",
        states_a_token=2,
    )
    with pytest.raises(
        ModelError, match=r"answered \[1, 2\] tokens with states of shape \[1, 4, 2"
    ):
        encoder(folder).run_tokens([Tokens([ONE, TWO], truncated=False)])


def test_tensors_are_stacked(make_pack: Any) -> None:
    batch = [np.array([[1, 2, 3], [3, 4, 5]], np.float32), np.zeros((2, 3), np.float32)]
    np.testing.assert_array_equal(encoder(make_pack.tensor()).run(batch), [[2, 3, 4], [0, 0, 0]])


def test_sizes_that_the_graph_leaves_open_are_taken_as_they_come(make_pack: Any) -> None:
    model = encoder(make_pack.tensor(shape=("frames", 3)))
    assert model.dimensions == 3
    assert model.refusal(np.zeros((7, 3), np.float32)) is None
    assert model.run([np.ones((7, 3), np.float32)]).tolist() == [[1, 1, 1]]


def test_a_model_of_unknown_output_size_does_not_load(make_pack: Any) -> None:
    folder = make_pack.tensor(shape=("frames", "bands"), output_shape=("batch", "bands"))
    with pytest.raises(SetupError, match=r"model.onnx: export it with a fixed size"):
        encoder(folder)


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (np.zeros((2, 3), np.float64), r"float64 of \[2, 3\]"),
        (np.zeros((2, 4), np.float32), r"float32 of \[2, 4\]"),
        (np.zeros((1, 2, 3), np.float32), r"float32 of \[1, 2, 3\]"),
        (np.zeros((), np.float32), r"float32 of \[\]"),
    ],
)
def test_a_tensor_of_another_type_or_shape_is_refused(
    make_pack: Any, tensor: NDArray[Any], got: str
) -> None:
    refusal = encoder(make_pack.tensor()).refusal(tensor)
    with pytest.raises(ModelError, match=rf"takes float32 tensors of shape \[2, 3\], not {got}"):
        raise refusal or AssertionError


def test_an_empty_tensor_is_refused_where_any_size_will_do(make_pack: Any) -> None:
    model = encoder(make_pack.tensor(shape=("frames", 3)))
    assert model.refusal(np.zeros((0, 3), np.float32)) is not None


def test_a_model_that_cannot_run_does_not_load(make_pack: Any) -> None:
    folder = make_pack.text()
    make_pack.json("config.json", {"pad_token_id": 999})
    with pytest.raises(SetupError, match=r"model.onnx: its first run failed"):
        encoder(folder)
