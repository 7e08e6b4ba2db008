"""Bridges: an index searched with a model that did not build it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handbook import HANDBOOK, version_of, write
from sentence_transformers.sentence_transformer.modules import Pooling

from tarragon import Document, Index
from tarragon.bridging import Bridge
from tarragon.cli import main
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.errors import (
    AdapterRefused,
    EncodingFailed,
    IndexNotFound,
    InvalidFilter,
    InvalidInput,
    RecipeMismatch,
)
from tarragon.fusion import fuse, ranking
from tarragon.identity import fingerprint
from tarragon.protocols import Embeddings, EncoderInput, LegScores, LexicalLeg, SearchRequest
from tarragon.recipe import SearchRecipe
from tarragon.testing import WordEncoder
from tarragon.types import Hit

PROBES = 16
WORDS = [
    "river",
    "bread",
    "law",
    "music",
    "star",
    "bank",
    "war",
    "sea",
    "road",
    "cell",
    "tree",
    "king",
    "door",
    "key",
    "moon",
    "salt",
    "iron",
    "wool",
    "ship",
    "fire",
]


class Turned(WordEncoder):
    """Another model in truth: the same vectors in a rotated space, perhaps with more dimensions."""

    name = "turned"

    def __init__(self, dimensions: int = 64) -> None:
        super().__init__()
        turned, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((dimensions, dimensions)))
        self._turn = turned[:64]
        self.dimensions = dimensions

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "turned": str(self.dimensions)}

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        ids = self.tokenizer.tokenize(texts)
        rows = [self._row(row[: self.max_tokens]) for row in ids]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), self.dimensions)
        return Embeddings(vectors, sum(map(len, ids)), 0)

    def _row(self, ids: Any) -> Any:
        seeded = WordEncoder()
        return seeded._vector(ids).astype(np.float64) @ self._turn


def documents(count: int = 160) -> list[Document]:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 8)) + f" word{number}" for number in range(count)]
    return [Document(f"{n:03}", text, {"even": n % 2 == 0}, "text") for n, text in enumerate(texts)]


def answers(hits: Sequence[Hit]) -> list[Any]:
    return [(hit.chunk_id, hit.text, hit.start, hit.metadata, round(hit.score, 4), hit.freshness) for hit in hits]


QUERIES = ["river bread", "the key of the door", "word17 iron", "moon salt fire ship", "law"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bridges") / "i.tarragon"
    with Index.open(path, encoder=WordEncoder()) as index:
        index.sync(documents())
    return path


@pytest.fixture
def old(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index whose model cannot be loaded any more."""

    def gone(*_: object) -> None:
        raise AssertionError("the old model was asked for")

    monkeypatch.setattr("tarragon.session.load_encoder", gone)
    shutil.copytree(made, tmp_path / "i.tarragon")
    with Index.open(tmp_path / "i.tarragon") as index:
        yield index


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Iterator[Index]:
    """The same index with its own model."""
    shutil.copytree(made, tmp_path / "own.tarragon")
    with Index.open(tmp_path / "own.tarragon", encoder=WordEncoder()) as index:
        yield index


# --- adapters ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dimensions", [64, 96])
def test_an_adapter_of_a_rotated_space_answers_as_the_old_model_did(old: Index, own: Index, dimensions: int) -> None:
    encoder = Turned(dimensions)
    bridge = old.bridge(encoder, kind="adapter")
    assert bridge.kind == "adapter"
    assert bridge.overlap is not None
    assert bridge.overlap > 0.999
    assert bridge.embedded == 160
    assert encoder.documents_encoded == 160 + PROBES
    for query in QUERIES:
        hits = bridge.search(query, 7)
        assert answers(hits) == [(*rest, "unknown") for *rest, _ in answers(own.search(query, 7))]
        assert {hit.bridge for hit in hits} == {"procrustes adapter, overlap 1.00"}
        assert {hit.version for hit in hits} == {"v1"}
    assert encoder.documents_encoded == 160 + PROBES, "searching embeds questions only"


def test_pairs_are_a_sample(old: Index) -> None:
    bridge = old.bridge(Turned(), kind="adapter", pairs=120)
    assert bridge.embedded == 120
    assert bridge.overlap is not None
    assert bridge.overlap > 0.95


