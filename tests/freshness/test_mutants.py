"""The laws' own power: Tarragon with a known wrong design in it breaks one of them soon."""

from __future__ import annotations

import pytest
from hypothesis import seed

from tests.freshness.machine import Histories
from tests.freshness.mutants import MUTANTS, Mutant
from tests.freshness.running import counted, histories

SEEDS = (1, 7)
MOST = 150
"""Histories of each seed in which a mutant must be caught; most are in fewer than 10 of the first."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_wrong_design_breaks_a_law(mutant: Mutant) -> None:
    with mutant.applied(), pytest.raises(Exception) as caught:
        for number in SEEDS:
            histories(seed(number)(counted(Histories)), MOST, 30, shrink=False)
    assert "out of date" not in str(caught.value)
