"""Retriever: one answer from every way of asking, an event loop that goes on, and a scope that nothing gets out of."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tarragon import Document, Index, SearchRecipe
from tarragon.errors import InvalidFilter, InvalidInput
from tarragon.protocols import Embeddings
from tarragon.receipts import Hits
from tarragon.retriever import Retriever
from tarragon.testing import LateWordEncoder, SparseWordEncoder, WordEncoder

TENANTS = ("acme", "globex", "initech")
QUESTION = "rotate the signing key"


class Words(WordEncoder):
    """Counts the queries it was given, and the runs."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.runs = 0

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        self.asked += texts
        self.runs += 1
        return super().encode_queries(texts, prompt)


def documents() -> list[Document]:
    """Each tenant has the same texts, so that nothing but the scope can tell them apart."""
    texts = {"keys": "how to rotate the signing key", "backup": "restore a backup of the signing key", "food": "lunch"}
    return [
        Document(f"{tenant}/{name}", text, {"tenant": tenant, "topic": name, "level": level})
        for level, (name, text) in enumerate(texts.items())
        for tenant in TENANTS
    ]


@pytest.fixture
def encoder() -> Words:
    return Words()


@pytest.fixture
def index(tmp_path: Path, encoder: Words) -> Iterator[Index]:
    sides: Any = {"sparse_encoder": SparseWordEncoder(), "late_encoder": LateWordEncoder()}
    with Index.open(tmp_path / "i", encoder=encoder, **sides) as opened:
        opened.sync(documents())
        encoder.asked.clear()
        encoder.runs = 0
        yield opened


@pytest.fixture
def retriever(index: Index) -> Iterator[Retriever]:
    with Retriever(index, k=9) as made:
        yield made


def told(hits: Hits) -> list[tuple[str, float]]:
    return [(hit.chunk_id, hit.score) for hit in hits]


def tenants(hits: Sequence[Any]) -> set[str]:
    return {hit.metadata["tenant"] for hit in hits}


# --- one answer -------------------------------------------------------------------------------------------------------
def test_every_way_of_asking_gives_the_same(index: Index, retriever: Retriever) -> None:
    questions = [QUESTION, "backup", "", "lunch", QUESTION]
    expected = [told(index.search(question, 9)) for question in questions]
    assert [told(retriever.retrieve(question)) for question in questions] == expected
    assert [told(hits) for hits in retriever.retrieve_batch(questions)] == expected

    async def asked() -> tuple[list[Hits], list[Hits]]:
        alone = [await retriever.aretrieve(question) for question in questions]
        return alone, await retriever.aretrieve_batch(questions)

    for answers in asyncio.run(asked()):
        assert [told(hits) for hits in answers] == expected
    assert expected[0]
    assert expected[2] == []


def test_a_question_s_own_settings_take_the_place_of_the_retriever_s(index: Index) -> None:
    with Retriever(index, k=2, recipe=SearchRecipe(mode="lexical", late=False), filter={"level": {"$lt": 2}}) as made:
        assert set(made.retrieve(QUESTION).receipt.legs) == {"lexical"}
        assert len(made.retrieve(QUESTION)) == 2
        assert len(made.retrieve(QUESTION, 5)) == 5
        dense = made.retrieve(QUESTION, 9, recipe=SearchRecipe(mode="dense", late=False), filter={"topic": "keys"})
        assert set(dense.receipt.legs) == {"dense"}
        assert {hit.metadata["topic"] for hit in dense} == {"keys"}
        vector = WordEncoder().encode_queries(["lunch"]).vectors[0]
        by_vector = made.retrieve(
            "x", recipe=SearchRecipe(mode="dense", late=False), vector=vector, filter={"level": 0}
        )
        assert {hit.metadata["topic"] for hit in by_vector} == {"keys"}, "both filters hold, the retriever's too"


# --- an event loop that goes on ---------------------------------------------------------------------------------------
async def largest_gap(stop: asyncio.Event, step: float = 0.001) -> float:
    """Seconds between two turns of the loop, at most, beyond what it was asked to sleep."""
    largest, last = 0.0, time.perf_counter()
    while not stop.is_set():
        await asyncio.sleep(step)
        now = time.perf_counter()
        largest, last = max(largest, now - last - step), now
    return largest


CALLERS, ROUNDS = 64, 2