def test_an_adapter_between_unrelated_spaces_is_refused_by_default(old: Index) -> None:
    with pytest.raises(AdapterRefused, match=r"at least 0.75.*upgrade.*kind='rescore'") as caught:
        old.bridge(WordEncoder(salt="other"), kind="adapter", pairs=120)
    assert caught.value.data["floor"] == 0.75
    bridge = old.bridge(WordEncoder(salt="other"), kind="adapter", pairs=120, floor=0.0)
    assert bridge.overlap is not None
    assert bridge.overlap < 0.75
    assert bridge.search("river")[0].bridge == f"{bridge.label}"
    assert f"overlap {bridge.overlap:.2f}".replace(" 0.", " .") in bridge.label
    assert bridge.embedded == 0, "kept from the one that was refused"


def test_too_few_passages_are_refused(tmp_path: Path, handbook: Path) -> None:
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync(handbook)
        with pytest.raises(AdapterRefused, match="6 distinct pairs are too few"):
            index.bridge(Turned(), kind="adapter")
        index.sync([], max_delete=1.0)
        with pytest.raises(AdapterRefused, match="0 distinct pairs"):
            index.bridge(Turned(), kind="adapter")
        assert index.bridge(Turned()).search("rotate") == []


# --- scoring again ----------------------------------------------------------------------------------------------------
def rescored(index: Index, encoder: WordEncoder, query: str, k: int, depth: int) -> list[str]:
    """The same, written out: the best by words, fused with their scores by the new model."""
    version = version_of(index)
    legs = version.store.search(SearchRequest(lexical=LexicalLeg(query, 1_000)))
    told = dict(ranking(legs.lexical or {}))
    words = dict(list(told.items())[: max(k, depth)])
    vector = encoder.encode_queries([query]).vectors[0]
    payloads = version.store.payloads(list(words))
    texts = [payloads[id_]["content"] for id_ in words]
    rows = [encoder.encode_documents([EncoderInput(text)]).vectors[0] for text in texts]
    near = {id_: float(row @ vector) for id_, row in zip(words, rows, strict=True)}
    return [str(id_) for id_, _ in fuse(LegScores(near, told), SearchRecipe())[:k]]


@pytest.mark.parametrize(("k", "depth"), [(5, 30), (40, 10), (3, 5), (300, 1)])
def test_the_best_by_words_are_fused_with_their_scores_by_the_new_model(old: Index, k: int, depth: int) -> None:
    bridge = old.bridge(WordEncoder(48, salt="new"), depth=depth)
    assert (bridge.kind, bridge.overlap) == ("rescore", None)
    for query in QUERIES:
        hits = bridge.search(query, k)
        assert [hit.chunk_id for hit in hits] == rescored(old, WordEncoder(48, salt="new"), query, k, depth)
        assert {hit.bridge for hit in hits} == {"rescored by words"}


def test_the_new_model_changes_the_order(old: Index) -> None:
    lexical = [[hit.chunk_id for hit in old.search(query, mode="lexical")] for query in QUERIES]
    bridge = old.bridge(WordEncoder(salt="new"))
    assert [[hit.chunk_id for hit in bridge.search(query)] for query in QUERIES] != lexical


