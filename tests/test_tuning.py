"""`Index.tune`: what it measures, what it writes, how searches use it, and that syncs keep it true."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handbook import version_of

from tarragon import Document, Index, IndexRecipe, SearchRecipe, requests
from tarragon import tuning as tuned
from tarragon.contract import Prefix
from tarragon.copying import copy_index
from tarragon.errors import InvalidInput, StorageProblem
from tarragon.protocols import Embeddings
from tarragon.sides import prefix_space
from tarragon.store.edge import EdgeStore
from tarragon.store.folder import IndexFolder
from tarragon.store.ledger import SqliteLedger
from tarragon.store.trials import Way, exact
from tarragon.testing import WordEncoder
from tarragon.tuning import Tuning
from tarragon.types import FloatArray, IntArray
from tests.freshness.faults import Killed, copy_as_left

DIMENSIONS = 48
LENGTHS = (2, 12, 24)


class Spectrum(WordEncoder):
    """Vectors from words, whose variance falls off along axes that are turned at random, as those of models do.

    Attributes:
        queries_encoded: Like ``documents_encoded``.
    """

    def __init__(self, *, unit: bool = True, salt: str = "") -> None:
        super().__init__(DIMENSIONS, salt=salt)
        turn, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((DIMENSIONS, DIMENSIONS)))
        self._basis = (np.arange(1, DIMENSIONS + 1) ** -0.9)[:, None] * turn
        self._unit = unit
        self._words: dict[int, FloatArray] = {}
        self.queries_encoded = 0

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "kind": "spectrum", "unit": str(self._unit)}

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        self.queries_encoded += len(texts)
        return super().encode_queries(texts, prompt)

    def _vector(self, ids: IntArray) -> FloatArray:
        for id_ in set(ids.tolist()).difference(self._words):
            self._words[id_] = super()._vector(np.array([id_], dtype=np.int32))
        total = sum((self._words[id_] for id_ in ids.tolist()), np.full(DIMENSIONS, 1e-3)) @ self._basis
        made: FloatArray = (total / np.linalg.norm(total) if self._unit else 3 * total).astype(np.float32)
        return made


def texts(count: int, seed: int = 0, *, words: int = 300) -> dict[str, str]:
    """Document id → ten random words."""
    rng = np.random.default_rng(seed)
    return {f"d{seed}-{n}": " ".join(f"w{word}" for word in rng.integers(0, words, 10)) for n in range(count)}


def documents(corpus: Mapping[str, str]) -> list[Document]:
    return [Document(id_, text) for id_, text in corpus.items()]


QUERIES = [" ".join(text.split()[:4]) for text in texts(60, seed=1).values()]
WHOLE = IndexRecipe(chunking="whole", language="neutral")


def make(path: Path, count: int, **settings: Any) -> Path:
    with Index.open(path, recipe=WHOLE, encoder=Spectrum(**settings)) as index:
        index.sync(documents(texts(count)))
    return path


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """First passes of few candidates, so that they lose some in a small corpus."""
    monkeypatch.setattr(requests, "FIRST_DEPTH", 12)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 chunks, not tuned."""
    return make(tmp_path_factory.mktemp("large") / "i", 1_500)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 chunks, not tuned."""
    return make(tmp_path_factory.mktemp("small") / "i", 240)


Opener = Callable[[Path], Index]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens a copy of an index."""
    handles: list[Index] = []

    def copy(path: Path) -> Index:
        target = tmp_path / f"copy {len(handles)}"
        copy_as_left(path, target)
        handles.append(Index.open(target, encoder=Spectrum()))
        return handles[-1]

    yield copy
    for index in handles:
        index.close()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first pass for small indexes too."""
    monkeypatch.setattr(tuned, "FEWEST", 100)


def rows(index: Index) -> tuple[list[str], FloatArray]:
    """Ids of all chunks in order, and their vectors."""
    version = version_of(index)
    ids = sorted(version.store.ids())
    stored = version.store.vectors(ids)
    return [str(id_) for id_ in ids], np.stack([stored[id_] for id_ in ids])


def principal(vectors: FloatArray, length: int) -> FloatArray:
    """The first principal axes, slowly: shape ``(dimensions, length)``."""
    _, axes = np.linalg.eigh(np.cov(vectors.T.astype(np.float64), bias=True))
    return np.ascontiguousarray(axes[:, ::-1][:, :length], dtype=np.float32)


def short_of(vectors: FloatArray, axes: FloatArray, *, unit: bool = True) -> FloatArray:
    made = vectors @ axes
    return made / np.linalg.norm(made, axis=1, keepdims=True) if unit else made


def best(scores: FloatArray, count: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:count].tolist()


def prefix_of(index: Index) -> Prefix:
    prefix = version_of(index).record.prefix
    assert prefix is not None
    return prefix


def lacking(index: Index) -> int:
    version = version_of(index)
    return len(list(version.store.without(prefix_space(prefix_of(index)))))


def two_stages(
    index: Index, axes: FloatArray, query: FloatArray, depth: int, k: int, *, unit: bool = True
) -> list[str]:
    """What a first pass and a second should find; the engine is asked for one more, to see ties."""
    prefix = prefix_of(index)
    ids, vectors = rows(index)
    asked = short_of(query[None, :], axes[:, : prefix.dimensions], unit=unit)[0]
    shorts = short_of(vectors, axes[:, : prefix.dimensions], unit=unit)
    first = math.ceil(math.ceil(prefix.depth * depth) * (depth + 1) / depth)
    found = sorted(best(shorts @ asked, first), key=lambda row: -float(vectors[row] @ query))
    return [ids[row] for row in found[:k]]


def dense(index: Index, query: str, *, depth: int = 12, k: int = 10, first_pass: bool = True) -> list[str]:
    recipe = SearchRecipe(mode="dense", depth=depth, first_pass=first_pass)
    return [hit.chunk_id for hit in index.search(query, k, recipe=recipe)]


def is_a_first_pass_at_work(index: Index, queries: Sequence[str] = tuple(QUERIES[:20])) -> None:
    """Searches find what two stages find, which is not what one finds; and without it, what one finds."""
    ids, vectors = rows(index)
    version, prefix = version_of(index), prefix_of(index)
    statistics = version.ledger.attachment(prefix.rotation)
    assert statistics is not None
    axes = tuned_axes(statistics)
    differing = 0
    for query in queries:
        vector = Spectrum().encode_queries([query]).vectors[0]
        whole = [ids[row] for row in best(vectors @ vector, 10)]
        assert dense(index, query, first_pass=False) == whole
        found = dense(index, query)
        assert found == two_stages(index, axes, vector, 12, 10)
        differing += found != whole
    assert differing, "or the first pass changes nothing, and this test sees nothing"


def tuned_axes(text: str) -> FloatArray:
    from tarragon.statistics import unpack

    return np.ascontiguousarray(unpack(text).axes.T)


# --- what is measured -------------------------------------------------------------------------------------------------
def test_the_table_is_what_brute_force_finds(large: Path, opened: Opener) -> None:
    index = opened(large)
    found = index.tune(QUERIES, target_recall=0.98, first_pass=True, lengths=LENGTHS)
    _, vectors = rows(index)
    queries = Spectrum().encode_queries(QUERIES).vectors
    assert (found.chunks, found.queries, found.held_back, found.target_recall) == (1_500, 60, False, 0.98)
    assert (found.ways[0].way, found.ways[0].recall, found.ways[0].bytes) == ("full vectors", 1.0, 4 * DIMENSIONS)
    by_name = {way.way: way for way in found.ways}
    assert len(by_name) == len(found.ways) == 1 + 3 * 3 + 4 * (2 + 3)
    axes = principal(vectors, 24)
    truth = [best(vectors @ query, 10) for query in queries]
    for length in LENGTHS:
        shorts, asked = (short_of(part, axes[:, :length]) for part in (vectors, queries))
        for depth in (1, 2, 4):
            candidates = [best(shorts @ one, 100 * depth) for one in asked]
            expected = np.mean([len({*t} & {*c}) / 10 for t, c in zip(truth, candidates, strict=True)])
            way = by_name[f"{length} of the numbers first, depth × {depth}"]
            assert way.recall == pytest.approx(expected, abs=0.002)
            assert way.bytes == 4 * length
    assert by_name["2 of the numbers first, depth × 1"].recall < 0.9, "or the table tells nothing apart"
    assert by_name["int8, oversampling 2"].recall > 0.98
    assert by_name["binary, oversampling 1"].recall < by_name["int8, oversampling 1"].recall
    chosen = [way for way in found.ways if way.chosen]
    good = [way for way in found.ways[1:10] if way.recall >= 0.98]
    assert chosen == [min(good, key=lambda way: way.milliseconds)]
    assert found.sentence.startswith(f"{chosen[0].way}: {chosen[0].recall:.3f} of the ten best (target 0.98)")
    assert json.loads(json.dumps(found.to_dict()))["ways"][0]["way"] == "full vectors"


def test_passages_are_left_out_of_their_own_answers(large: Path, opened: Opener) -> None:
    index = opened(large)
    encoder = index.encoder
    assert isinstance(encoder, Spectrum)
    found = index.tune(target_recall=0.5, first_pass=True, lengths=(3,))
    assert (found.held_back, found.queries, found.ways[0].recall) == (True, 200, 1.0)
    assert (encoder.documents_encoded, encoder.queries_encoded) == (0, 0), "vectors are there; one chunk a document"
    _, vectors = rows(index)
    held = vectors[::7][:200]
    shorts = short_of(vectors, principal(vectors, 3))
    shares = []
    for number, query in enumerate(held):
        truth = [row for row in best(vectors @ query, 11) if row != 7 * number][:10]
        shares.append(len({*truth} & {*best(shorts @ shorts[7 * number], 101)}) / 10)
    assert found.ways[1].recall == pytest.approx(np.mean(shares), abs=0.002)
    assert min(shares) < 1


def test_a_first_pass_is_made_if_it_pays_or_is_wanted_and_never_below_the_target(large: Path, opened: Opener) -> None:
    index = opened(large)
    found = index.tune(QUERIES[:20], first_pass=False, lengths=(4,))
    assert found.ways[0].chosen
    assert "no first pass: none is wanted" in found.sentence
    assert version_of(index).record.prefix is None
    found = index.tune(QUERIES[:20], target_recall=1.0, first_pass=True, lengths=(1,))
    assert max(way.recall for way in found.ways if way.way.startswith("1 of")) < 1
    assert found.ways[0].chosen
    assert "no first pass: none reaches 1.0" in found.sentence
    assert version_of(index).record.prefix is None
    found = index.tune(QUERIES[:20], target_recall=0.5, first_pass=True, lengths=(4,))
    assert prefix_of(index).dimensions == 4
    assert version_of(index).record.tuning == found.to_dict()


def test_without_a_wish_the_fastest_that_saves_a_tenth_is_chosen() -> None:
    """Times cannot be forced on an engine: the rule alone."""
    full = tuned.Measured("full", 1.0, 1.0, 0)
    pass_ = Way(short=4)

    def chosen(recall: float, milliseconds: float, wanted: bool | None) -> Way | None:
        rival = (Way("int8"), tuned.Measured("int8", 1.0, 0.1, 0))
        ways = [(Way(), full), (pass_, tuned.Measured("short", recall, milliseconds, 0)), rival]
        return tuned._cheapest(ways, 0.99, wanted)

    assert chosen(0.99, 0.9, None) == pass_
    assert chosen(0.99, 0.91, None) == Way()
    assert chosen(0.99, 5.0, True) == pass_
    assert chosen(0.989, 0.1, True) == Way()
    assert chosen(0.99, 0.1, False) == Way()


def test_lengths_that_are_no_shortening_are_not_tried(small: Path, opened: Opener, few: None) -> None:
    found = opened(small).tune(QUERIES[:5], lengths=(0, 4, 4, DIMENSIONS, 1_000))
    assert {way.bytes for way in found.ways if "first" in way.way} == {16}


def test_plain_truncation_by_wish_and_for_models_that_were_trained_for_it(
    small: Path, opened: Opener, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened(small)
    index.tune(QUERIES[:5], target_recall=0.1, first_pass=True, lengths=(4,), rotate=False)
    assert prefix_of(index).rotation == ""
    version = version_of(index)
    stored = version.store.sides(prefix_space(prefix_of(index)), list(version.store.ids()))
    full = version.store.vectors(list(stored))
    for id_, short in stored.items():
        assert short == pytest.approx(full[id_][:4] / np.linalg.norm(full[id_][:4]), abs=1e-6)  # type: ignore[comparison-overlap]
    monkeypatch.setattr(tuned, "trained_lengths", lambda name: (8, 12) if name == "words" else ())
    found = index.tune(QUERIES[:5], target_recall=0.1, first_pass=True, lengths=(4, 8))
    assert {way.bytes for way in found.ways if "first" in way.way} == {32}, "only lengths it was trained for"
    assert (prefix_of(index).dimensions, prefix_of(index).rotation) == (8, "")


def test_too_few_chunks(tmp_path: Path, opened: Opener, small: Path) -> None:
    found = opened(small).tune(QUERIES[:20], first_pass=True)
    assert [way.way for way in found.ways] == ["full vectors"]
    assert "no first pass: there are fewer than 1,000 chunks" in found.sentence
    with Index.open(tmp_path / "i", recipe=WHOLE, encoder=Spectrum()) as index:
        index.sync(documents(texts(19)))
        with pytest.raises(InvalidInput, match="19 chunks are too few to tune anything on"):
            index.tune()


@pytest.mark.parametrize("share", [0, -1, 1.01, math.nan])
def test_a_target_that_is_no_share_is_refused(small: Path, opened: Opener, share: float) -> None:
    with pytest.raises(InvalidInput, match="must be above 0 and at most 1"):
        opened(small).tune(target_recall=share)


def test_queries_that_would_be_read_letter_by_letter_are_refused(small: Path, opened: Opener) -> None:
    index = opened(small)
    with pytest.raises(InvalidInput, match=r"one string; give a list of them: \['rotate the key'\]"):
        index.tune("rotate the key")
    with pytest.raises(InvalidInput, match=r"give a list of ids: \['keys.md'\]"):
        index.tune([("rotate the key", "keys.md")])


@pytest.mark.usefixtures("few")
def test_vectors_of_any_length_keep_their_lengths(tmp_path: Path) -> None:
    path = make(tmp_path / "i", 240, unit=False)
    with Index.open(path, encoder=Spectrum(unit=False)) as index:
        index.tune(QUERIES[:20], target_recall=0.3, first_pass=True, lengths=(4,))
        assert not prefix_of(index).unit
        _, vectors = rows(index)
        assert np.linalg.norm(vectors, axis=1).std() > 0.1
        for query in QUERIES[:10]:
            vector = Spectrum(unit=False).encode_queries([query]).vectors[0]
            assert dense(index, query) == two_stages(index, principal(vectors, 4), vector, 12, 10, unit=False)


def test_equal_vectors_are_as_good_as_one_another() -> None:
    """Whichever of a hundred equal passages an engine finds."""
    vectors = np.array([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 5, np.float32)
    query = np.array([[1.0, 0.1]], np.float32)
    truth = exact(vectors, query, 10)
    assert truth[0].tolist() == list(range(10))
    assert tuned._recall(vectors, query, truth, np.arange(15, 30, dtype=np.int32)[None, :]) == 1.0
    assert tuned._recall(vectors, query, truth, np.arange(26, 35, dtype=np.int32)[None, :]) == 0.4
    assert tuned._recall(vectors, query, truth, np.arange(26, 35, dtype=np.int32)[None, :], [26]) == 0.3


# --- what is written --------------------------------------------------------------------------------------------------
def test_searches_use_it_also_after_reopening(large: Path, tmp_path: Path) -> None:
    path = tmp_path / "i"
    copy_as_left(large, path)
    with Index.open(path, encoder=Spectrum()) as index:
        index.tune(QUERIES, target_recall=0.5, first_pass=True, lengths=(4,))
        is_a_first_pass_at_work(index)
        record = version_of(index).record
        assert prefix_of(index).chunks == 1_500
        assert 0.5 <= prefix_of(index).recall <= 1
        assert lacking(index) == 0
    with Index.open(path, encoder=Spectrum()) as index:
        assert version_of(index).record.to_dict() == json.loads(json.dumps(record.to_dict()))
        is_a_first_pass_at_work(index)


@pytest.mark.usefixtures("few")
def test_syncs_keep_it_complete_and_embed_nothing_but_what_is_new(small: Path, opened: Opener) -> None:
    index = opened(small)
    encoder = index.encoder
    assert isinstance(encoder, Spectrum)
    index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
    corpus = texts(240)
    corpus["d0-1"] += " edited"
    corpus["moved"] = corpus.pop("d0-2")
    corpus |= texts(30, seed=9)
    del corpus["d0-3"]
    encoder.documents_encoded = 0
    report = index.sync(documents(corpus), max_delete=1.0)
    canaries = 16
    assert (report.chunks_embedded, report.chunks_reused) == (31, 1)
    assert encoder.documents_encoded - canaries == 31
    assert lacking(index) == 0
    is_a_first_pass_at_work(index)
    index.sync([Document(id_, text, {"tag": "x"}) for id_, text in corpus.items()])
    assert encoder.documents_encoded - canaries == 31
    assert lacking(index) == 0


@pytest.mark.usefixtures("few")
def test_tuned_again_after_the_corpus_has_moved(small: Path, opened: Opener) -> None:
    index = opened(small)
    encoder = index.encoder
    assert isinstance(encoder, Spectrum)
    index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
    former = prefix_of(index)
    index.sync(documents(texts(240) | texts(100, seed=4)))
    encoded = encoder.documents_encoded, encoder.queries_encoded
    index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
    prefix, version = prefix_of(index), version_of(index)
    assert (encoder.documents_encoded, encoder.queries_encoded) == encoded
    assert (prefix.chunks, prefix.space != former.space) == (340, True)
    path = Path(index.status().path)
    assert engine_spaces(path) == {prefix.space, version.record.contract.space}
    assert attachments(path) == {prefix.rotation, version.record.statistics}
    assert lacking(index) == 0
    is_a_first_pass_at_work(index)
    index.tune(first_pass=False)
    assert version_of(index).record.prefix is None
    assert engine_spaces(path) == {version.record.contract.space}
    assert attachments(path) == {version.record.statistics}
    assert tuned.NOTE not in version.ledger.notes()
    assert dense(index, QUERIES[0]) == dense(index, QUERIES[0], first_pass=False)


@pytest.mark.usefixtures("few")
def test_another_length_on_the_same_axes_keeps_the_axes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were once removed with the former prefix, and what was synced then was cut without a turn."""
    path = tmp_path / "i"
    copy_as_left(small, path)
    with Index.open(path, encoder=Spectrum()) as index:
        rotations = []
        for length in (2, 6):
            monkeypatch.setattr(tuned, "_cheapest", lambda results, *_, n=length: first_of(results, n))
            index.tune(first_pass=True, lengths=(2, 6))
            rotations.append(prefix_of(index).rotation)
            assert prefix_of(index).dimensions == length
        assert rotations[0] == rotations[1]
    with Index.open(path, encoder=Spectrum()) as index:
        assert version_of(index).ledger.attachment(prefix_of(index).rotation)
        index.sync(documents(texts(250)))
        is_a_first_pass_at_work(index)


