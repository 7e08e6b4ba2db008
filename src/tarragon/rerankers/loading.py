"""From a name to a reranker, importing only the library that it needs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tarragon.errors import InvalidRecipe, MissingDependency
from tarragon.protocols import Reranker

KINDS = "a cross-encoder's name or folder, fastembed:NAME, tei:http://host:port, cohere:MODEL, jina:MODEL, late:MODEL"


def load_reranker(name: str, device: str | None = None) -> Reranker:
    """The reranker of this name.

    Args:
        name: A sentence-transformers cross-encoder by its name on the model hub or a local folder; or
            ``fastembed:NAME_OR_FOLDER``, ``tei:http://host:port``, ``cohere:MODEL`` and ``jina:MODEL``, both with an
            optional ``@https://host`` of another server that speaks like theirs, ``late:MODEL``.
        device: For models that run here: as in `Index.open`.

    Raises:
        InvalidRecipe: The name is none of these.
        MissingDependency: The library that it needs is not installed.
        ModelNotFound: It cannot be loaded, or is no reranker.
        DeviceUnavailable: The device is not there.
    """
    kind, colon, rest = name.partition(":")
    load = _LOADERS.get(kind) if colon else None
    if load is not None and rest.strip():
        return load(rest.strip(), device)
    if not name.strip() or load is not None or (colon and not Path(name).exists()):
        raise InvalidRecipe(f"{name!r} names no reranker; write {KINDS}", reranker=name)
    return _cross_encoder(name, device)


def _require(library: str, extra: str) -> None:
    if find_spec(library) is None:
        raise MissingDependency(f"this reranker needs {library}: pip install 'tarragon[{extra}]'")


def _cross_encoder(name: str, device: str | None) -> Reranker:
    _require("sentence_transformers", "sentence-transformers")
    from tarragon.rerankers.cross_encoder import SentenceTransformerReranker

    return SentenceTransformerReranker(name, device=device)


def _fastembed(name: str, device: str | None) -> Reranker:
    _require("fastembed", "fastembed")
    from tarragon.rerankers.fastembed_reranker import FastembedReranker

    return FastembedReranker(name, device=device)


def _late(name: str, device: str | None) -> Reranker:
    from tarragon.encoders.side_loading import load_late
    from tarragon.rerankers.late_interaction import LateInteractionReranker

    return LateInteractionReranker(load_late(name, device))


def _tei(url: str, device: str | None) -> Reranker:
    _require("httpx", "http")
    from tarragon.rerankers.http import TeiReranker

    return TeiReranker(url)


def _cohere(name: str, device: str | None) -> Reranker:
    _require("httpx", "http")
    from tarragon.rerankers.http import COHERE, ServiceReranker

    return ServiceReranker(COHERE, *_model_and_url(name))


def _jina(name: str, device: str | None) -> Reranker:
    _require("httpx", "http")
    from tarragon.rerankers.http import JINA, ServiceReranker

    return ServiceReranker(JINA, *_model_and_url(name))


def _model_and_url(name: str) -> tuple[str, str | None]:
    model, _, url = name.partition("@")
    return model, url or None


_LOADERS: dict[str, Callable[[str, str | None], Reranker]] = {
    "fastembed": _fastembed,
    "tei": _tei,
    "cohere": _cohere,
    "jina": _jina,
    "late": _late,
}
