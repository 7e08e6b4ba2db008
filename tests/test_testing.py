"""The encoders that are shipped for tests: they keep the protocols, and texts that share words are near."""

from __future__ import annotations

import numpy as np

from tarragon.interaction import maxsim
from tarragon.protocols import LateEncoder, SparseEncoder
from tarragon.testing import LateWordEncoder, SparseWordEncoder, WordEncoder, check_encoder
from tarragon.types import SparseVector

TEXTS = ["rotate the key, rotate it", "the key", "lunch at noon", "", "日本語 key"]


def product(first: SparseVector, second: SparseVector) -> float:
    weights = dict(zip(second.indices.tolist(), second.values.tolist(), strict=True))
    return sum(weight * weights.get(id_, 0.0) for id_, weight in zip(first.indices.tolist(), first.values, strict=True))


def test_the_dense_one_passes_its_own_check() -> None:
    check_encoder(WordEncoder(), TEXTS)


def test_a_sparse_score_counts_pairs_of_equal_words() -> None:
    encoder: SparseEncoder = SparseWordEncoder()
    made, (asked,) = encoder.encode_documents(TEXTS), encoder.encode_queries(["Rotate the key"]).vectors
    assert [product(asked, vector) for vector in made.vectors] == [4.0, 2.0, 0.0, 0.0, 1.0]
    assert (made.tokens, made.truncated) == (6 + 2 + 3 + 0 + 2, 0)
    assert len(made.vectors[3].indices) == 0
    assert encoder.encode_documents([]).vectors == []


def test_a_long_query_is_cut_and_a_long_document_is_not() -> None:
    short, whole = SparseWordEncoder(query_tokens=2), SparseWordEncoder()
    made = short.encode_queries(["the key to the house"])
    assert (made.tokens, made.truncated) == (2, 3)
    assert made.vectors[0].indices.tolist() == whole.encode_queries(["the key"]).vectors[0].indices.tolist()
    assert short.encode_documents(["the key to the house"]).truncated == 0
    assert short.identity == whole.identity, "queries change no document's vector"


def test_a_late_score_adds_up_the_best_of_each_word() -> None:
    encoder: LateEncoder = LateWordEncoder()
    made, (asked,) = encoder.encode_documents(TEXTS), encoder.encode_queries(["the key"]).vectors
    assert [vectors.shape for vectors in made.vectors] == [(6, 16), (2, 16), (3, 16), (1, 16), (2, 16)]
    scores = [maxsim(asked, vectors) for vectors in made.vectors]
    np.testing.assert_allclose(scores[:2], 2.0, atol=1e-6)
    assert max(scores[2:]) < 1.99
    alone = encoder.encode_documents([TEXTS[4]]).vectors[0]
    np.testing.assert_array_equal(alone, made.vectors[4])
    assert LateWordEncoder(8).identity != encoder.identity