def first_of(results: Sequence[tuple[Way, Any]], length: int) -> Way:
    """As if it had been the fastest that reaches the target."""
    return next(way for way, _ in results if way.short == length)


@pytest.mark.usefixtures("few")
def test_where_the_axes_are_lost_nothing_wrong_is_written_and_tuning_again_mends_it(
    small: Path, tmp_path: Path
) -> None:
    path = tmp_path / "i"
    copy_as_left(small, path)
    with Index.open(path, encoder=Spectrum()) as index:
        index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
        version_of(index).ledger.attach(prefix_of(index).rotation, None)
    with Index.open(path, encoder=Spectrum()) as index:
        assert dense(index, QUERIES[0]) == dense(index, QUERIES[0], first_pass=False), "searched without it"
        with pytest.raises(StorageProblem, match="tune again"):
            index.sync(documents(texts(250)))
        index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
        index.sync(documents(texts(250)))
        assert lacking(index) == 0
        is_a_first_pass_at_work(index)


STEPS: list[tuple[type, str]] = [
    (EdgeStore, "add_space"),
    (EdgeStore, "set_sides"),
    (EdgeStore, "drop_space"),
    (EdgeStore, "flush"),
    (SqliteLedger, "attach"),
    (SqliteLedger, "note"),
    (IndexFolder, "update"),
]


