"""A sync killed by the system: what is left opens, answers, and is completed by the next sync."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.kills import KINDS, measure
from tarragon.protocols import DenseEncoder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process that has the model loaded")
def test_a_killed_sync_is_completed_by_the_next_one(tmp_path: Path, encoder: DenseEncoder) -> None:
    """Three kills; ``python -m benchmarks.kills`` does 200."""
    result = measure(3, 11, tmp_path, encoder, first=list(KINDS), calibrations=1)
    assert result["kinds"] == dict.fromkeys(KINDS, 1)
    assert result["good"] == result["kills"] == 3, result
    assert result["refused"] == 0
    assert result["lost"] == result["orphans"] == result["ghosts"] == result["payloads"] == 0
    assert result["least_cosine"] >= result["required_cosine"]
    assert not any(result["other_answers"].values())
    assert result["embedded_again"] == result["still_unfinished"] == 0
    assert result["chunks_compared"] > 0
