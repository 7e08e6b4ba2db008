"""A declared grid: data sets, and settings with the values that they take → configurations, each named and identified.

    {
      "name": "fusions",
      "datasets": [{"path": "data/scifact"}, {"golden": "golden.jsonl", "source": "docs/", "name": "ours"}],
      "index": {"chunking": "whole"},
      "search": {"fusion": ["calibrated", "rrf"], "depth": [100, 50]}
    }

A list is a sweep. ``"vary": "all"`` takes every combination, ``"one"`` the first of each list and then each other value
by itself: an ablation. A JSON or TOML file says the same; paths in it are relative to it. `sweeping` runs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from tarragon.errors import InvalidInput, InvalidRecipe, MissingDependency
from tarragon.evaluation.metrics import METRICS
from tarragon.evaluation.running import K, recipe_dict
from tarragon.recipe import IndexRecipe, RerankStep, SearchRecipe

_KEYS = {"name", "datasets", "metrics", "index", "search", "vary", "k"}
_DATASET = {"name", "path", "split", "golden", "source"}
_VARY = ("all", "one")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Documents and questions.

    Attributes:
        name: Unique in the grid; part of file names.
        golden: What `tarragon.evaluation.golden.read_golden` reads.
        source: What `Index.sync` reads. None: the corpus of the BEIR folder that ``golden`` is; for an index of whole
            documents, title and text of each as one.
        split: Of a BEIR folder: which judgements.
    """

    name: str
    golden: Path
    source: Path | None = None
    split: str = "test"


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to index and search.

    Attributes:
        name: The settings that vary in the grid, in words.
        index: What the index is built with.
        search: How it is searched.
        k: Hits of each question.
    """

    name: str
    index: IndexRecipe
    search: SearchRecipe
    k: int = K

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the name: what decides the result."""
        return {"index": self.index.to_dict(), "search": recipe_dict(self.search), "k": self.k}


@dataclass(frozen=True, slots=True)
class Grid:
    """What is to be measured.

    Attributes:
        name: For people.
        datasets: On what.
        configurations: How; the first is the one that others are compared with.
        metrics: Which figures.
    """

    name: str
    datasets: tuple[Dataset, ...]
    configurations: tuple[Configuration, ...]
    metrics: tuple[str, ...] = METRICS


def read_grid(path: str | Path) -> Grid:
    """A grid from a ``.json`` or ``.toml`` file.

    Raises:
        InvalidInput: It is missing, malformed, or says what no setting is.
        MissingDependency: TOML needs Python 3.11 or later.
    """
    path = Path(path)
    try:
        values = _toml(path) if path.suffix == ".toml" else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}; a grid is a JSON or TOML file", path=str(path)) from error
    try:
        return grid_of(values, path.parent)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}", path=str(path)) from error


def grid_of(values: Mapping[str, Any], folder: Path | None = None) -> Grid:
    """A grid from what a file of it holds.

    Args:
        values: See the head of this module.
        folder: What paths are relative to; None: the current one.

    Raises:
        InvalidInput: A key, a value or a setting that is none; or nothing to measure.
    """
    if not isinstance(values, Mapping):
        raise InvalidInput(f"a grid is an object, not {type(values).__name__}")
    _check_keys("a grid", values, _KEYS)
    datasets = tuple(_dataset(one, folder or Path()) for one in _listed(values.get("datasets", [])))
    if not datasets or len({one.name for one in datasets}) < len(datasets):
        raise InvalidInput(f"a grid needs datasets with names of their own, not {[one.name for one in datasets]}")
    configurations = tuple(_configurations(values))
    return Grid(
        str(values.get("name", "grid")), datasets, configurations, tuple(_listed(values.get("metrics", METRICS)))
    )


