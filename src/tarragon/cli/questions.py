"""The commands around a question: ``search``, ``why-not``, ``tune``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from tarragon.bridging import BridgeKind
from tarragon.cli import views
from tarragon.encoders.loading import load_encoder
from tarragon.errors import InvalidFilter, InvalidInput
from tarragon.index import Index
from tarragon.receipts import Hits
from tarragon.recipe import Fusion, IndexRecipe, Mode, RerankStep, SearchRecipe, Words
from tarragon.types import Hit, OnStale

_SETTINGS = ("words", "fusion", "dense_weight", "depth", "min_score", "per_document", "diversity", "rerank_budget_ms")


# --- options ----------------------------------------------------------------------------------------------------------
def add_search(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon search``."""
    made.add_argument("query", metavar="QUESTION")
    add_asking(made)
    made.add_argument("--explain", action="store_true", help="each hit's rank and score in every stage, and the times")
    made.add_argument(
        "--on-stale",
        choices=get_args(OnStale),
        default="flag",
        help="passages whose source has changed: mark them, drop them, or sync them first (default: %(default)s)",
    )
    made.add_argument(
        "--bridge", choices=get_args(BridgeKind), help="search with --model, which did not build the index"
    )
    made.add_argument("--model", help="with --bridge: sentence-transformers name or folder")


