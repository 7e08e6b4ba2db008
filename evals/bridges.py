"""What bridges keep, on SQuAD as a BEIR folder, each question with one right passage: the tables of docs/bridges.md.

    python -m evals.bridges SQUAD_DIR [--models cls,layers3] [--pairs 300,1000] [--questions 200] [--vectors DIR]

The old model is all-MiniLM-L6-v2; the new ones are altered forms of it, and some that have nothing to do with it. The
first table judges adapters by their vectors alone, over 1,500 questions. The second asks an index through
`Index.bridge`. Each model embeds each text once, which takes minutes on two cores; ``--vectors`` keeps them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from evals.beir import corpus_path, read_questions
from tarragon import Document, Hit, Index, IndexRecipe
from tarragon.adapter import fit, nearest, shared
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput
from tarragon.testing import WordEncoder
from tarragon.types import FloatArray

Vectors: TypeAlias = tuple[FloatArray, FloatArray]
"""Of the passages, and of the questions."""

OLD = "base"
ALTERED = {
    "prompt": "MiniLM with prompts",
    "cls": "MiniLM, CLS pooling",
    "layers3": "3 of 6 layers",
    "layers0": "word embeddings alone",
}
MODELS = ALTERED | {
    "first128": "first 128 dimensions, rotated",
    "lsa": "TF-IDF and SVD, 256 dimensions",
    "words384": "hashed words, 384 dimensions",
    "unrelated": "random vectors",
}


class MiniLM(SentenceTransformerEncoder):
    """The old model, or an altered one that says so in its identity."""

    def __init__(self, altered: str) -> None:
        from sentence_transformers.sentence_transformer.modules import Pooling

        super().__init__(device="cpu", document_prompt="passage: " if altered == "prompt" else None)
        self._altered = altered
        transformer: Any = self._model[0]
        if altered == "prompt":
            self.query_prompt = "query: "
        elif altered == "cls":
            self._model[1] = Pooling(384, "cls")
        elif altered != OLD:
            kept = int(altered.removeprefix("layers"))
            transformer.model.encoder.layer = transformer.model.encoder.layer[:kept]

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return {**super().identity, "altered": self._altered}


class Remembering:
    """An encoder that knows the vectors of the dataset by heart, and asks its model for all others."""

    def __init__(self, encoder: DenseEncoder, passages: Mapping[str, FloatArray], questions: Mapping[str, FloatArray]):
        self._encoder, self._passages, self._questions = encoder, passages, questions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        if not all(item.text in self._passages for item in inputs):
            return self._encoder.encode_documents(inputs)
        return Embeddings(np.array([self._passages[item.text] for item in inputs]), len(inputs), 0)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return Embeddings(np.array([self._questions[text] for text in texts]), len(texts), 0)


def unit(rows: Any) -> FloatArray:
    """Rows of length 1."""
    scaled: FloatArray = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return scaled


class Data:
    """A dataset and its vectors by every model, each made once."""

    def __init__(self, folder: Path, vectors: Path | None) -> None:
        lines = [json.loads(line) for line in corpus_path(folder).read_text(encoding="utf-8").splitlines()]
        self.texts = {line["_id"]: line["text"] for line in lines}
        asked = read_questions(folder, "test")
        chosen = list(asked.texts)
        random.Random(0).shuffle(chosen)
        places = {id_: place for place, id_ in enumerate(self.texts)}
        self.questions = {asked.texts[id_]: places[next(iter(asked.judgements[id_]))] for id_ in chosen[:1_500]}
        self.gold = np.array(list(self.questions.values()))
        self._folder = vectors
        self._made: dict[str, Vectors] = {}

    def of(self, name: str) -> Vectors:
        """Of the passages and of the questions."""
        file = self._folder / f"{name}.npz" if self._folder else None
        if name not in self._made and file and file.exists():
            with np.load(file) as found:
                self._made[name] = found["passages"], found["questions"]
        if name not in self._made:
            self._made[name] = self._make(name, list(self.texts.values()), list(self.questions))
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, passages=self._made[name][0], questions=self._made[name][1])
        return self._made[name]

    def _make(self, name: str, texts: list[str], questions: list[str]) -> Vectors:
        chance = np.random.default_rng(9)
        if name == "unrelated":
            return unit(chance.standard_normal((len(texts), 384))), unit(chance.standard_normal((len(questions), 384)))
        if name == "first128":
            turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((128, 128)))
            return unit(self.of(OLD)[0][:, :128] @ turn), unit(self.of(OLD)[1][:, :128] @ turn)
        if name == "lsa":
            from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]
            from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

            words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2)
            svd = TruncatedSVD(256, random_state=0)
            return unit(svd.fit_transform(words.fit_transform(texts))), unit(svd.transform(words.transform(questions)))
        encoder: DenseEncoder = WordEncoder(384) if name == "words384" else MiniLM(name)
        passages = encoder.encode_documents([EncoderInput(text) for text in texts]).vectors
        return passages, encoder.encode_queries(questions).vectors

    def encoder(self, name: str) -> DenseEncoder:
        """A model that need not embed the dataset again."""
        passages, questions = self.of(name)
        known = dict(zip(self.texts.values(), passages, strict=True)), dict(zip(self.questions, questions, strict=True))
        made: Any = Remembering(MiniLM(name), *known)
        return made  # type: ignore[no-any-return] # attributes it does not have are its model's


def recall(questions: FloatArray, passages: FloatArray, gold: Any) -> float:
    """Share of the questions whose passage is among the first ten."""
    scores = questions.astype(np.float64) @ passages.T.astype(np.float64)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float((best == gold[:, None]).any(axis=1).mean())


def judge(data: Data, name: str, pairs: int) -> str:
    """An adapter by its vectors alone: a line of the first table."""
    (new, asked), (old, asked_old) = data.of(name), data.of(OLD)
    chosen = np.random.default_rng(100).permutation(len(old))[:pairs]
    rest = np.setdiff1d(np.arange(len(old)), chosen)
    adapter = fit(new[chosen], old[chosen], among=old, floor=0)
    unseen, pool = "", old.astype(np.float64)
    if len(rest):
        mapped = adapter.apply(new[rest]).astype(np.float64)
        unseen = f"{shared(nearest(mapped, pool, rest), nearest(pool[rest], pool, rest)):.2f}"
    kept = recall(adapter.apply(asked), old, data.gold) / recall(asked_old, old, data.gold)
    kind = "rotation" if adapter.kind == "procrustes" else adapter.kind
    return f"| {MODELS[name]} | {len(chosen):,} | {kind} | {adapter.overlap:.2f} | {unseen} | {kept:.2f} |"


def through_index(data: Data, name: str, count: int) -> Iterator[str]:
    """Ways to search until the upgrade is built: lines of the second table."""
    ids, new, recipe = list(data.texts), data.encoder(name), IndexRecipe(chunking="whole")
    documents = [Document(id_, text, format="text") for id_, text in data.texts.items()]

    def line(way: str, search: Callable[[str], Sequence[Hit]]) -> str:
        ranks = []
        for question, place in list(data.questions.items())[:count]:
            found = [hit.document_id for hit in search(question)]
            ranks.append(1 / (1 + found.index(ids[place])) if ids[place] in found else 0.0)
        return f"| {MODELS[name]} | {way} | {np.mean(ranks):.3f} | {np.mean(np.sign(ranks)):.3f} |"

    with tempfile.TemporaryDirectory() as folder:
        with Index.open(f"{folder}/old", recipe=recipe, encoder=data.encoder(OLD)) as old:
            old.sync(documents)
            yield line("old model, old index", lambda text: old.search(text, 10))
            yield line("words alone", lambda text: old.search(text, 10, mode="lexical"))
        with Index.open(f"{folder}/old") as index:
            for depth in (10, 30, 100):
                bridge = index.bridge(new, depth=depth)
                text = line(f"rescore, depth {depth}", lambda text: bridge.search(text, 10))  # noqa: B023
                yield f"{text} {bridge.embedded:,} more embedded"
            adapter = index.bridge(new, kind="adapter", floor=0.0)
            yield line(adapter.label, lambda text: adapter.search(text, 10))
        with Index.open(f"{folder}/new", recipe=recipe, encoder=new) as built:
            built.sync(documents)
            yield line("new model, new index", lambda text: built.search(text, 10))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m evals.bridges", description=__doc__)
    parser.add_argument("dataset", type=Path, metavar="SQUAD_DIR")
    parser.add_argument("--models", default=",".join(MODELS), help="some of: %(default)s")
    parser.add_argument("--pairs", default="100,300,1000,2067")
    parser.add_argument("--questions", type=int, default=200, help="that an index is asked; 0: leave that out")
    parser.add_argument("--vectors", type=Path, metavar="DIR", help="keep all vectors here and use them again")
    options = parser.parse_args()
    data, names = Data(options.dataset, options.vectors), options.models.split(",")
    print("| new model | pairs | kind | promised | unseen | kept |\n|---|---|---|---|---|---|")
    for name in names:
        for pairs in map(int, options.pairs.split(",")):
            print(judge(data, name, pairs), flush=True)
    print("\n| new model | way to search | MRR@10 | Recall@10 |\n|---|---|---|---|")
    for name in [name for name in names if name in ALTERED and options.questions]:
        for text in through_index(data, name, options.questions):
            print(text, flush=True)


if __name__ == "__main__":
    main()