@pytest.mark.usefixtures("few")
def test_killed_at_any_step_it_leaves_an_index_that_searches_and_can_be_tuned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "ASKED", 5)
    monkeypatch.setattr(tuned, "QUANTIZATIONS", {})  # no rivals, which write nothing and take long
    path = make(tmp_path / "i", 120)
    with Index.open(path, encoder=Spectrum()) as index:
        index.tune(target_recall=0.1, first_pass=True, lengths=(4,))
        index.sync(documents(texts(130)))
    blown = 0
    while (target := killed_at(path, tmp_path / f"{blown}", blown)) is not None:
        with Index.open(target, encoder=Spectrum()) as index:
            is_a_first_pass_at_work(index, QUERIES[:12])
            index.sync(documents(texts(2, seed=20 + blown)), prune=False)
            assert lacking(index) == 0
            index.tune(target_recall=0.1, first_pass=True, lengths=(4,))
            is_a_first_pass_at_work(index, QUERIES[:12])
            version = version_of(index)
            spaces = engine_spaces(target)
            assert spaces == {prefix_of(index).space, version.record.contract.space}, f"after step {blown}"
            assert attachments(target) == {prefix_of(index).rotation, version.record.statistics}
        blown += 1
    assert blown >= 9


def killed_at(path: Path, target: Path, step: int) -> Path | None:
    """Tune a copy until this write, then leave it behind; None if there are not so many."""
    working = target.with_name(f"{target.name} working")
    copy_as_left(path, working)
    writes = 0

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(itself: Any, *values: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes > step:
                copy_as_left(working, target)
                raise Killed
            return original(itself, *values)

        return counted

    with Index.open(working, encoder=Spectrum()) as index, pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, around(getattr(owner, name)))
        try:
            index.tune(target_recall=0.1, first_pass=True, lengths=(4,))
        except Killed:
            return target
    return None