def add_why_not(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon why-not``."""
    made.add_argument("query", metavar="QUESTION")
    made.add_argument("document", metavar="DOCUMENT", help="its id")
    add_asking(made)


def add_tune(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon tune``."""
    _add_device(made)
    made.add_argument("--queries", metavar="FILE", help='JSON lines: {"query": ..., "relevant": [document ids]}')
    made.add_argument("--target-recall", type=float, default=0.99, metavar="SHARE", help="default: %(default)s")
    made.add_argument(
        "--first-pass",
        action=argparse.BooleanOptionalAction,
        help="make one that reaches the target, or none (default: if it saves time)",
    )


def add_asking(made: argparse.ArgumentParser, k: int = 5) -> None:
    """Options of how to search."""
    _add_device(made)
    made.add_argument("-k", type=int, default=k, help="how many passages (default: %(default)s)")
    made.add_argument("--mode", choices=get_args(Mode), help="default: hybrid")
    made.add_argument("--filter", metavar="JSON", help="""such as '{"lang": "en", "year": {"$gte": 2020}}'""")
    how = made.add_argument_group("how to search; by default as the index was tuned")
    how.add_argument("--words", choices=get_args(Words), help="legs by words")
    how.add_argument("--fusion", choices=get_args(Fusion))
    how.add_argument("--dense-weight", type=float, metavar="SHARE", help="share of the dense leg, 0 to 1")
    how.add_argument("--depth", type=int, metavar="N", help="candidates of each leg")
    how.add_argument("--min-score", type=float, metavar="X", help="leave out what scores less (calibrated fusion)")
    how.add_argument("--per-document", type=int, metavar="N", help="most passages of one document")
    how.add_argument("--diversity", type=float, metavar="SHARE", help="0 to 1: how much repetition costs")
    how.add_argument(
        "--rerank", action="append", default=[], metavar="MODEL", help="read the best again; repeatable: a cascade"
    )
    how.add_argument("--rerank-depth", action="append", type=int, default=[], metavar="N", help="of each --rerank")
    how.add_argument("--rerank-budget-ms", type=float, metavar="MS", help="time for all of them")


def _add_device(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")


# --- commands ---------------------------------------------------------------------------------------------------------
def search(options: argparse.Namespace) -> int:
    """``tarragon search``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        if options.bridge or options.model:
            hits = Hits(_bridged(index, options))
        else:
            hits = index.search(
                options.query,
                options.k,
                filter=read_filter(options.filter),
                mode=options.mode,
                recipe=_recipe(index, options),
                on_stale=options.on_stale,
            )
    explanations = hits.explain() if options.explain else []
    if options.json:
        found: dict[str, Any] = {"query": options.query, "hits": [hit.to_dict() for hit in hits]}
        found["receipt"] = hits.receipt.to_dict()
        if options.explain:
            found["explanations"] = [one.to_dict() for one in explanations]
        views.output_json(found)
    else:
        views.show_hits(hits, explanations)
        if options.explain:
            views.show_receipt(hits.receipt)
    return 0


def why_not(options: argparse.Namespace) -> int:
    """``tarragon why-not``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        recipe = recipe_typed(index, options)
        found = index.why_not(
            options.query, options.document, options.k, filter=read_filter(options.filter), recipe=recipe
        )
    views.output(options.json, found, lambda one: print(one.sentence))
    return 0


def tune(options: argparse.Namespace) -> int:
    """``tarragon tune``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        queries = read_queries(options.queries)
        with views.steps(options.json) as said:
            found = index.tune(
                queries, target_recall=options.target_recall, first_pass=options.first_pass, on_step=said
            )
    views.output(options.json, found, views.show_tuning)
    return 0


def _bridged(index: Index, options: argparse.Namespace) -> list[Hit]:
    if not (options.bridge and options.model):
        raise InvalidInput("--bridge and --model go together: an index is searched with its own model otherwise")
    if options.mode is not None or options.on_stale != "flag" or options.explain or _given(options):
        raise InvalidInput("with --bridge only -k and --filter can be said: it always fuses both legs and marks hits")
    recipe = IndexRecipe.from_dict({**index.recipe.to_dict(), "model": options.model})
    encoder = load_encoder(recipe, options.device)
    return index.bridge(encoder, kind=options.bridge).search(
        options.query, options.k, filter=read_filter(options.filter)
    )


# --- what was typed ---------------------------------------------------------------------------------------------------
def _given(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    depths = options.rerank_depth
    if len(depths) > len(options.rerank):
        raise InvalidInput(f"--rerank-depth is given {len(depths)} times and --rerank {len(options.rerank)} times")
    steps = [
        RerankStep(model, depths[number]) if number < len(depths) else RerankStep(model)
        for number, model in enumerate(options.rerank)
    ]
    return given | ({"rerankers": tuple(steps)} if steps else {})


def recipe_typed(index: Index, options: argparse.Namespace) -> SearchRecipe | None:
    """How to search, mode included; None if nothing was typed."""
    recipe = _recipe(index, options)
    return recipe if options.mode is None else replace(recipe or SearchRecipe(**_tuned(index)), mode=options.mode)


def _recipe(index: Index, options: argparse.Namespace) -> SearchRecipe | None:
    """What was typed, and all else as the index was tuned; None if nothing was."""
    given = _given(options)
    if not given:
        return None
    tuned = _tuned(index)
    if {"fusion", "min_score"} & set(given):
        tuned.pop("dense_weight", None)  # it was judged with another fusion
    if {"fusion", "words", "dense_weight"} & set(given):
        tuned.pop("mode", None)  # with a single leg these would say nothing
    if "min_score" in given:
        tuned.pop("fusion", None)
    return SearchRecipe(**{**tuned, **given})


def _tuned(index: Index) -> dict[str, Any]:
    """What `Index.tune` chose for the version that serves."""
    serving = index._opened.catalog.serving()
    return {} if serving is None else dict(index._opened.record(serving).tuning.get("search", {}))


def read_filter(text: str | None) -> Any:
    """The filter that was typed, if one was."""
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise InvalidFilter(f"--filter is not JSON: {error}: {text}") from None


def read_queries(path: str | None) -> Sequence[Any]:
    """Questions, or pairs of a question and the ids of the documents that answer it."""
    if path is None:
        return ()
    found: list[Any] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            found.append(_labelled(entry) if "relevant" in entry else _text(entry["query"]))
        except (ValueError, TypeError, KeyError) as error:
            form = '{"query": "..."} or {"query": "...", "relevant": ["document id", ...]}'
            raise InvalidInput(f"{path}, line {number}: {error!r}; a line is {form}") from error
    return found


def _labelled(entry: Any) -> tuple[str, list[str]]:
    if not isinstance(entry["relevant"], list):
        raise TypeError(f"relevant is {entry['relevant']!r}, which is no list")
    return _text(entry["query"]), [_text(id_) for id_ in entry["relevant"]]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no string")
    return value
