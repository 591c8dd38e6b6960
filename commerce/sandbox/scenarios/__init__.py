"""Dated business stories over the public HTTP API, each asserting the ledger after every step.

One definition serves `manage.py demo`, `manage.py scenario run` and the tests: a scenario is a
function of a `World`, which knows only the addresses of the application and of the simulators.
"""

from collections.abc import Callable

from commerce.sandbox.scenarios import a_year_of_changes, failures, first_dollar
from commerce.sandbox.scenarios.world import ScenarioFailed, World

SCENARIOS: dict[str, Callable[[World], None]] = {
    "first_dollar": first_dollar.play,
    "a_year_of_changes": a_year_of_changes.play,
    "short_wallet": failures.short_wallet,
    "failed_payout": failures.failed_payout,
    "returned_payout": failures.returned_payout,
    "changed_mid_period": failures.changed_mid_period,
    "terminated_mid_period": failures.terminated_mid_period,
}


def run(
    name: str,
    *,
    base_url: str,
    sandbox_url: str,
    api_key: str,
    report: Callable[[str], None] = lambda line: None,
    work: Callable[[], None] | None = None,
    patience: float = 60,
    approver: tuple[str, str] | None = None,
) -> World:
    """Play a scenario and return its world; raises ScenarioFailed with the step and what was expected.

    `work` is called while waiting, where no worker runs beside the caller; `patience` is how many
    seconds a step may take. `approver` is the name and password of somebody who may approve in the
    console, for stories in which two people agree.
    """
    if name not in SCENARIOS:
        raise ScenarioFailed(f"There is no scenario {name!r}; there are {', '.join(sorted(SCENARIOS))}.")
    world = World(base_url, sandbox_url, api_key, report, work, patience, approver)
    SCENARIOS[name](world)
    return world


__all__ = ["SCENARIOS", "ScenarioFailed", "World", "run"]