def test_a_large_tie_does_not_embed_the_index(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync([Document(f"{n}", f"word alike{n:04}") for n in range(300)])
        bridge = index.bridge(Turned(), depth=20)
        assert len(bridge.search("word", 5)) == 5
        assert bridge.embedded == 20


def test_texts_are_embedded_once_and_kept_for_the_next_bridge(old: Index, tmp_path: Path) -> None:
    first = old.bridge(WordEncoder(salt="new"))
    hits = answers(first.search("river"))
    made = first.embedded
    assert 5 <= made <= 30
    assert answers(first.search("river")) == hits
    assert first.embedded == made
    second = old.bridge(WordEncoder(salt="new"))
    assert (answers(second.search("river")), second.embedded) == (hits, 0)
    assert old.bridge(WordEncoder(salt="other")).search("river")
    assert len(old._opened.cache.spaces()) == 2


def test_the_cache_changes_the_cost_and_never_the_answers(old: Index, tmp_path: Path) -> None:
    file = tmp_path / "i.tarragon" / "cache.sqlite"
    for kind in ("rescore", "adapter"):
        bridge = old.bridge(Turned(), kind=kind)  # type: ignore[arg-type]
        before = [answers(bridge.search(query)) for query in QUERIES]
        for content in (None, b"broken " * 2_000):
            file.unlink()
            if content:
                file.write_bytes(content)
            assert [answers(bridge.search(query)) for query in QUERIES] == before
            again = old.bridge(Turned(), kind=kind)  # type: ignore[arg-type]
            assert [answers(again.search(query)) for query in QUERIES] == before
            assert (again.kind, again.overlap) == (bridge.kind, bridge.overlap)


class Poisoned(WordEncoder):
    """Refuses a batch with a certain word, and has no vector for another."""

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        if any("poison" in item.text for item in inputs):
            raise EncodingFailed("cannot")
        found = super().encode_documents(inputs)
        found.vectors[[place for place, item in enumerate(inputs) if "empty" in item.text]] = np.nan
        return found


def test_a_passage_that_the_new_model_cannot_take_is_found_by_its_words(tmp_path: Path) -> None:
    texts = ["river poison", "river empty", "river bank", "a long river of bread and salt"]
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync([Document(str(place), text) for place, text in enumerate(texts)])
        bridge = index.bridge(Poisoned(salt="new"))
        assert {hit.document_id for hit in bridge.search("river")} == {"0", "1", "2", "3"}
        assert bridge.embedded == 3


# --- the upgrade that follows -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["rescore", "adapter"])
def test_what_a_bridge_has_embedded_is_not_embedded_again(old: Index, kind: Any, tmp_path: Path) -> None:
    new = Turned()
    bridge = old.bridge(new, kind=kind, pairs=120)
    for query in QUERIES:
        bridge.search(query)
    made = bridge.embedded
    assert 30 < made < 160
    plan = old.plan_upgrade(encoder=new, sources={"": documents()})[0]
    assert plan.embeddings == 160 - made
    before = new.documents_encoded
    report = old.upgrade(encoder=new, sources={"": documents()}).syncs[0]
    assert (report.chunks_embedded, report.chunks_reused) == (160 - made, made)
    assert new.documents_encoded - before == 160 - made + PROBES
    old.promote("v2", sources={"": documents()})
    with Index.open(tmp_path / "fresh", encoder=Turned()) as fresh:
        fresh.sync(documents())
        for query in QUERIES:
            assert answers(old.search(query)) == answers(fresh.search(query))


def test_a_bridge_takes_vectors_from_an_upgrade_that_is_half_built(old: Index) -> None:
    old.upgrade(encoder=Turned(), sources={"": documents()})
    bridge = old.bridge(Turned())
    assert bridge.search("river")
    assert bridge.embedded == 0


def test_vectors_of_a_drifted_runtime_are_not_taken_over(old: Index) -> None:
    class Drifted(Turned):
        def _row(self, ids: Any) -> Any:
            row = super()._row(ids) + 0.1
            return row / np.linalg.norm(row)

    assert fingerprint(Drifted().identity) == fingerprint(Turned().identity)
    before = old.bridge(Drifted())
    drifted = answers(before.search("river"))
    bridge = old.bridge(Turned())
    true = answers(bridge.search("river"))
    assert true != drifted
    assert bridge.embedded == before.embedded > 0
    assert answers(before.search("river")) == drifted, "which makes its own again"
    report = old.upgrade(encoder=Turned(), sources={"": documents()}).syncs[0]
    assert (report.chunks_embedded, report.chunks_reused) == (160, 0)


def test_gc_clears_what_is_not_being_built(old: Index, tmp_path: Path) -> None:
    bridge = old.bridge(Turned())
    bridge.search("river")
    old.bridge(WordEncoder(salt="other")).search("river")
    session = old._opened
    session.create(old.recipe, Turned(), serve=False)
    assert old.gc() == []
    assert session.cache.spaces() == [fingerprint(Turned().identity)]
    old.upgrade(encoder=Turned(), sources={"": documents()})
    old.promote("v2", sources={"": documents()})
    assert old.gc() == []
    assert not (tmp_path / "i.tarragon" / "cache.sqlite").exists()


def test_after_the_promotion_a_bridge_searches_the_new_version_as_it_is(old: Index) -> None:
    bridges = [old.bridge(Turned(), kind=kind) for kind in ("rescore", "adapter")]  # type: ignore[arg-type]
    third = old.bridge(WordEncoder(salt="third"), kind="adapter", floor=0)
    old.upgrade(encoder=Turned(), sources={"": documents()})
    old.promote("v2", sources={"": documents()})
    for bridge in bridges:
        assert bridge.search("river bread") == old.search("river bread")
        assert bridge.search("river bread")[0].bridge == ""
    with pytest.raises(RecipeMismatch, match=r"v2 of turned .* make a new bridge"):
        third.search("river")


# --- what may be served -----------------------------------------------------------------------------------------------
@pytest.fixture(params=["rescore", "adapter"])
def bridged(request: pytest.FixtureRequest, old: Index) -> Bridge:
    return old.bridge(Turned(), kind=request.param)


def test_filters_hold(bridged: Bridge) -> None:
    hits = bridged.search("river bread", 20, filter={"even": True})
    assert len(hits) == 20
    assert all(hit.metadata["even"] for hit in hits)
    assert bridged.search("river", filter={"even": 3}) == []
    with pytest.raises(InvalidFilter):
        bridged.search("river", filter={"even": {"$nope": 1}})


def test_blank_questions_and_odd_numbers(bridged: Bridge) -> None:
    assert bridged.search(" ") == bridged.search("river", 0) == []
    assert len(bridged.search("river", 1_000)) <= 160
    with pytest.raises(InvalidInput, match="k=-1"):
        bridged.search("river", -1)


def test_deleted_and_half_written_documents_never_come(old: Index, bridged: Bridge) -> None:
    first, second, third = (hit.document_id for hit in bridged.search("river bread", 160)[:3])
    version = version_of(old)
    version.ledger.intend_deletion([first])
    shown = bridged.search("river bread", 160)
    assert first not in {hit.document_id for hit in shown}
    assert shown[0].document_id == second
    record = version.ledger.document(second)
    assert record is not None
    # stored, and not switched to yet
    chunk = version.ledger.chunks(second)[0]
    payload = version.store.payloads([chunk.id])[chunk.id]
    version.store.set_payload({chunk.id: {**payload, "start": 999, "digest": "0" * 32}})
    assert second not in {hit.document_id for hit in bridged.search("river bread", 160)}
    version.store.delete([row.id for row in version.ledger.chunks(third)])
    assert third not in {hit.document_id for hit in bridged.search("river bread", 160)}
    assert len(bridged.search("river bread", 3)) == 3, "filled up with the next best"


def test_refused_hits_are_made_up_for_from_deeper(old: Index) -> None:
    bridge = old.bridge(Turned(), depth=5)
    gone = [hit.document_id for hit in bridge.search("river", 5)]
    version_of(old).ledger.intend_deletion(gone)
    hits = bridge.search("river", 5)
    assert len(hits) == 5
    assert not {hit.document_id for hit in hits} & set(gone)


def test_hits_say_whether_they_are_fresh(tmp_path: Path, handbook: Path) -> None:
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync(handbook)
        write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "an hour"))
        hits = index.bridge(Turned()).search("revoke the key or restore", 10)
        labels = {hit.document_id: hit.freshness for hit in hits}
        assert labels["keys.md"] == "stale"
        assert labels["backup.md"] == "fresh"


