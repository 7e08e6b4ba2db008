"""Runs a state machine for a number of histories of a length."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.freshness.history import History


def counted(machine: type[History]) -> type[History]:
    """The same machine with counters of its own."""
    zero = {"histories": 0, "finished": 0, "steps": 0, "syncs": 0, "crashes": Counter(), "seen": Counter()}
    return type(machine.__name__, (machine,), zero)


def histories(
    machine: type[RuleBasedStateMachine], count: int, steps: int, *, shrink: bool, fixed: bool = False
) -> None:
    """Run them; the first violation is raised, with the steps that led to it as its notes.

    Args:
        machine: What to run.
        count: Histories.
        steps: Of each: exactly so many, or up to so many with ``shrink``, since a shorter example must be allowed then.
        shrink: Whether to look for a shorter example.
        fixed: The same histories each time, whatever the seed.
    """
    chosen = settings(
        max_examples=count,
        stateful_step_count=steps,
        derandomize=fixed,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
    )
    run_state_machine_as_test(machine, settings=chosen, _min_steps=0 if shrink else steps - 1)