def test_callers_of_an_event_loop_share_runs_of_the_model(tmp_path: Path) -> None:
    """64 callers at once; how long the loop stands still meanwhile is measured in benchmarks/reading.py."""
    from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder

    model = SentenceTransformerEncoder(device="cpu")
    with Index.open(tmp_path / "i", encoder=model) as opened, Retriever(opened) as made:
        opened.sync(documents())
        made.warm_up()

        async def all_at_once() -> list[Hits]:
            answers: list[Hits] = []
            for turn in range(ROUNDS):
                questions = [f"{QUESTION} number {n} of turn {turn}" for n in range(CALLERS)]
                answers += await asyncio.gather(*(made.aretrieve(question) for question in questions))
            return answers

        answers = asyncio.run(all_at_once())
        batches = opened._answers.asker.vectors.counts().batches
        assert [len(hits) for hits in answers] == [5] * (CALLERS * ROUNDS)
        assert batches < CALLERS * ROUNDS / 2, "questions at a time share runs of the model"


def test_the_loop_goes_on_while_a_model_sleeps(tmp_path: Path) -> None:
    """Half a second in the encoder is none for the loop."""

    class Slow(Words):
        def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
            time.sleep(0.25)
            return super().encode_queries(texts, prompt)

    with Index.open(tmp_path / "i", encoder=Slow()) as opened, Retriever(opened) as made:
        opened.sync(documents())

        async def asked() -> tuple[int, Hits]:
            task = asyncio.create_task(made.aretrieve(QUESTION))
            turns = 0
            while not task.done():
                await asyncio.sleep(0.005)
                turns += 1
            return turns, await task

        turns, hits = asyncio.run(asked())
        assert hits
        assert turns >= 5, "a loop that is held up turns once"


def test_event_loops_in_several_threads_and_one_after_another(retriever: Retriever) -> None:
    expected = told(retriever.retrieve(QUESTION))

    async def several() -> list[Hits]:
        return list(await asyncio.gather(*(retriever.aretrieve(QUESTION) for _ in range(4))))

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: asyncio.run(several()), range(8)))
    assert [told(hits) for each in answers for hits in each] == [expected] * 32


def test_a_cancelled_question_does_not_disturb_the_others(retriever: Retriever) -> None:
    async def asked() -> Hits:
        first = asyncio.create_task(retriever.aretrieve("a question that is given up"))
        second = asyncio.create_task(retriever.aretrieve(QUESTION))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert told(asyncio.run(asked())) == told(retriever.retrieve(QUESTION))