def test_syncs_meanwhile_are_seen(own: Index) -> None:
    bridge = own.bridge(Turned(), kind="adapter")
    own.sync([*documents(), Document("new", "zebra quagga okapi")])
    assert bridge.search("zebra quagga")[0].document_id == "new"


def test_several_threads_may_search(old: Index) -> None:
    bridge = old.bridge(Turned())
    expected = [answers(old.bridge(Turned()).search(query)) for query in QUERIES]
    (Path(old._opened.catalog.location) / "cache.sqlite").unlink()
    found: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        found[number] = [answers(bridge.search(query)) for query in QUERIES]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), expected)


# --- opening ----------------------------------------------------------------------------------------------------------
def test_what_cannot_be_bridged(old: Index, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs no bridge"):
        old.bridge(WordEncoder())
    for wrong in ({"kind": "rope"}, {"pairs": 0}, {"depth": 0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            old.bridge(Turned(), **wrong)  # type: ignore[arg-type]
    with Index.open(tmp_path / "none") as index, pytest.raises(IndexNotFound):
        index.bridge(Turned())
    assert not (tmp_path / "none").exists()


def test_a_bridge_ends_with_its_index(old: Index, tmp_path: Path) -> None:
    bridge = old.bridge(Turned())
    old.close()
    with pytest.raises(InvalidInput, match="closed"):
        bridge.search("river")
    with pytest.raises(RecipeMismatch):
        Index.open(tmp_path / "i.tarragon", encoder=Turned())


def test_the_command_line(
    old: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {kind: old.bridge(Turned(), kind=kind).search("river bread", 3) for kind in ("rescore", "adapter")}  # type: ignore[arg-type]
    old.close()
    asked: list[Any] = []

    def load(recipe: Any, device: str | None) -> WordEncoder:
        asked.append(recipe.model)
        return Turned()

    monkeypatch.setattr("tarragon.cli.questions.load_encoder", load)
    command = ["search", str(tmp_path / "i.tarragon"), "river bread", "-k", "3", "--model", "new/model"]
    for kind, hits in expected.items():
        assert main([*command, "--bridge", kind, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["hits"]
        assert found == json.loads(json.dumps([hit.to_dict() for hit in hits]))
    assert asked == ["new/model"] * 2
    assert main([*command, "--bridge", "rescore"]) == 0
    assert "rescored by turned" in capsys.readouterr().out
    for wrong in (command, [*command[:-2], "--bridge", "rescore"]):
        assert main(wrong) == 1
        assert "--bridge and --model go together" in capsys.readouterr().err
    assert main([*command, "--bridge", "rescore", "--mode", "dense"]) == 1
    assert "with --bridge only -k and --filter can be said" in capsys.readouterr().err


# --- a real model -----------------------------------------------------------------------------------------------------
def test_the_real_model_with_other_pooling(tmp_path: Path, encoder: SentenceTransformerEncoder) -> None:
    class Cls(SentenceTransformerEncoder):
        @property
        def identity(self) -> Mapping[str, str]:
            return {**super().identity, "pooling": "cls"}

    new = Cls(device="cpu")
    new._model[1] = Pooling(384, "cls")
    files = [path for path in sorted(Path(json.__file__).parent.parent.glob("*.py"))[:105] if path.stat().st_size]
    texts = [
        Document(path.name, path.read_text(encoding="utf-8", errors="replace")[:100], {}, "text") for path in files
    ]
    with Index.open(tmp_path / "i", encoder=encoder) as index:
        index.sync(texts)
        plain = [hit.document_id for hit in index.search("parse dates of a calendar", 5)]
    with Index.open(tmp_path / "i") as index:
        bridge = index.bridge(new, kind="adapter", floor=0.3)
        assert bridge.overlap is not None
        assert 0.3 < bridge.overlap < 1
        hits = bridge.search("parse dates of a calendar", 5)
        assert "calendar.py" in [hit.document_id for hit in hits][:2]
        assert len(set(plain) & {hit.document_id for hit in hits}) >= 3
        other = index.bridge(new)
        assert other.search("parse dates of a calendar", 5)[0].document_id == "calendar.py"
        assert other.embedded == 0, "the pairs were all there is"


# --- the page ---------------------------------------------------------------------------------------------------------
def test_the_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "bridges.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "index.bridge(" in block)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "docs" / "keys.md", HANDBOOK["keys.md"])
    with Index.open("handbook.tarragon", encoder=WordEncoder()) as index:
        index.sync("docs")
    names: dict[str, Any] = {"Index": Index, "new_model": Turned()}
    exec(compile(block.replace(', filter={"lang": "en"}', ""), "bridges.md", "exec"), names)
    assert names["hits"][0].document_id == "keys.md"
    assert names["bridge"].kind == "rescore"