# --- data sets --------------------------------------------------------------------------------------------------------
def _dataset(values: Any, folder: Path) -> Dataset:
    if isinstance(values, str):
        values = {"path": values}
    if not isinstance(values, Mapping):
        raise InvalidInput(f"a dataset is a path or an object, not {values!r:.80}")
    _check_keys("a dataset", values, _DATASET)
    if ("path" in values) == ("golden" in values) or ("golden" in values) != ("source" in values):
        raise InvalidInput(f"a dataset is a BEIR folder ('path'), or 'golden' and 'source'; this has {sorted(values)}")
    golden = folder / (values.get("path") or values["golden"])
    source = folder / values["source"] if "source" in values else None
    return Dataset(str(values.get("name") or golden.resolve().stem), golden, source, str(values.get("split", "test")))


# --- configurations ---------------------------------------------------------------------------------------------------
def _configurations(values: Mapping[str, Any]) -> Iterator[Configuration]:
    vary, k = values.get("vary", "all"), values.get("k", K)
    if vary not in _VARY:
        raise InvalidInput(f"vary={vary!r} is not one of {', '.join(_VARY)}", vary=vary)
    if type(k) is not int or k < 1:
        raise InvalidInput(f"k={k!r} must be a whole number of at least 1", k=k)
    choices: dict[tuple[str, str], list[Any]] = {}
    for part, recipe in (("index", IndexRecipe), ("search", SearchRecipe)):
        settings = values.get(part, {})
        _check_keys(f"{part!r}", settings, {field.name for field in fields(recipe)})
        choices |= {(part, name): _values(name, value) for name, value in settings.items()}
    varied = [key for key, options in choices.items() if len(options) > 1]
    for chosen in _chosen(choices, vary):
        made: dict[str, dict[str, Any]] = {"index": {}, "search": {}}
        for (part, name), value in chosen.items():
            made[part][name] = value
        words = ", ".join(f"{name}={_word(chosen[part, name])}" for part, name in varied)
        yield Configuration(words or "default", _recipe(IndexRecipe, made["index"]), _search(made["search"]), k)


def _values(name: str, value: Any) -> list[Any]:
    """What a setting takes, one after the other. ``rerankers`` is a list by itself: a list of such lists is a sweep."""
    if name == "rerankers":
        return list(value) if isinstance(value, list) and all(isinstance(one, list) for one in value) else [value]
    if isinstance(value, list) and not value:
        raise InvalidInput(f"{name}=[]: a sweep needs a value")
    return list(value) if isinstance(value, list) else [value]


def _chosen(choices: Mapping[Any, list[Any]], vary: str) -> Iterator[dict[Any, Any]]:
    if vary == "all":
        yield from (dict(zip(choices, chosen, strict=True)) for chosen in product(*choices.values()))
        return
    first = {key: options[0] for key, options in choices.items()}
    yield first
    yield from (first | {key: value} for key, options in choices.items() for value in options[1:])


def _search(settings: Mapping[str, Any]) -> SearchRecipe:
    steps = tuple(_step(one) for one in settings.get("rerankers") or ())
    return _recipe(SearchRecipe, {**settings, "rerankers": steps})


def _step(value: Any) -> RerankStep:
    return _recipe(RerankStep, {"model": value} if isinstance(value, str) else value)


def _recipe(kind: type[T], settings: Any) -> T:
    try:
        return kind(**settings)
    except TypeError as error:
        raise InvalidRecipe(f"{kind.__name__} cannot be made of {settings!r:.200}: {error}") from error


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(_word(one) for one in value) or "none"
    if isinstance(value, Mapping):
        return f"{value.get('model')} ({value['depth']})" if "depth" in value else str(value.get("model"))
    return "none" if value is None else str(value)


# --- reading ----------------------------------------------------------------------------------------------------------
def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"a list is needed, not {value!r:.80}")
    return list(value)


def _check_keys(what: str, values: Any, known: set[str]) -> None:
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{what} is an object of settings, not {values!r:.80}")
    if unknown := sorted(set(values) - known):
        raise InvalidInput(f"{what} has no {', '.join(map(repr, unknown))}; there are {', '.join(sorted(known))}")


def _toml(path: Path) -> Any:
    try:
        library = import_module("tomllib")
    except ImportError as error:
        raise MissingDependency(f"{path}: TOML needs Python 3.11 or later; write the grid as JSON") from error
    return library.loads(path.read_text(encoding="utf-8"))
