"""Running a grid: each configuration on each data set, once.

    <folder>/indexes/<data set>-<digest>.tarragon    one for each way to build it, used again
    <folder>/questions/<digest>.npy                  vectors of questions, used again
    <folder>/results/<data set>-<digest>.json        what a configuration is worth; one that is there is not run again
    <folder>/runs/<data set>-<digest>.json           its rankings, the first places of each

The digest of a result is of all that decides it: documents, questions, settings, the model's fingerprint, metrics.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tarragon import __version__
from tarragon.errors import InvalidInput
from tarragon.evaluation.beir import corpus_path, read_corpus
from tarragon.evaluation.golden import read_golden
from tarragon.evaluation.grid import Configuration, Dataset, Grid
from tarragon.evaluation.metrics import score
from tarragon.evaluation.running import run
from tarragon.evaluation.runs import write_json
from tarragon.evaluation.types import GoldenSet, Interval, Run, Scores
from tarragon.identity import canonical_json, digest
from tarragon.index import Index
from tarragon.protocols import DenseEncoder
from tarragon.recipe import IndexRecipe
from tarragon.types import FloatArray

KEPT = 10
"""Places of each ranking that are kept beside the figures: all 100 of 10,000 questions take 60 MB."""

Said = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """A configuration, measured on a data set.

    Attributes:
        dataset: Its name.
        configuration: Its name in the grid.
        digest: Of all that decides the result; names its file.
        settings: Index, search, model and fingerprint, as JSON.
        scores: What it is worth.
        milliseconds: Of a question: ``p50``, ``p95``, ``p99``. Vectors that were kept cost nothing, and the garbage
            collector does not interrupt.
        seconds: Of all questions together.
        was_there: Whether the result was read and not measured now.
    """

    dataset: str
    configuration: str
    digest: str
    settings: Mapping[str, Any]
    scores: Scores
    milliseconds: Mapping[str, float]
    seconds: float
    was_there: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return {name: value for name, value in asdict(self).items() if name != "was_there"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        """Read `to_dict`."""
        scores = values["scores"]
        means = {name: Interval(**mean) for name, mean in scores["means"].items()}
        return cls(**{**values, "scores": Scores(**{**scores, "means": means}), "was_there": True})


def sweep(
    grid: Grid,
    folder: str | Path,
    *,
    encoder: DenseEncoder | None = None,
    device: str | None = None,
    workers: int = 1,
    said: Said = lambda _: None,
) -> list[Cell]:
    """Measure every configuration on every data set; what was measured before is read.

    Args:
        grid: What to measure.
        folder: Keeps indexes, vectors and results.
        encoder: Instead of the recipes' model.
        device: Where models run.
        workers: Processes, each with an index of its own. More than one only without ``encoder``.
        said: Called with a word on each step, with one worker.

    Returns:
        In the order of the data sets, then of the configurations.
    """
    if workers > 1 and encoder is not None:
        raise InvalidInput(f"workers={workers}: an encoder of your own cannot be sent to other processes; use one")
    jobs = list(_jobs(grid))
    if workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            futures = [pool.submit(_measured, job, Path(folder), device=device) for job in jobs]
            cells = [cell for future in futures for cell in future.result()]
    else:
        cells = [
            cell for job in jobs for cell in _measured(job, Path(folder), encoder=encoder, device=device, said=said)
        ]
    order = {one.name: place for place, one in enumerate(grid.configurations)}
    places = {one.name: place for place, one in enumerate(grid.datasets)}
    return sorted(cells, key=lambda cell: (places[cell.dataset], order[cell.configuration]))


@dataclass(frozen=True, slots=True)
class _Job:
    """Configurations of one data set that share an index."""

    dataset: Dataset
    recipe: IndexRecipe
    configurations: tuple[Configuration, ...]
    metrics: tuple[str, ...]


def _jobs(grid: Grid) -> Iterator[_Job]:
    recipes = dict.fromkeys(canonical_json(one.index.to_dict()) for one in grid.configurations)
    for dataset in grid.datasets:
        for key in recipes:
            same = tuple(one for one in grid.configurations if canonical_json(one.index.to_dict()) == key)
            yield _Job(dataset, same[0].index, same, grid.metrics)


def _measured(
    job: _Job,
    folder: Path,
    *,
    encoder: DenseEncoder | None = None,
    device: str | None = None,
    said: Said = lambda _: None,
) -> list[Cell]:
    """Every configuration of a job, in this process."""
    golden = read_golden(job.dataset.golden, split=job.dataset.split)
    place = folder / "indexes" / f"{job.dataset.name}-{_name(job.recipe.to_dict())}.tarragon"
    place.parent.mkdir(parents=True, exist_ok=True)
    with Index.open(place, recipe=job.recipe, encoder=encoder, device=device) as index:
        said(f"{job.dataset.name}: syncing {place.name}")
        _sync(index, job.dataset)
        measuring = _Measuring(job, index, golden, _documents(index), folder)
        return [measuring.cell(one, said) for one in job.configurations]


@dataclass(frozen=True, slots=True)
class _Measuring:
    """A job at work.

    Attributes:
        job: What is to be measured.
        index: Open and synced.
        golden: The questions.
        documents: Digest of what is indexed.
        folder: Keeps vectors and results.
    """

    job: _Job
    index: Index
    golden: GoldenSet
    documents: str
    folder: Path

    def cell(self, configuration: Configuration, said: Said) -> Cell:
        """The result of a configuration: the one that is there, or else measured now."""
        dataset, key = self.job.dataset.name, self._digest(configuration)
        path = self.folder / "results" / f"{dataset}-{key[:16]}.json"
        if (known := _read(path, key)) is not None:
            return replace(known, dataset=dataset, configuration=configuration.name)
        said(f"{dataset}: {configuration.name}")
        vectors = _vectors(self.index, self.golden, configuration, self.folder / "questions")
        begun = time.perf_counter()
        with _uncollected():
            found = run(
                self.index,
                self.golden,
                k=configuration.k,
                recipe=configuration.search,
                name=configuration.name,
                vectors=vectors,
            )
        seconds = time.perf_counter() - begun
        scores = score(found, self.golden, self.job.metrics)
        times = _milliseconds(list(found.seconds.values()))
        cell = Cell(dataset, configuration.name, key, found.configuration, scores, times, seconds)
        _write_run(found, self.folder / "runs" / path.name)
        _write(path, cell.to_dict())
        return cell

    def _digest(self, configuration: Configuration) -> str:
        """Of all that decides a result."""
        made = [__version__, self.documents, self.golden.digest, self.index.status().fingerprint]
        return digest("evaluation result", *made, canonical_json(configuration.to_dict()), *self.job.metrics).hex()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: a search leaves it nothing, and its looking took a quarter of the time of a batch
    (2.8 instead of 3.8 s of a core for 800 questions). What rerankers leave is collected afterwards.
    """  # noqa: D205
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
            gc.collect()


