"""Canaries: what they tell apart on the real model, and the laws of judging and storing them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.sentence_transformer.modules import Pooling

from tarragon import canaries
from tarragon.canaries import LABELS, LENGTH, SAME, WARN, CanaryVerdict, judge, pack, probes, run, unpack
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import EncodingFailed, InvalidInput
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.testing import WordEncoder
from tarragon.types import FloatArray

PROBES = len(LABELS)
LONG = slice(PROBES - 3, PROBES)
seeds = st.integers(0, 2**32 - 1)


def random_run(seed: int, dimensions: int = 64) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((PROBES, dimensions)).astype(np.float32)


# --- the probes -------------------------------------------------------------------------------------------------------
def test_the_probes_are_16_distinct_texts_and_none_is_blank() -> None:
    assert len(probes()) == len(set(probes())) == len(set(LABELS)) == 16
    assert all(text.strip() for text in probes())


def test_changed_probes_have_another_revision() -> None:
    digest = sha256("\0".join(probes()).encode()).hexdigest()[:16]
    known = {1: "5ee6477e7d67a488"}
    assert known[canaries.PROBE_REVISION] == digest, "raise PROBE_REVISION and add the new digest"


def test_three_probes_are_longer_than_the_limit(tokenizer: FastTokenizer) -> None:
    for counts in (tokenizer.tokenize(probes()), WordEncoder().tokenizer.tokenize(probes())):
        lengths = [len(row) for row in counts]
        assert min(lengths[LONG]) >= canaries.LONG_WORDS > 1_024
        assert max(lengths[: LONG.start]) < 128


def test_every_half_of_a_long_probe_lacks_a_topic_of_the_other() -> None:
    for text in probes()[LONG]:
        words = text.split()
        for limit in (16, 32, 64, 128, 256, 512, 1_024):
            assert set(words[limit // 2 : limit]).isdisjoint(words[limit // 4 : limit // 2])


# --- the real model ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stored(encoder: SentenceTransformerEncoder) -> FloatArray:
    return run(encoder)


def changed(change: Callable[[SentenceTransformerEncoder], object], **settings: object) -> FloatArray:
    """The probes' vectors, by the library's own forward, after a change that the declaration knows nothing of."""
    encoder = SentenceTransformerEncoder(device="cpu", unpad=False, **settings)  # type: ignore[arg-type]
    change(encoder)
    return run(encoder)


def limited(tokens: int) -> Callable[[SentenceTransformerEncoder], object]:
    def change(encoder: SentenceTransformerEncoder) -> None:
        encoder._limit = encoder._batches._limit = encoder._model.max_seq_length = tokens

    return change


def nothing(encoder: SentenceTransformerEncoder) -> None:
    """Leave it as it is."""


def with_cls_pooling(encoder: SentenceTransformerEncoder) -> None:
    encoder._model[1] = Pooling(384, "cls")


def without_normalisation(encoder: SentenceTransformerEncoder) -> None:
    encoder._similarity = "dot"
    del encoder._model[2]


def in_int8(encoder: SentenceTransformerEncoder) -> None:
    model = encoder._model[0]
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this torch cannot quantize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to replace the function; there is no other without a dependency
        model.model = torch.ao.quantization.quantize_dynamic(model.model, {torch.nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    ("now", "verdict", "least", "most"),
    [
        pytest.param(lambda: changed(nothing, token_budget=64), "same", 0.99999, 1.0, id="batch size and padding"),
        pytest.param(lambda: changed(lambda e: e._model.half()), "same", 0.9999, 1.0, id="float16"),
        pytest.param(lambda: changed(lambda e: e._model.bfloat16()), "same", 0.9997, 1.0, id="bfloat16"),
        pytest.param(lambda: changed(limited(254)), "warn", WARN, SAME, id="two tokens fewer"),
        pytest.param(lambda: changed(limited(192)), "different", 0.8, 0.97, id="three quarters of the limit"),
        pytest.param(lambda: changed(limited(128)), "different", 0.4, 0.8, id="half the limit"),
        pytest.param(lambda: changed(limited(512)), "different", 0.6, 0.9, id="twice the limit"),
        pytest.param(lambda: changed(nothing, document_prompt="passage: "), "different", 0, 0.6, id="prompt"),
        pytest.param(lambda: changed(with_cls_pooling), "different", -1, 0.4, id="CLS pooling"),
        pytest.param(lambda: changed(in_int8), "different", 0.5, 0.97, id="int8"),
    ],
)
def test_a_changed_runtime_is_told_from_the_same_one(
    stored: FloatArray, now: Callable[[], FloatArray], verdict: str, least: float, most: float
) -> None:
    judged = judge(stored, now())
    assert judged.verdict == verdict, judged.sentence()
    assert least <= judged.minimum <= most


def test_the_minimum_sees_what_the_mean_hides(stored: FloatArray) -> None:
    judged = judge(stored, changed(limited(192)))
    assert judged.mean > 0.98
    assert judged.verdict == "different"
    assert judged.label.startswith("beyond the limit")


def test_lost_normalisation_shows_in_the_lengths(stored: FloatArray) -> None:
    judged = judge(stored, changed(without_normalisation))
    assert judged.minimum > 0.99999
    assert judged.length < 0.5
    assert judged.verdict == "different"
    assert "lengths differ by a factor of" in judged.sentence()


def test_another_salt_is_another_space() -> None:
    assert judge(run(WordEncoder()), run(WordEncoder())).verdict == "same"
    assert judge(run(WordEncoder()), run(WordEncoder(salt="other"))).verdict == "different"
    assert judge(run(WordEncoder()), run(WordEncoder(max_tokens=128))).verdict == "different"


def test_an_encoder_that_loses_a_row_is_named() -> None:
    class Loses(WordEncoder):
        def encode_documents(self, inputs: list[EncoderInput]) -> Embeddings:  # type: ignore[override]
            return super().encode_documents(inputs[1:])

    with pytest.raises(EncodingFailed, match=r"words returned vectors of shape \(15, 64\) for 16 texts"):
        run(Loses())


# --- judging ----------------------------------------------------------------------------------------------------------
@given(seeds, seeds)
def test_judging_is_symmetric(first: int, second: int) -> None:
    one, two = random_run(first), random_run(second)
    assert judge(one, two) == judge(two, one)


@given(seeds, st.floats(1e-3, 1e3), st.floats(0, 0.3))
def test_cosines_do_not_depend_on_lengths_and_nothing_does_on_a_common_one(
    seed: int, factor: float, noise: float
) -> None:
    one = random_run(seed)
    two = (one + noise * random_run(seed + 1)).astype(np.float32)
    scaled = judge(one, (two * np.float32(factor)).astype(np.float32))
    assert scaled.minimum == pytest.approx(judge(one, two).minimum, abs=1e-6)
    both = judge((one * np.float32(factor)).astype(np.float32), (two * np.float32(factor)).astype(np.float32))
    assert both.length == pytest.approx(judge(one, two).length, abs=1e-6)


@given(seeds, st.permutations(range(PROBES)))
def test_rows_in_another_order_are_different(seed: int, order: list[int]) -> None:
    one = random_run(seed)
    expected = "same" if order == list(range(PROBES)) else "different"
    assert judge(one, one[order]).verdict == expected


@given(seeds, st.integers(0, PROBES - 1), st.floats(0.0, 1.5))
def test_the_worst_probe_is_found_and_decides(seed: int, worst: int, angle: float) -> None:
    one = random_run(seed)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    aside = random_run(seed + 1)[worst]
    aside -= (aside @ one[worst]) * one[worst]
    two = one.copy()
    two[worst] = np.cos(angle) * one[worst] + np.sin(angle) * aside / np.linalg.norm(aside)
    judged = judge(one, two)
    assert judged.minimum == pytest.approx(np.cos(angle), abs=1e-5)
    assert judged.mean == pytest.approx((PROBES - 1 + np.cos(angle)) / PROBES, abs=1e-5)
    if angle > 0.01:
        assert judged.worst == worst


@pytest.mark.parametrize(
    ("minimum", "length", "verdict"),
    [
        (1.0, 1.0, "same"),
        (SAME, LENGTH, "same"),
        (np.nextafter(SAME, 0), 1.0, "warn"),
        (WARN, 1.0, "warn"),
        (np.nextafter(WARN, 0), 1.0, "different"),
        (1.0, np.nextafter(LENGTH, 0), "different"),
        (-1.0, 0.0, "different"),
    ],
)
def test_the_thresholds_belong_to_the_better_side(minimum: float, length: float, verdict: str) -> None:
    assert CanaryVerdict(float(minimum), 1.0, 0, float(length)).verdict == verdict


def test_other_dimensions_are_different() -> None:
    judged = judge(random_run(0, 64), random_run(0, 32))
    assert (judged.verdict, judged.minimum) == ("different", -1.0)
    assert judged.sentence() == "different: the vectors have 64 and 32 dimensions"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_different_even_from_themselves(value: float) -> None:
    broken = random_run(0)
    broken[4, 7] = value
    for pair in ((broken, random_run(0)), (random_run(0), broken), (broken, broken)):
        judged = judge(*pair)
        assert (judged.verdict, judged.minimum, judged.worst) == ("different", -1.0, 4)
        assert judged.sentence() == "different: the vector of probe 'sentence' holds NaN or infinity"


def test_zero_vectors_equal_zero_vectors_only() -> None:
    one, zeros = random_run(0), np.zeros((PROBES, 64), dtype=np.float32)
    assert judge(zeros, zeros) == CanaryVerdict(1.0, 1.0, 0, 1.0)
    mixed = one.copy()
    mixed[2] = 0
    judged = judge(one, mixed)
    assert (judged.minimum, judged.worst, judged.length, judged.verdict) == (0.0, 2, 0.0, "different")
    assert "factor of infinity" in judged.sentence()


def test_huge_and_tiny_values_do_not_overflow() -> None:
    one = random_run(0)
    for scale in (1e37, 1e-37):
        scaled = (one * np.float32(scale)).astype(np.float32)
        assert judge(scaled, scaled).verdict == "same"


@pytest.mark.parametrize("shape", [(15, 64), (64,), (0, 64), (16, 4, 4)])
def test_what_is_no_run_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="one row for each of 16 probes") as caught:
        judge(random_run(0), np.zeros(shape, dtype=np.float32))
    assert caught.value.data["shape"] == shape


def test_people_read_one_sentence_and_programs_json() -> None:
    judged = CanaryVerdict(0.951, 0.992, 5)
    assert judged.sentence() == "different: minimum cosine 0.951000 at probe 'code' (mean 0.992000)"
    values = json.loads(json.dumps(judged.to_dict()))
    assert values["verdict"] == "different"
    assert values["label"] == "code"
    assert values["minimum"] == 0.951


# --- storing ----------------------------------------------------------------------------------------------------------
bits = arrays(np.uint32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(0, 2**32 - 1))


@settings(max_examples=50)
@given(bits)
def test_packing_keeps_every_bit(pattern: np.ndarray[tuple[int, int], np.dtype[np.uint32]]) -> None:
    vectors = pattern.view(np.float32)
    again = unpack(json.loads(json.dumps(pack(vectors))))
    assert again is not None
    assert again.dtype == np.float32
    assert np.array_equal(again.view(np.uint32), pattern)
    assert pack(again) == pack(vectors)


def test_packing_takes_rows_in_any_memory_order() -> None:
    vectors = random_run(0)
    assert pack(np.asfortranarray(vectors)) == pack(vectors)
    assert pack(np.repeat(vectors, 2, axis=1)[:, ::2]) == pack(vectors)


def test_probes_of_another_revision_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(random_run(0))
    monkeypatch.setattr(canaries, "PROBE_REVISION", canaries.PROBE_REVISION + 1)
    assert unpack(packed) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not of the form"),
        ("1:2x2", "not of the form"),
        ("1:1x1:AAAA AAA=", "not of the form"),
        ("1:1x1:A", "be read"),
        ("1:1x2:AAAAAA==", "4 bytes are not 1 x 2 float32"),
    ],
)
def test_what_was_not_packed_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        unpack(text)