def engine_spaces(path: Path) -> set[str]:
    config = json.loads(next(path.rglob("edge_config.json")).read_text())
    return set(config["vectors"])


def attachments(path: Path) -> set[str]:
    import sqlite3

    with sqlite3.connect(next(path.rglob("ledger.sqlite"))) as db:
        keys = [key for (key,) in db.execute("SELECT key FROM notes")]
    return {key.removeprefix("attachment:") for key in keys if key.startswith("attachment:")}


# --- other places and versions ----------------------------------------------------------------------------------------
@pytest.mark.usefixtures("few")
def test_a_copy_has_the_prefix_the_statistics_and_the_tuning(small: Path, opened: Opener, tmp_path: Path) -> None:
    index = opened(small)
    index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
    before, hits = version_of(index).record, dense(index, QUERIES[0])
    path = Path(index.status().path)
    index.close()
    copy_index(path, tmp_path / "target")
    with Index.open(tmp_path / "target", encoder=Spectrum()) as copied:
        record = version_of(copied).record
        assert (record.prefix, record.statistics) == (before.prefix, before.statistics)
        assert dict(record.tuning) == json.loads(json.dumps(dict(before.tuning)))
        assert dense(copied, QUERIES[0]) == hits
        assert lacking(copied) == 0
        is_a_first_pass_at_work(copied)


