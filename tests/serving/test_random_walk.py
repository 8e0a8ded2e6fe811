"""Random walks of all that users do to a pipeline: the steps of ``benchmarks/random_walk.py``, which takes more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from diffusers.utils import logging
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.conftest import examples

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WALKS, STEPS = 4, 12


@pytest.fixture
def walking(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from walking import actions, checks, requests, world

    logging.disable_progress_bar()
    yield actions, checks, requests, world
    logging.enable_progress_bar()


def any_action(actions: Any, subject: Any) -> st.SearchStrategy[Any]:
    """An action with its parameters; the simplest come first."""

    def with_values(name: str) -> st.SearchStrategy[Any]:
        values = actions.parameters_of(name, subject)
        chosen = st.fixed_dictionaries({key: st.sampled_from(each) for key, each in values.items()})
        return st.tuples(st.just(name), chosen)

    return st.sampled_from([name for name, (weight, _) in actions.ACTIONS.items() for _ in range(weight)]).flatmap(
        with_values
    )


@pytest.mark.parametrize("subject", ["tiny", "two denoisers"])
def test_whatever_is_done_every_run_is_a_fresh_pipelines_and_nothing_is_left(walking: Any, subject: str) -> None:
    """If it fails, hypothesis prints the fewest steps that it found to fail."""
    actions, checks, requests, world = walking
    found = requests.SUBJECTS[subject]()
    fresh, before = requests.Fresh(found), checks.alive()

    class Walk(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.world = world.World(found, fresh)

        @rule(action=any_action(actions, found))
        def do(self, action: Any) -> None:
            self.world.do(action)

        def teardown(self) -> None:
            self.world.end()

    run_state_machine_as_test(
        Walk,
        settings=settings(
            examples(WALKS), stateful_step_count=STEPS, deadline=None, suppress_health_check=[*HealthCheck]
        ),
    )
    assert checks.alive() == before