# --- scope ------------------------------------------------------------------------------------------------------------
RECIPES = {
    "hybrid": SearchRecipe(),
    "dense": SearchRecipe(mode="dense", late=False),
    "lexical": SearchRecipe(mode="lexical", late=False),
    "sparse": SearchRecipe(mode="sparse", late=False),
    "late": SearchRecipe(mode="dense"),
    "shallow": SearchRecipe(depth=1),
    "calibrated": SearchRecipe(fusion="calibrated"),
    "diverse": SearchRecipe(diversity=0.5, per_document=1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_scope_confines_every_leg(retriever: Retriever, name: str) -> None:
    recipe = RECIPES[name]
    assert len(tenants(retriever.retrieve(QUESTION, recipe=recipe))) > 1, "without it there is more"
    with retriever.scope(tenant="globex") as scoped:
        for one in (retriever, scoped):
            hits = one.retrieve(QUESTION, recipe=recipe)
            assert tenants(hits) == {"globex"}
            assert {place.document_id for place in hits.explain()} == {hit.document_id for hit in hits}
            assert all(count <= 3 for count in hits.receipt.legs.values()), "no leg looked at others' chunks"
            assert one.retrieve(QUESTION, recipe=recipe, filter={"tenant": "acme"}) == []


TRICKS: list[dict[str, Any]] = [
    {"$or": [{"tenant": "acme"}, {"tenant": "globex"}]},
    {"$or": [{"tenant": {"$exists": True}}, {"level": {"$gte": 0}}]},
    {"$not": {"tenant": "globex"}},
    {"tenant": {"$ne": "globex"}},
    {"tenant": {"$in": ["acme", "initech", "globex"]}},
    {"$and": [{"$or": [{"tenant": "acme"}, {"topic": {"$ne": ""}}]}]},
    {"$not": {"$and": [{"tenant": "globex"}]}},
    {'"tenant"': "acme"},
    {},
]


@pytest.mark.parametrize("trick", TRICKS, ids=repr)
def test_a_question_s_own_filter_never_widens_the_scope(retriever: Retriever, trick: dict[str, Any]) -> None:
    before = repr(trick)
    with retriever.scope(tenant="globex") as scoped:
        for one in (retriever, scoped):
            assert tenants(one.retrieve(QUESTION, filter=trick)) <= {"globex"}
            for hits in one.retrieve_batch([QUESTION, "lunch"], filter=trick):
                assert tenants(hits) <= {"globex"}
    assert repr(trick) == before, "and is left as it was"


def test_a_filter_that_cannot_be_compiled_is_an_error_inside_a_scope_too(retriever: Retriever) -> None:
    with retriever.scope(tenant="globex"), pytest.raises(InvalidFilter):
        retriever.retrieve(QUESTION, filter={"$where": "1"})
    with retriever.scope(filters={"$nonsense": []}) as scoped, pytest.raises(InvalidFilter):
        scoped.retrieve(QUESTION)


def test_scopes_can_be_nested_and_end(retriever: Retriever) -> None:
    with retriever.scope(tenant="globex") as outer:
        with retriever.scope(filters={"topic": "keys"}) as inner:
            for one in (retriever, inner):
                assert [hit.document_id for hit in one.retrieve(QUESTION)] == ["globex/keys"]
        with outer.scope(filters={"topic": "backup"}) as within:
            assert [hit.document_id for hit in within.retrieve(QUESTION)] == ["globex/backup"]
            assert len(retriever.retrieve(QUESTION)) == 3, "a scope of `outer` is not one of `retriever`"
        with retriever.scope(tenant="acme") as neither:
            assert neither.retrieve(QUESTION) == retriever.retrieve(QUESTION) == []
        assert tenants(retriever.retrieve(QUESTION)) == {"globex"}
    assert tenants(retriever.retrieve(QUESTION)) == set(TENANTS)
    assert [hit.document_id for hit in inner.retrieve(QUESTION)] == ["globex/keys"], "it stays confined"


def test_a_scope_ends_with_an_error_too(retriever: Retriever) -> None:
    with pytest.raises(KeyError), retriever.scope(tenant="acme"):
        raise KeyError
    assert tenants(retriever.retrieve(QUESTION)) == set(TENANTS)


@pytest.mark.parametrize("tenant", ["", "  ", "\t\n"])
def test_an_empty_tenant_is_refused(retriever: Retriever, tenant: str) -> None:
    with pytest.raises(InvalidInput, match="empty tenant"), retriever.scope(tenant=tenant):
        pass


def test_a_scope_of_nothing_is_refused(retriever: Retriever) -> None:
    with pytest.raises(InvalidInput, match="neither"), retriever.scope():
        pass
    with pytest.raises(InvalidInput, match="neither"), retriever.scope(tenant=None, filters=None):
        pass


def test_an_empty_filter_does_not_count_as_a_tenant(index: Index) -> None:
    with Retriever(index, required=["tenant"]) as strict:
        vague: list[dict[str, Any]] = [
            {},
            {"tenant": {"$exists": True}},
            {"tenant": {"$ne": "acme"}},
            {"tenant": {"$in": ["acme", "globex"]}},
            {"$or": [{"tenant": "acme"}, {"level": 1}]},
            {"$not": {"tenant": "acme"}},
            {"topic": "keys"},
        ]
        for filters in vague:
            with strict.scope(filters=filters), pytest.raises(InvalidInput, match="fixes tenant"):
                strict.retrieve(QUESTION)
        fixed: list[dict[str, Any]] = [
            {"tenant": "acme"},
            {"tenant": {"$eq": "acme"}},
            {"$and": [{"level": 0}, {"tenant": "acme"}]},
        ]
        for filters in fixed:
            with strict.scope(filters=filters) as scoped:
                assert tenants(scoped.retrieve(QUESTION)) == {"acme"}


def test_a_required_scope_that_is_missing_is_an_error_and_a_filter_is_none(index: Index) -> None:
    with Retriever(index, required=["tenant"]) as strict:
        for ask in (
            lambda: strict.retrieve(QUESTION),
            lambda: strict.retrieve(QUESTION, filter={"tenant": "acme"}),
            lambda: strict.retrieve_batch([QUESTION]),
            lambda: asyncio.run(strict.aretrieve(QUESTION)),
            lambda: asyncio.run(strict.aretrieve_batch([QUESTION])),
            lambda: strict.why_not(QUESTION, "acme/keys"),
        ):
            with pytest.raises(InvalidInput, match="needs a scope that fixes tenant"):
                ask()  # type: ignore[no-untyped-call]
        with strict.scope(tenant="acme") as scoped:
            assert tenants(strict.retrieve(QUESTION)) == {"acme"}
            assert asyncio.run(scoped.aretrieve(QUESTION))


def test_other_threads_fail_closed_and_the_scoped_retriever_works_there(index: Index) -> None:
    with Retriever(index, required=["tenant"]) as strict, ThreadPoolExecutor(1) as other:
        other.submit(lambda: None).result()  # the thread exists before the scope does
        with strict.scope(tenant="acme") as scoped:
            with pytest.raises(InvalidInput, match="needs a scope"):
                other.submit(strict.retrieve, QUESTION).result()
            assert tenants(other.submit(scoped.retrieve, QUESTION).result()) == {"acme"}
            context = contextvars.copy_context()
            assert tenants(other.submit(context.run, strict.retrieve, QUESTION).result()) == {"acme"}


def test_tasks_that_are_started_inside_inherit_the_scope_and_others_do_not(index: Index) -> None:
    with Retriever(index, required=["tenant"]) as strict:

        async def of_tenant(tenant: str) -> set[str]:
            with strict.scope(tenant=tenant):
                await asyncio.sleep(0)
                found: list[set[str]] = []

                async def child() -> None:
                    found.append(tenants(await strict.aretrieve(QUESTION)))

                await asyncio.gather(child(), asyncio.create_task(child()))
                batch = await strict.aretrieve_batch([QUESTION, "lunch"])
                return set().union(*found, *(tenants(hits) for hits in batch))

        async def all_at_once() -> list[set[str]]:
            return list(await asyncio.gather(*(of_tenant(tenant) for tenant in TENANTS * 4)))

        assert asyncio.run(all_at_once()) == [{tenant} for tenant in TENANTS * 4]

        async def outside() -> None:
            gate = asyncio.Event()

            async def waits() -> Hits:
                await gate.wait()
                return await strict.aretrieve(QUESTION)

            early = asyncio.create_task(waits())
            await asyncio.sleep(0)
            with strict.scope(tenant="acme"):
                gate.set()
                with pytest.raises(InvalidInput, match="needs a scope"):
                    await early

        asyncio.run(outside())


def test_many_threads_with_a_scope_each_never_see_one_another(index: Index) -> None:
    with Retriever(index, required=["tenant"]) as strict:
        start = threading.Barrier(6)

        def ask(number: int) -> list[set[str]]:
            tenant = TENANTS[number % 3]
            start.wait()
            with strict.scope(tenant=tenant):
                return [tenants(strict.retrieve(f"{QUESTION} {n}")) - {tenant} for n in range(10)]

        with ThreadPoolExecutor(6) as threads:
            assert all(strange == set() for each in threads.map(ask, range(6)) for strange in each)


def test_why_not_tells_nothing_of_documents_out_of_scope(retriever: Retriever) -> None:
    with retriever.scope(tenant="globex") as scoped:
        for one in (retriever, scoped):
            strange = one.why_not(QUESTION, "acme/keys")
            unknown = one.why_not(QUESTION, "acme/nothing")
            assert (strange.stage, strange.rank, strange.score, strange.chunk_id) == ("index", None, None, "")
            assert strange.sentence.replace("acme/keys", "acme/nothing") == unknown.sentence, "as if it were not there"
            assert one.why_not(QUESTION, "globex/keys").stage == "found"


def test_why_not_tells_nothing_of_documents_that_could_not_be_indexed_or_are_blank(tmp_path: Path) -> None:
    """Whether another tenant's document exists is that tenant's business."""
    with Index.open(tmp_path / "i", encoder=Words()) as opened, Retriever(opened) as made:
        opened.sync([*documents(), Document("acme/blank", "", {"tenant": "acme"})])
        with made.scope(tenant="globex") as scoped:
            sentences = [scoped.why_not(QUESTION, f"acme/{name}").sentence for name in ("blank", "nothing", "keys")]
            told_of = {
                sentence.replace(name, "x")
                for sentence, name in zip(sentences, ("blank", "nothing", "keys"), strict=True)
            }
            assert len(told_of) == 1
        with made.scope(tenant="globex") as scoped:
            assert scoped.why_not("", "acme/keys").stage == "index"


def test_neighbours_and_sections_stay_in_scope(retriever: Retriever) -> None:
    """A hit that was found outside does not open a door."""
    hit = next(hit for hit in retriever.retrieve(QUESTION) if hit.metadata["tenant"] == "acme")
    with retriever.scope(tenant="globex") as scoped:
        assert scoped.neighbours(hit) is None
        assert scoped.section(hit) is None


# --- the cache of query vectors ---------------------------------------------------------------------------------------
def test_the_same_question_is_embedded_once_and_tenants_share_no_hits(retriever: Retriever, encoder: Words) -> None:
    seen = []
    for tenant in TENANTS * 2:
        with retriever.scope(tenant=tenant):
            hits = retriever.retrieve(QUESTION)
            assert tenants(hits) == {tenant}
            seen.append([hit.document_id for hit in hits])
    assert encoder.asked == [QUESTION]
    assert seen[:3] == seen[3:]
    retriever.retrieve_batch([QUESTION, "another", "another"])
    assert encoder.asked == [QUESTION, "another"]


def test_a_prompt_of_its_own_makes_a_vector_of_its_own(retriever: Retriever, encoder: Words) -> None:
    plain = retriever.retrieve(QUESTION, recipe=SearchRecipe(mode="dense", late=False))
    other = retriever.retrieve(QUESTION, recipe=SearchRecipe(mode="dense", late=False, query_prompt="lunch lunch "))
    assert encoder.asked == [QUESTION, QUESTION]
    assert told(plain) != told(other)


def test_a_lexical_search_runs_no_model(retriever: Retriever, encoder: Words) -> None:
    assert retriever.retrieve(QUESTION, recipe=SearchRecipe(mode="lexical", late=False))
    assert encoder.asked == []


def test_what_is_synced_meanwhile_is_found_with_a_cached_vector(index: Index, retriever: Retriever) -> None:
    assert len(retriever.retrieve(QUESTION, 20)) == 9
    index.sync([*documents(), Document("new", QUESTION, {"tenant": "acme"})])
    assert retriever.retrieve(QUESTION, 20, recipe=SearchRecipe(mode="dense", late=False))[0].document_id == "new"


# --- closing ----------------------------------------------------------------------------------------------------------
def test_a_closed_retriever_leaves_the_index_open_and_a_block_of_a_scoped_one_is_not_its_end(index: Index) -> None:
    with Retriever(index) as made, made.scope(tenant="acme") as scoped:
        assert asyncio.run(scoped.aretrieve(QUESTION))
    assert index.search(QUESTION)


# --- loading ----------------------------------------------------------------------------------------------------------
def test_questions_at_the_same_time_load_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.open(tmp_path / "i", encoder=Words()) as made:
        made.sync(documents())
    loads = []

    def load(*_: object) -> Words:
        loads.append(1)
        time.sleep(0.05)
        return Words()

    monkeypatch.setattr("tarragon.session.load_encoder", load)
    with Index.open(tmp_path / "i") as opened:
        threads = [threading.Thread(target=opened.search, args=(f"{QUESTION} {n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(loads) == 1


@pytest.mark.parametrize("wrong", [{"k": 2.5}, {"k": -1}, {"k": 2**64}])
def test_a_wrong_number_of_hits_is_an_error_of_ours(retriever: Retriever, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="whole number"):
        retriever.retrieve(QUESTION, **wrong)
    with pytest.raises(InvalidInput, match="whole number"):
        retriever.why_not(QUESTION, "acme/keys", **wrong)


def test_what_is_no_query_is_an_error_of_ours(retriever: Retriever) -> None:
    for query in (None, 7, "half \ud800"):
        with pytest.raises(InvalidInput):
            retriever.retrieve(query)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="list of queries"):
        retriever.retrieve_batch("one text")


def test_warming_up_takes_what_is_loaded_out_of_the_collectors_sight(retriever: Retriever) -> None:
    gc.unfreeze()
    try:
        retriever.warm_up(freeze=False)
        assert gc.get_freeze_count() == 0
        retriever.warm_up()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_questions_that_are_asked_differently_get_their_own_answers(retriever: Retriever) -> None:
    async def ask() -> list[Hits]:
        asked = [
            retriever.aretrieve(f"{QUESTION} {n}", 1 + n % 3, filter={"tenant": TENANTS[n % 2]}) for n in range(60)
        ]
        return list(await asyncio.gather(*asked))

    for n, hits in enumerate(asyncio.run(ask())):
        assert tenants(hits) <= {TENANTS[n % 2]}
        assert list(hits) == list(retriever.retrieve(f"{QUESTION} {n}", 1 + n % 3, filter={"tenant": TENANTS[n % 2]}))


def test_one_question_that_fails_does_not_fail_the_others(retriever: Retriever) -> None:
    async def ask() -> list[Any]:
        vectors = [None, np.zeros(3, dtype=np.float32), None]  # of another length than the index's
        asked = [retriever.aretrieve(QUESTION, vector=vector) for vector in vectors]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second, third = asyncio.run(ask())
    assert isinstance(second, InvalidInput)
    assert list(first) == list(third) == list(retriever.retrieve(QUESTION))


def test_a_closed_retriever_says_so_and_keeps_nobody_waiting(index: Index) -> None:
    made = Retriever(index)
    assert asyncio.run(made.aretrieve(QUESTION))
    made.close()
    for _ in range(2):
        with pytest.raises(InvalidInput, match="closed"):
            asyncio.run(asyncio.wait_for(made.aretrieve(QUESTION), 5))