@pytest.mark.usefixtures("few")
def test_each_version_has_its_own_prefix_or_none(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "i"
    copy_as_left(small, path)
    corpus = documents(texts(240))
    other = Spectrum(salt="other")
    with Index.open(path, encoder=[Spectrum(), other]) as index:
        index.tune(target_recall=0.3, first_pass=True, lengths=(4,))
        first = prefix_of(index)
        index.upgrade(IndexRecipe(chunking="whole", language="neutral"), encoder=other, sources={"": corpus})
        index.promote("v2", sources={"": corpus}) if version_of(index).record.name != "v2" else None
        assert version_of(index).record.prefix is None
        assert len(dense(index, QUERIES[0])) == 10
        index.sync(documents(texts(245)))
        index.rollback()
        assert prefix_of(index) == first
        assert lacking(index) == 0, "syncs kept the short vectors of the former version too"
        is_a_first_pass_at_work(index)


# --- legs and weights -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("judged") / "i", 120)


def test_labels_choose_what_is_better_beyond_doubt(tmp_path: Path) -> None:
    """Each question's words are in another document than its answer: only vectors lead there."""
    encoder = Misled()
    with Index.open(tmp_path / "i", recipe=WHOLE, encoder=encoder) as index:
        index.sync([Document(f"d{n}", f"topic{n} common answer") for n in range(40)])
        queries = [(f"topic{(n + 1) % 40} common ask{n}", [f"d{n}"]) for n in range(40)]
        found = index.tune(queries)
        by_name = {one.recipe: one for one in found.recipes}
        assert found.recipes[0].recipe == "the default"
        assert by_name["mode=dense"].ndcg == 1.0
        chosen = next(one for one in found.recipes if one.chosen)
        assert (chosen.ndcg, found.search) == (1.0, dict(found.search))
        assert found.search, "something else than the default"
        assert chosen.difference[1] > 0
        assert "legs and weights" in found.sentence
        assert index.search(queries[3][0], 1)[0].document_id == "d3", "searches that name no recipe follow"
        assert index.search(queries[3][0], 1, recipe=SearchRecipe(mode="lexical"))[0].document_id == "d4"
        assert index.search(queries[3][0], 1, mode="lexical")[0].document_id == "d4", "the mode takes precedence"
        index.tune()
        assert index.search(queries[3][0], 1)[0].document_id != "", "and are judged anew without labels"


class Misled(WordEncoder):
    """Knows that ``ask7`` means the topic 7, and nothing else."""

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        meant = [text.split("ask")[1] if "ask" in text else text.removeprefix("topic").split()[0] for text in texts]
        return super()._encode(meant)


def test_the_default_stays_where_nothing_is_better(judged: Path, opened: Opener) -> None:
    index = opened(judged)
    queries = [(" ".join(text.split()[:6]), [id_]) for id_, text in list(texts(120).items())[:40]]
    found = index.tune(queries)
    assert found.recipes[0].chosen
    assert found.recipes[0].ndcg > 0.95
    assert found.search == {}
    assert dict(version_of(index).record.tuning)["search"] == {}
    assert found.recipes[0].difference == (0.0, 0.0, 0.0)


def test_passages_must_find_the_rest_of_their_documents(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", recipe=IndexRecipe(chunk_tokens=16), encoder=Spectrum()) as index:
        index.sync(
            [Document(f"d{n}", "\n\n".join(f"{part} talk{n} of thing{n}." * 2 for part in "abc")) for n in range(30)]
        )
        found = index.tune()
        assert found.held_back
        assert {one.recipe for one in found.recipes} >= {"the default", "mode=dense", "mode=lexical"}
        assert found.recipes[0].ndcg > 0.5
        assert sum(one.chosen for one in found.recipes) == 1
        few_labels = index.tune([("a talk1", ["d1"])] * 19)
        assert few_labels.recipes == (), "nineteen are too few to judge by"


# --- beside searches --------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("few")
def test_searches_go_on_while_it_is_tuned(small: Path, opened: Opener) -> None:
    index = opened(small)
    expected = dense(index, QUERIES[0], depth=100)
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(dense(index, QUERIES[0], depth=100))
            except BaseException as error:
                answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        index.tune(target_recall=0.9, first_pass=True, lengths=(24,))
    finally:
        stop.set()
        thread.join()
    assert answers[-1] == dense(index, QUERIES[0], depth=100)
    assert len(answers) > 3
    assert all(len(set(answer) & set(expected)) >= 9 for answer in answers)


@pytest.mark.usefixtures("few")
def test_a_search_that_began_with_the_former_prefix_goes_on_without_it(small: Path, opened: Opener) -> None:
    index = opened(small)
    index.tune(target_recall=0.1, first_pass=True, lengths=(4,))
    tuned_again, search = [], EdgeStore.search

    def late(itself: EdgeStore, request: Any) -> Any:
        if not tuned_again:
            tuned_again.append(True)
            thread = threading.Thread(target=lambda: index.tune(target_recall=0.1, first_pass=True, lengths=(8,)))
            thread.start()
            thread.join()
        return search(itself, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EdgeStore, "search", late)
        assert len(dense(index, QUERIES[0])) == 10


def test_steps_are_told(small: Path, opened: Opener, few: None) -> None:
    said: list[str] = []
    index = opened(small)
    index.tune(QUERIES[:5], target_recall=0.1, first_pass=True, lengths=(4,), on_step=said.append)
    assert said[0] == "trying full vectors"
    assert said[-1] == "writing 240 short vectors", "of one page"
    assert "judging legs and weights" in said


def test_what_is_kept_reads_back(small: Path, opened: Opener) -> None:
    index = opened(small)
    found = index.tune(QUERIES[:20])
    kept = json.loads(json.dumps(dict(version_of(index).record.tuning)))
    again = Tuning(**{**kept, "ways": tuple(tuned.Measured(**way) for way in kept["ways"]), "recipes": ()})
    assert again == replace(found, recipes=())
