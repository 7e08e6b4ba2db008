"""A trained cross-encoder, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_rerankers import make_bert, train


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows which passages answer which questions, though they share no word."""
    folder = tmp_path_factory.mktemp("cross_encoder")
    return train(make_bert(folder / "untrained"), folder / "trained")
