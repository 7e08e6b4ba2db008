"""Vectors beside the dense one: short forms, and what side models make of a window of chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from tarragon import sides
from tarragon.contract import Prefix, SideContract
from tarragon.errors import EncodingFailed, StorageProblem
from tarragon.protocols import SideSpace, SideVector, SparseEmbeddings, StoredChunk
from tarragon.sides import EncodedSide, PrefixMaker, complete, prefix_space, shorten, side_space, size_of
from tarragon.store.edge import EdgeStore
from tarragon.types import SparseVector

PREFIX = Prefix("p_2_x", 2, "", unit=False, depth=1.0, recall=1.0, chunks=3)
ROWS = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]], np.float32)
SPARSE = SideContract("sparse", "tiny", 0, {"kind": "sparse"})


def unit(prefix: Prefix = PREFIX, rotation: str = "") -> Prefix:
    return Prefix(prefix.space, prefix.dimensions, rotation, True, 1.0, 1.0, 3)


def test_a_short_form_is_the_first_numbers() -> None:
    short = shorten(ROWS, PREFIX, None)
    assert short.tolist() == [[3, 4], [0, 0], [1, 0]]
    assert (short.dtype, short.flags.c_contiguous) == (np.float32, True)
    assert shorten(ROWS, unit(), None) == pytest.approx(np.array([[0.6, 0.8], [0, 0], [1, 0]])), "zero stays zero"
    assert shorten(ROWS[:0], unit(), None).shape == (0, 2)


def test_turned_onto_axes_it_is_the_dot_products_with_them() -> None:
    axes = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    assert shorten(ROWS, PREFIX, axes).tolist() == [[12, 3], [5, 0], [0, 1]]
    assert shorten(ROWS, unit(), axes)[0] == pytest.approx(np.array([12, 3]) / 153**0.5)


def test_a_prefix_follows_from_the_dense_vectors() -> None:
    maker = PrefixMaker(PREFIX, None)
    assert (maker.space, maker.is_derived) == (SideSpace("p_2_x", "prefix", 2), True)
    assert maker.space == prefix_space(PREFIX)
    made = maker.make({b"b": "two", b"a": "one"}, {b"a": ROWS[0], b"b": ROWS[1], b"c": ROWS[2]})
    assert {hash_: np.asarray(row).tolist() for hash_, row in made.items()} == {b"b": [0, 0], b"a": [3, 4]}
    assert maker.make({}, {}) == {}
    lost = PrefixMaker(unit(rotation="axes 1"), None)
    assert lost.make({}, {}) == {}
    with pytest.raises(StorageProblem, match=r"p_2_x are lost; tune again"):
        lost.make({b"a": "one"}, {b"a": ROWS[0]})


class Picky:
    """A sparse encoder whose weights are the lengths of the words; refuses batches with a bad word.

    Attributes:
        batches: Sizes of what it was given.
    """

    name = "picky"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        self.batches.append(len(texts))
        if any("bad" in text for text in texts):
            raise EncodingFailed("a bad word")
        return SparseEmbeddings([self._vector(text) for text in texts], 0, 0)

    def _vector(self, text: str) -> SparseVector:
        weight = np.nan if "nan" in text else len(text)
        return SparseVector(np.array([1], np.int32), np.array([weight], np.float32))


def made_by(encoder: Any, *texts: str) -> dict[bytes, SideVector]:
    return EncodedSide(SPARSE, lambda: encoder).make({text.encode(): text for text in texts}, {})


def test_one_text_that_a_model_refuses_costs_only_itself() -> None:
    encoder = Picky()
    made = made_by(encoder, "a", "bb", "bad", "ccc", "dd")
    assert sorted(made) == [b"a", b"bb", b"ccc", b"dd"]
    assert encoder.batches == [5, 2, 3, 1, 2]
    assert set(made_by(encoder, "nan", "a")) == {b"a"}, "nor what is not finite"
    assert made_by(encoder, "bad") == {}


def test_an_encoder_is_loaded_only_where_there_is_a_text() -> None:
    def load() -> Any:
        raise AssertionError

    side = EncodedSide(SPARSE, load)
    assert side.make({}, {}) == {}
    assert (side.space, side.is_derived) == (side_space(SPARSE), False)


def test_too_few_vectors_are_no_embedding() -> None:
    class Lazy(Picky):
        def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
            return SparseEmbeddings([], 0, 0)

    with pytest.raises(EncodingFailed, match="picky returned 0 vectors for 2 texts"):
        made_by(Lazy(), "a", "b")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    """Three chunks without side vectors."""
    made = EdgeStore(tmp_path / "shard", space="full", dimensions=3, language="neutral")
    made.upsert([StoredChunk(UUID(int=n), row, {"content": "a" * (n + 1)}) for n, row in enumerate(ROWS)])
    yield made
    made.close()


def test_what_is_missing_is_made_from_what_is_stored(store: EdgeStore) -> None:
    encoder: Any = Picky()
    makers = [EncodedSide(SPARSE, lambda: encoder), PrefixMaker(PREFIX, None)]
    told: list[int] = []
    assert complete(store, makers, told.append) == 6
    assert told == [3, 3]
    assert encoder.batches == [3]
    ids = [UUID(int=n) for n in range(3)]
    assert {id_: np.asarray(row).tolist() for id_, row in store.sides(prefix_space(PREFIX), ids).items()} == {
        UUID(int=0): [3, 4],
        UUID(int=1): [0, 0],
        UUID(int=2): [1, 0],
    }
    weights = store.sides(side_space(SPARSE), ids)
    assert [weights[id_].values.tolist() for id_ in ids] == [[1], [2], [3]]  # type: ignore[union-attr]
    assert complete(store, makers, told.append) == 0
    assert encoder.batches == [3], "nothing is made twice"
    store.upsert([StoredChunk(UUID(int=9), ROWS[0], {"content": "bbbb"})])
    assert complete(store, makers) == 2
    assert encoder.batches == [3, 1]


def test_pages_are_completed_one_after_the_other(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "PAGE", 2)
    told: list[int] = []
    assert complete(store, [PrefixMaker(PREFIX, None)], told.append) == 3
    assert told == [3, 1]
    assert list(store.without(prefix_space(PREFIX))) == []


def test_sizes_are_of_the_numbers() -> None:
    assert size_of(ROWS) == 36
    assert size_of(SparseVector(np.zeros(3, np.int32), np.zeros(3, np.float32))) == 24
