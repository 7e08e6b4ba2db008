"""The laws of freshness over random histories; ``python -m tests.freshness.soak`` runs more and longer ones."""

from __future__ import annotations

import pytest
from hypothesis import seed

from tests.freshness import soak
from tests.freshness.machine import FolderHistories, Histories
from tests.freshness.running import counted, histories


def test_documents_in_memory_obey_the_laws_of_freshness() -> None:
    machine = counted(Histories)
    histories(machine, 120, 30, shrink=True, fixed=True)
    assert sum(machine.crashes.values()) > 50, "the fuses must blow"
    assert len(machine.crashes) > 15, "at many places"
    assert {"promoted", "rolled back", "plan applied", "plan outdated"} <= set(machine.seen)


def test_files_in_a_folder_obey_the_laws_of_freshness() -> None:
    histories(FolderHistories, 20, 30, shrink=True, fixed=True)


def test_long_histories_obey_the_laws_of_freshness() -> None:
    histories(seed(11)(counted(Histories)), 8, 60, shrink=False)


def test_the_soak_counts_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--histories", "2", "--steps", "5", "--seed", "3"]) == 0
    assert "2 histories × 5 steps: 2 finished" in capsys.readouterr().out
