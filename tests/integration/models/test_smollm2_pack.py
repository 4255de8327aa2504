"""The built-in decoder in both precisions: what is in the packs, and what they compute."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sidecar.models.decoder import Decoder as PackDecoder
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.errors import SetupError
from sidecar.models.manifest import sha256
from sidecar.models.packs import default_folder
from sidecar.models.pull import pull
from sidecar.models.session import open_session
from sidecar.models.smollm2 import GGUF_FILE, build_smollm2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LAYERS, KV_HEADS, HEAD_SIZE, VOCABULARY = 30, 3, 64, 49152
FILES = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.onnx",
    "model.onnx.data",
    "tokenizer.json",
    "tokenizer_config.json",
]
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n"
)
# SYSTEM as the tokeniser of the original model has it.
SYSTEM_IDS = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407),
    *(19712, 8182, 2, 198),
]
LACKING = "\x04\x06\x13\x14\x16\x1d"  # no token has these bytes, nor those of planes 4 to 11
PACKS = ("smollm2-135m", "smollm2-135m-fp32")


class Decoder:
    """Reads tokens into one buffer, which is bound as past and present."""

    def __init__(self, session: ort.InferenceSession, capacity: int = 128, fill: float = 0) -> None:
        self.length = 0
        self._binding = session.io_binding()
        self._session = session
        shape = (1, KV_HEADS, capacity, HEAD_SIZE)
        self._parts = {}
        for part in (f"{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")):
            value = ort.OrtValue.ortvalue_from_numpy(np.full(shape, fill, np.float32))
            self._binding.bind_ortvalue_input(f"past_key_values.{part}", value)
            self._binding.bind_ortvalue_output(f"present.{part}", value)
            self._parts[part] = value

    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        """Returns the logits of the last of these tokens."""
        self.length += len(ids)
        self._binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        self._binding.bind_cpu_input("attention_mask", np.ones((1, self.length), np.int64))
        self._binding.bind_output("logits")
        self._session.run_with_iobinding(self._binding)
        logits = self._binding.get_outputs()[-1].numpy()
        assert logits.shape == (1, 1, VOCABULARY)
        return np.array(logits[0, 0])

    def cache(self) -> NDArray[Any]:
        """Keys and values of all that was read, ``[layers * 2, heads, tokens, head_size]``."""
        parts = [value.numpy()[0, :, : self.length] for value in self._parts.values()]
        return np.stack(parts)

    def complete(self, ids: Sequence[int], end: int = 2) -> list[int]:
        """Returns what follows greedily, without the end."""
        answer: list[int] = []
        token = int(self.read(ids).argmax())
        while token != end and len(answer) < 24:
            answer.append(token)
            token = int(self.read([token]).argmax())
        return answer


@pytest.fixture(scope="module", params=PACKS)
def folder(request: pytest.FixtureRequest) -> Path:
    return pull(request.param, default_folder(), lambda stage, done, total: None)


@pytest.fixture(scope="module")
def session(folder: Path) -> ort.InferenceSession:
    return open_session(folder / "model.onnx", "cpu", 2)[0]


@pytest.fixture(scope="module")
def fp32(smollm2_fp32_folder: Path) -> ort.InferenceSession:
    return open_session(smollm2_fp32_folder / "model.onnx", "cpu", 2)[0]


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    def make(text: str) -> list[int]:
        turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        return list(tokenizer.encode(SYSTEM + turn).ids)

    return make


# What is in a pack


def test_a_pack_has_the_files_of_an_export_and_no_others(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == FILES


@pytest.mark.parametrize(
    ("name", "graph", "weights"),
    [
        (
            "smollm2-135m",
            "fa1e825457d76a0646b38a90bb98e6ac4f0434852b73e9e263390f2ce63d49d3",
            "cdd9fd315b27953eb9b97d4210e05d124cebd531fb7518e275decd26a0465474",
        ),
        (
            "smollm2-135m-fp32",
            "62391368c18bb3ec36fdbdcd9491ea1129ab7458998ef4ef3153a005c56f4ecd",
            "c7da8672f3d7505ff47a04db80889dc827dddf1235bef4e5846e09cf9e8e2f02",
        ),
    ],
)
def test_a_pack_is_built_to_the_same_bytes_everywhere(name: str, graph: str, weights: str) -> None:
    """All sidecars have to find the same version; whoever changes it raises the revision."""
    folder = pull(name, default_folder(), lambda stage, done, total: None)
    assert sha256(folder / "model.onnx") == graph
    assert sha256(folder / "model.onnx.data") == weights


def test_configurations_say_what_the_model_is(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "llama",
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 9,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_size": 576,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 8192,
        "rope_theta": 1e5,
        "rms_norm_eps": 1e-5,
    }
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert config.items() >= (expected | tokens).items()
    assert json.loads((folder / "generation_config.json").read_text()) == tokens
    names = json.loads((folder / "tokenizer_config.json").read_text())
    assert (names["bos_token"], names["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>assistant" in names["chat_template"]


def test_the_graph_has_the_interface_of_an_export(session: ort.InferenceSession) -> None:
    parts = [f"{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")]
    names = ["input_ids", "attention_mask", *(f"past_key_values.{part}" for part in parts)]
    assert [value.name for value in session.get_inputs()] == names
    names = ["logits", *(f"present.{part}" for part in parts)]
    assert [value.name for value in session.get_outputs()] == names


# The tokeniser


def test_the_system_prompt_has_the_tokens_of_the_original(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(SYSTEM).ids == SYSTEM_IDS


@given(
    st.text(
        st.characters(max_codepoint=0x3FFFF, exclude_characters=LACKING, exclude_categories=["Cs"])
    )
)
def test_any_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


# What it computes


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        (
            "Write a haiku about the sea.",
            "The waves of the sea, a silent beauty,\nA gentle lapping of the shore,\nA reminder of",
        ),
    ],
)
def test_greedy_answers_in_float32(
    fp32: Any, chat: Any, tokenizer: Tokenizer, question: str, answer: str
) -> None:
    found = tokenizer.decode(Decoder(fp32).complete(chat(question)))
    assert found.startswith(answer)


def test_4_bits_predict_what_float32_predicts(smollm2_folder: Path, fp32: Any, chat: Any) -> None:
    ids = chat("How many legs does a spider have, and what does it need them for?")
    int4 = Decoder(open_session(smollm2_folder / "model.onnx", "cpu", 2)[0])
    exact, divergences = Decoder(fp32), []
    for start in range(0, len(ids) - 2, 2):
        both = [decoder.read(ids[start : start + 2]).astype(float) for decoder in (exact, int4)]
        expected, found = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in both)
        divergences.append(np.exp(expected) @ (expected - found))
    assert np.mean(divergences) < 0.02


@pytest.fixture(scope="module")
def same_bits_in_parts(folder: Path) -> None:
    """For what holds only where kernels do not round by the length of a run."""
    if not PackDecoder(read_decoder_pack(folder), "cpu", 2).splits_freely:
        pytest.skip("this processor's kernels round by the length of a run")


@pytest.mark.usefixtures("same_bits_in_parts")
@pytest.mark.parametrize("chunks", [[35, 2], [2, 35], [16, 16, 5], [9, 28]])
def test_a_prompt_read_in_parts_has_the_same_bits(
    session: Any, chat: Any, chunks: list[int]
) -> None:
    """As long as no part is a single token: attention computes that in another order."""
    ids = chat("What is the capital of France?")
    assert len(ids) == sum(chunks) == 37
    whole, parts, begin = Decoder(session), Decoder(session), 0
    expected = whole.read(ids)
    for size in chunks:
        found = parts.read(ids[begin : begin + size])
        begin += size
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(parts.cache(), whole.cache())


@pytest.mark.usefixtures("same_bits_in_parts")
def test_a_buffer_that_holds_something_else_behind_makes_no_difference(
    session: Any, chat: Any
) -> None:
    used, fresh = Decoder(session, capacity=64, fill=9), Decoder(session, capacity=200)
    used.read(chat("Tell me about the sea."))
    used.length = len(SYSTEM_IDS)  # back to what both prompts begin with
    ids = chat("What is the capital of France?")
    np.testing.assert_array_equal(used.read(ids[len(SYSTEM_IDS) :]), fresh.read(ids))
    np.testing.assert_array_equal(used.cache(), fresh.cache())


def test_one_buffer_for_past_and_present_gives_what_two_give(session: Any, chat: Any) -> None:
    ids = chat("What is the capital of France?")
    one = Decoder(session)
    one.read(ids[:30])
    expected = one.read(ids[30:])
    names = [value.name for value in session.get_inputs()[2:]]
    past = [np.zeros((1, KV_HEADS, 0, HEAD_SIZE), np.float32)] * len(names)
    for begin, end in ((0, 30), (30, 37)):
        feed = dict(zip(names, past, strict=True))
        feed["input_ids"] = np.array([ids[begin:end]])
        feed["attention_mask"] = np.ones((1, end), np.int64)
        logits, *past = session.run(None, feed)
    np.testing.assert_array_equal(logits[0, 0], expected)
    np.testing.assert_array_equal(np.concatenate(past), one.cache())


def test_keys_and_values_are_numbers_of_float16(session: Any, chat: Any) -> None:
    decoder = Decoder(session)
    decoder.read(chat("What is the capital of France?"))
    decoder.read([504])
    cache = decoder.cache()
    np.testing.assert_array_equal(cache.astype(np.float16).astype(np.float32), cache)


# Files that are not the model's


@pytest.mark.parametrize(
    ("architecture", "message"),
    [("gpt2", "is of the architecture gpt2, not llama"), ("llama", "has no 'llama.block_count'")],
)
def test_another_model_is_refused(tmp_path: Path, architecture: str, message: str) -> None:
    writer = GGUFWriter(tmp_path / GGUF_FILE, architecture)
    writer.add_tensor("norm", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SetupError, match=message):
        build_smollm2(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / GGUF_FILE).write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(SetupError, match=rf"{GGUF_FILE}: .*not a GGUF file, or damaged|has no"):
        build_smollm2(tmp_path)
