"""What `Index` can do with a question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args
from unicodedata import normalize
from uuid import UUID

from tarragon import around, listing
from tarragon.answering import Answers, Question
from tarragon.comparing import Query
from tarragon.errors import InvalidInput
from tarragon.explaining import Missed, WhyNot, why_not
from tarragon.filters import parse
from tarragon.findings import Examination
from tarragon.receipts import Hits
from tarragon.recipe import Mode, SearchRecipe
from tarragon.serving import passes
from tarragon.session import PATIENCE, Session
from tarragon.sides import SAMPLE
from tarragon.types import DenseQuery, FloatArray, Hit, OnStale
from tarragon.versioned import VersionedIndex

if TYPE_CHECKING:
    from tarragon.tuning import Tuning


MOST_HITS = 1_000_000


class SearchableIndex(VersionedIndex):
    """Searching, and what callers need around it."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._answers = Answers(session)

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
        recipe: SearchRecipe | None = None,
        vector: FloatArray | DenseQuery | None = None,
        on_stale: OnStale = "flag",
    ) -> Hits:
        """The ``k`` best passages for a question.

        Never from a deleted document, nor from one half rewritten. Each hit says whether its source has changed since.

        Args:
            query: The question, or any words. A blank one finds nothing.
            k: How many at most; may be larger than the index.
            filter: On the documents' metadata, such as ``{"lang": "en", "year": {"$gte": 2020}}``: see
                `tarragon.filters`.
            mode: ``hybrid`` (default), ``dense``, ``lexical`` or ``sparse``.
            recipe: All search settings; ``mode`` takes precedence. By default what `tune` chose, else `SearchRecipe()`.
            vector: The query's embedding, if it is known already, shape ``(dimensions,)``; or a `DenseQuery`: other
                texts to embed for the dense leg (HyDE), or an embedding that says which space it is in.
            on_stale: What to do with hits whose source has changed or gone: ``flag`` them (`Hit.freshness`); ``drop``
                them and fill up with the next best; ``refresh``: sync just these documents and search again. What is
                still not fresh then, because its source is gone or another sync is running, is dropped.

        Returns:
            A list, best first, equal scores in order of their chunk ids; empty for an empty index. Its ``receipt`` says
            how it came to be, its ``explain()`` where each hit stood in every stage.

        Raises:
            InvalidFilter: The filter cannot be compiled; it is never ignored.
            RecipeMismatch: The model is not the one that the index was built with.
            EncoderDrift: It declares to be, and makes other vectors.
            RerankingFailed: A reranker failed, and the recipe says to raise.
        """
        vectors = None if vector is None else [vector]
        return self.search_batch(
            [query], k, filter=filter, mode=mode, recipe=recipe, vectors=vectors, on_stale=on_stale
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 5,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
        recipe: SearchRecipe | None = None,
        vectors: Sequence[FloatArray | DenseQuery | None] | None = None,
        on_stale: OnStale = "flag",
    ) -> list[Hits]:
        """The same for many questions, in their order: models run once for all of them.

        Arguments and errors as for `search`; ``vectors`` has what ``vector`` is there for each query, or None.
        """
        condition = parse(filter) if filter is not None else None
        _check(queries, k)
        if on_stale not in get_args(OnStale):
            raise InvalidInput(f"on_stale={on_stale!r} is not one of {', '.join(get_args(OnStale))}")
        if vectors is not None and len(vectors) != len(queries):
            raise InvalidInput(f"{len(vectors)} vectors are given for {len(queries)} queries")
        _ = self._opened
        given = vectors or [None] * len(queries)
        real = [number for number, query in enumerate(queries) if query.strip() and k]
        asked = [Question(queries[i], k, given[i], condition, recipe, mode, on_stale) for i in real]
        answers = dict(zip(real, self._answers.answer(asked) if asked else [], strict=True))
        return [answers[number] if number in answers else Hits() for number in range(len(queries))]

    def why_not(
        self,
        query: str,
        document_id: str,
        k: int = 5,
        *,
        filter: Mapping[str, Any] | None = None,
        recipe: SearchRecipe | None = None,
        within: Mapping[str, Any] | None = None,
    ) -> WhyNot:
        """At which stage a search loses a document, and by how much.

        Args:
            query: The question.
            document_id: The document that is missed among its hits.
            k: As for `search`.
            filter: As for `search`.
            recipe: As for `search`.
            within: A filter on what may be told of: a document that it excludes is unknown.
        """
        _check([query], k)
        missed = Missed(
            query,
            document_id,
            k,
            parse(filter) if filter is not None else None,
            parse(within) if within is not None else None,
        )
        return why_not(self._opened, self._answers.asker, missed, recipe)

    def tune(
        self,
        queries: Sequence[Query] = (),
        *,
        target_recall: float = 0.99,
        first_pass: bool | None = None,
        lengths: Sequence[int] = (64, 128, 256),
        rotate: bool | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> Tuning:
        """Measure how this index is best searched, and search it so from now on.

        A first pass over short vectors is made if it finds enough of the ten nearest and saves time; its rivals, int8,
        Turbo and binary quantization, stand in the same table. Legs and weights are changed if they are better than
        the default beyond doubt. What was measured and chosen is kept with the version; syncs keep the short vectors
        up to date, and none of it needs the model.

        Args:
            queries: Questions of your users, or pairs of a question and the ids of the documents that answer it, by
                which legs and weights are judged. By default passages are used, left out of their own answers.
            target_recall: Least share of the true ten nearest that a first pass must keep.
            first_pass: True: make one that reaches the target, even if it saves no time. False: none.
            lengths: Of the short vectors to be tried.
            rotate: Whether to turn vectors onto the principal axes of the corpus before they are cut. By default unless
                the model is known to have been trained to be cut.
            on_step: Called with a word on each step; takes a minute for 20,000 chunks.

        Raises:
            IndexNotFound: Nothing has been synced yet.
            InvalidInput: There are too few chunks to measure anything.
        """
        from tarragon.tuning import Choice, tune  # as above: it brings the engine

        choice = Choice(first_pass, tuple(lengths), rotate)
        said = on_step or (lambda _: None)
        with self._opened.catalog.writing(PATIENCE):
            return tune(self._opened, self._answers.asker, queries, target_recall, choice=choice, said=said)

    def doctor(
        self, *, recipe: SearchRecipe | None = None, k: int = 5, deep: bool = False, sample: int = SAMPLE
    ) -> Examination:
        """Look for silent faults: wrong prompts, truncation, stale statistics, what is missing: see docs/doctor.md.

        Args:
            recipe: How the index is searched. By default as it was tuned.
            k: Hits that are wanted.
            deep: Load the models and look at them too.
            sample: Chunks that are looked at.

        Raises:
            IndexNotFound: Nothing has been synced yet.
        """
        from tarragon.doctor import examine  # not every program looks for faults: 10 ms of its start

        return examine(self._opened, recipe=recipe, k=k, deep=deep, sample=sample)

    def neighbours(
        self, hit: Hit, before: int = 1, after: int = 1, *, within: Mapping[str, Any] | None = None
    ) -> around.Passage | None:
        """A hit with the chunks before and after it in its document; None if it is not served any more.

        Args:
            hit: Of a search.
            before: Chunks before it.
            after: Chunks after it.
            within: A filter on the documents' metadata; None for a hit that it excludes.
        """
        condition = parse(within) if within is not None else None
        with self._opened.reading() as version:
            if not passes(version, UUID(hit.chunk_id), condition):
                return None
            return around.neighbours(version, hit.chunk_id, before, after)

    def section(
        self,
        hit: Hit,
        level: int | None = None,
        max_characters: int = around.MOST_CHARACTERS,
        *,
        within: Mapping[str, Any] | None = None,
    ) -> around.Passage | None:
        """The section that a hit stands in: see `tarragon.around.section`; None as for `neighbours`."""
        condition = parse(within) if within is not None else None
        with self._opened.reading() as version:
            if not passes(version, UUID(hit.chunk_id), condition):
                return None
            return around.section(version, hit.chunk_id, level, max_characters)

    def documents(self) -> list[str]:
        """The ids of all documents that can be found, in order."""
        with self._opened.catalog.reading() as version:
            return [] if version is None else listing.document_ids(version)

    def passages(
        self, document_ids: Iterable[str] | None = None, *, filter: Mapping[str, Any] | None = None
    ) -> Iterator[Hit]:
        """Every passage that can be found, document by document, in the order of the text; scores are 0.

        Each document is of one state. Of a document that is written or deleted meanwhile it is the state when its turn
        comes.

        Args:
            document_ids: Which documents, in this order. By default all, in order of their ids.
            filter: On the documents' metadata, as for `search`.
        """
        condition = parse(filter) if filter is not None else None
        if isinstance(document_ids, str):
            raise InvalidInput(f"document_ids={document_ids!r} is a string; give a list of ids: [{document_ids!r}]")
        named = None if document_ids is None else list(dict.fromkeys(normalize("NFC", id_) for id_ in document_ids))
        with self._opened.catalog.reading() as version:
            groups = [] if version is None else list(listing.pages(version, named, condition))
        for group in groups:
            with self._opened.catalog.reading() as version:
                found = [] if version is None else listing.passages(version, group, condition)
            yield from found

    def warm_up(self, recipe: SearchRecipe | None = None) -> None:
        """Load the models and open the files that a first search would have to wait for."""
        self.search("warm-up", 1, recipe=recipe)


def _check(queries: Sequence[str], k: int) -> None:
    """Raises `InvalidInput` on what cannot be searched for."""
    if not isinstance(k, int) or not 0 <= k <= MOST_HITS:
        raise InvalidInput(f"k={k!r} must be a whole number from 0 to {MOST_HITS:,}", k=k)
    if isinstance(queries, str):
        raise InvalidInput("a batch is a list of queries, not a single text: call search, or put it into a list")
    for query in queries:
        if not isinstance(query, str):
            raise InvalidInput(f"a query is a text, not {type(query).__name__}: {query!r:.80}")
        try:
            query.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidInput(f"a query holds half a surrogate pair, which is no text: {query!r:.80}") from None
