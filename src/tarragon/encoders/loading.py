"""From a recipe to an encoder, importing only the library that it needs.

A recipe names a model by a string. What stands before the first colon says what runs it::

    BAAI/bge-small-en-v1.5                        sentence-transformers: a name or a local folder
    fastembed:BAAI/bge-small-en-v1.5              fastembed: a name or a local folder
    openai:text-embedding-3-small                 OpenAI, or the server that OPENAI_BASE_URL names
    openai:bge-m3@http://localhost:8000/v1        any server that speaks OpenAI's /embeddings
    tei:http://localhost:8080                     Text Embeddings Inference
    static:models/glove                           a local folder with a table of token vectors
    joint:models/three-in-one                     a local folder that makes sparse and late vectors as well
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Literal, NamedTuple

from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.devices import listed_devices
from tarragon.errors import InvalidRecipe, MissingDependency
from tarragon.protocols import DenseEncoder
from tarragon.recipe import BUNDLED, IndexRecipe

Runner = Literal["sentence-transformers", "fastembed", "openai", "tei", "static", "joint"]


_LOCAL: dict[str, Runner] = {"fastembed": "fastembed", "static": "static", "joint": "joint"}


class ModelSpec(NamedTuple):
    """A model as a recipe names it.

    Attributes:
        runner: What runs it.
        name: Of the model: a hub's name, a folder, or its name on the server; None for the bundled model and for TEI.
        url: Of the server; None where the environment decides or there is none.
    """

    runner: Runner
    name: str | None
    url: str | None = None


def parse_model(model: str | None) -> ModelSpec:
    """What a recipe's ``model`` means. Looks at nothing but the string.

    Two letters or more before the first colon are a scheme; a single one is a drive of Windows.

    Raises:
        InvalidRecipe: The scheme is unknown, or what follows it is not what it needs.
    """
    if model is None or model == BUNDLED:
        return ModelSpec("sentence-transformers", None)
    scheme, rest = _split(model)
    if scheme is None:
        return ModelSpec("sentence-transformers", model)
    local: Runner | None = _LOCAL.get(scheme)
    if local and rest:
        return ModelSpec(local, rest)
    if scheme == "tei" and rest:
        return ModelSpec("tei", None, rest)
    name, at, url = _address(rest)
    if scheme == "openai" and name and (url or not at):
        return ModelSpec("openai", name, url or None)
    examples = (
        "fastembed:NAME_OR_FOLDER, openai:NAME, openai:NAME@http://host:port/v1, tei:http://host:port, static:FOLDER, "
        "joint:FOLDER"
    )
    raise InvalidRecipe(
        f"the model {scheme}:… cannot be read; write {examples}, or a name or folder (./name if it has a colon) for "
        "sentence-transformers",
        scheme=scheme,
    )


_ELSEWHERE = ("openai", "tei")
"""What runs on a server, whatever the device."""


def load_encoder(recipe: IndexRecipe, device: str | None) -> DenseEncoder:
    """The recipe's model, once on each device.

    Args:
        recipe: Names the model, its document prompt and dimensions.
        device: For models that run here: one, a list such as ``cuda:0,cuda:1``, or ``all``; None takes the best there
            is. Those on a server run where that is.

    Raises:
        InvalidRecipe: The model's name cannot be read, or it makes several spaces and several devices are named.
        InvalidInput: The device cannot be read.
        MissingDependency: The library that runs it is not installed.
        ModelNotFound: No model is named and there is no bundled one, or the named one cannot be loaded.
        DeviceUnavailable: The device is not there.
        ModelUnavailable: Its server cannot be reached, or refuses.
    """
    spec = parse_model(recipe.model)
    devices = listed_devices(None if spec.runner in _ELSEWHERE else device)
    if len(devices) == 1:
        return _load_one(recipe, spec, devices[0])
    require_one_space(spec, f"device={device!r}")
    from tarragon.encoders.several import SeveralEncoders

    return SeveralEncoders([_load_one(recipe, spec, one) for one in devices])


def require_one_space(spec: ModelSpec, why: str) -> None:
    """Refuse a model that makes several spaces in one pass where it would be loaded several times: `InvalidRecipe`."""
    if spec.runner == "joint":
        raise InvalidRecipe(
            f"joint:{spec.name} makes several spaces in one pass and cannot be spread by {why}; name one device"
        )


def _load_one(recipe: IndexRecipe, spec: ModelSpec, device: str | None) -> DenseEncoder:
    prompt, dimensions = recipe.document_prompt, recipe.dimensions
    if spec.runner == "fastembed":
        _require("fastembed", "fastembed")
        from tarragon.encoders.fastembed_dense import FastembedEncoder

        return FastembedEncoder(str(spec.name), device=device, document_prompt=prompt, dimensions=dimensions)
    if spec.runner == "openai":
        _require("httpx", "http")
        from tarragon.encoders.http_openai import openai_encoder, openai_http

        return openai_encoder(str(spec.name), openai_http(spec.url), document_prompt=prompt, dimensions=dimensions)
    if spec.runner == "tei":
        _require("httpx", "http")
        from tarragon.encoders.http_client import HttpModel
        from tarragon.encoders.http_tei import tei_encoder

        return tei_encoder(HttpModel(str(spec.url)), document_prompt=prompt, dimensions=dimensions)
    if spec.runner == "static":
        _require("safetensors", "sentence-transformers")
        from tarragon.encoders.static import StaticEncoder

        return StaticEncoder(str(spec.name), document_prompt=prompt, dimensions=dimensions)
    if spec.runner == "joint":
        if prompt or dimensions is not None:
            raise InvalidRecipe(f"joint:{spec.name} has no document prompt and one size; leave out both settings")
        from tarragon.encoders.side_loading import load_joint

        return load_joint(str(spec.name), device)
    if spec.name is None:
        bundled_model_path()
    _require("sentence_transformers", "sentence-transformers")
    from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder

    return SentenceTransformerEncoder(spec.name, device=device, document_prompt=prompt, dimensions=dimensions)


def _split(model: str) -> tuple[str | None, str]:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", model)
    return (match[1].lower(), model[match.end() :].strip()) if match else (None, model)


def _address(rest: str) -> tuple[str, str, str]:
    """``name@http://…`` in its parts; a name may hold an @ of its own."""
    found = re.search(r"@(?=https?://)", rest)
    return (rest[: found.start()], "@", rest[found.end() :]) if found else (rest, "", "")


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise MissingDependency(f"this model runs on {module}: pip install 'tarragon[{extra}]'", module=module)
