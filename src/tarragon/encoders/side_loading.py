"""From a name in the recipe to a sparse or late-interaction encoder, importing only the library that it needs.

Names are read as those of dense models are, see `tarragon.encoders.loading`. These models have two schemes::

    naver/splade-v3                          sentence-transformers: a name or a local folder
    fastembed:prithivida/Splade_PP_en_v1     fastembed: a name that it knows, or a local folder called like one
    joint:models/three-in-one                a local folder that makes all three kinds of vectors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tarragon.encoders.loading import ModelSpec, _require, parse_model
from tarragon.errors import ModelNotFound
from tarragon.protocols import LateEncoder, SparseEncoder

if TYPE_CHECKING:
    from tarragon.encoders.joint import JointEncoder


def load_sparse(model: str, device: str | None) -> SparseEncoder:
    """A learned sparse model.

    Args:
        model: Its name, as above.
        device: Where it runs; None takes the best there is.

    Raises:
        InvalidRecipe: The name cannot be read.
        MissingDependency: The library that runs it is not installed.
        ModelNotFound: The model cannot be loaded, or is no sparse one.
        DeviceUnavailable: The device is not there.
    """
    spec = _spec(model, "sparse")
    if spec.runner == "fastembed":
        _require("fastembed", "fastembed")
        from tarragon.encoders.fastembed_sparse import FastembedSparseEncoder

        return FastembedSparseEncoder(str(spec.name), device=device)
    if spec.runner == "joint":
        return load_joint(str(spec.name), device).sparse
    _require("sentence_transformers", "sentence-transformers")
    from tarragon.encoders.sparse import SparseTransformerEncoder

    return SparseTransformerEncoder(str(spec.name), device=device)


def load_late(model: str, device: str | None) -> LateEncoder:
    """A late-interaction model. Arguments and errors as for `load_sparse`."""
    spec = _spec(model, "late-interaction")
    if spec.runner == "fastembed":
        _require("fastembed", "fastembed")
        from tarragon.encoders.fastembed_late import FastembedLateEncoder

        return FastembedLateEncoder(str(spec.name), device=device)
    if spec.runner == "joint":
        return load_joint(str(spec.name), device).late
    _require("sentence_transformers", "sentence-transformers")
    from tarragon.encoders.late import LateTransformerEncoder

    return LateTransformerEncoder(str(spec.name), device=device)


def load_joint(folder: str, device: str | None) -> JointEncoder:
    """A model that makes all three kinds of vectors, as a dense encoder. Errors as for `load_sparse`."""
    _require("sentence_transformers", "sentence-transformers")
    from tarragon.encoders.joint import JointEncoder

    return JointEncoder(folder, device=device)


def _spec(model: str, kind: str) -> ModelSpec:
    spec = parse_model(model.strip())
    if not spec.name or spec.runner not in ("sentence-transformers", "fastembed", "joint"):
        raise ModelNotFound(
            f"{model!r} is no {kind} model. Give a sentence-transformers name or folder, fastembed:NAME_OR_FOLDER or "
            "joint:FOLDER",
            model=model,
        )
    return spec