# --- documents --------------------------------------------------------------------------------------------------------
def _sync(index: Index, dataset: Dataset) -> None:
    if dataset.source is not None:
        report = index.sync(dataset.source, progress=False)
    elif index.recipe.chunking == "whole":  # title and text as one: what published figures are of
        report = index.sync(list(read_corpus(dataset.golden)), progress=False)
    else:
        report = index.sync(corpus_path(dataset.golden), progress=False)
    if report.failures:
        first = report.failures[0]
        raise InvalidInput(
            f"{dataset.name}: {report.documents_failed} documents cannot be indexed, and figures would not be of all: "
            f"{first.document_id}: {first.reason}"
        )


def _documents(index: Index) -> str:
    """What is indexed: a digest of every document's state."""
    with index._opened.reading() as version:
        records = sorted(version.ledger.documents().items())
    return digest("corpus", *(part for id_, record in records for part in (id_, record.state or b""))).hex()


# --- vectors of questions ---------------------------------------------------------------------------------------------
def _vectors(
    index: Index, golden: GoldenSet, configuration: Configuration, folder: Path
) -> Mapping[str, FloatArray] | None:
    """Question id → vector, from the file or, the first time, from the model; None where no leg needs them."""
    if configuration.search.mode in ("lexical", "sparse"):
        return None
    prompt = configuration.search.query_prompt
    texts = [question.text for question in golden.questions]
    key = digest("question vectors", index.status().fingerprint, canonical_json(prompt), *texts).hex()
    path = folder / f"{key}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = index.encoder.encode_queries(texts, prompt).vectors
        with path.with_suffix(".new").open("wb") as file:
            np.save(file, rows)
        path.with_suffix(".new").replace(path)
    vectors = np.load(path, allow_pickle=False)
    return {question.id: row for question, row in zip(golden.questions, vectors, strict=True)}


# --- results ----------------------------------------------------------------------------------------------------------
def _name(values: Mapping[str, Any]) -> str:
    return digest("recipe", canonical_json(dict(values))).hex()[:12]


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    values = np.percentile(np.array(seconds or [0.0]), [50, 95, 99]) * 1000
    return dict(zip(("p50", "p95", "p99"), (round(float(value), 3) for value in values), strict=True))


def _read(path: Path, key: str) -> Cell | None:
    """A result that was measured before; one that cannot be read, or is another's, is measured again."""
    try:
        cell = Cell.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return cell if cell.digest == key else None


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """In one step, so that what is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def _write_run(found: Run, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(replace(found, rankings={id_: places[:KEPT] for id_, places in found.rankings.items()}), path)
