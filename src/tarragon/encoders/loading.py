"""From a recipe to an encoder, importing only the library that it needs."""

from __future__ import annotations

from importlib.util import find_spec

from tarragon.encoders.bundled import bundled_model_path
from tarragon.errors import MissingDependency
from tarragon.protocols import DenseEncoder
from tarragon.recipe import BUNDLED, IndexRecipe


def load_encoder(recipe: IndexRecipe, device: str | None) -> DenseEncoder:
    """The recipe's model.

    Raises:
        MissingDependency: sentence-transformers is not installed.
        ModelNotFound: No model is named and there is no bundled one, or the named one cannot be loaded.
        DeviceUnavailable: The device is not there.
    """
    if recipe.model in (None, BUNDLED):
        bundled_model_path()
    if find_spec("sentence_transformers") is None:
        raise MissingDependency("models run on sentence-transformers: pip install 'tarragon[sentence-transformers]'")
    from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder

    return SentenceTransformerEncoder(
        recipe.model, device=device, document_prompt=recipe.document_prompt, dimensions=recipe.dimensions
    )
