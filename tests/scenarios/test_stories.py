"""The business stories, over HTTP against real processes: the happy path and what goes wrong."""

import pytest

from tests.scenarios.conftest import System


def test_the_first_dollar_reaches_the_seller_to_the_cent(system: System) -> None:
    system.play("first_dollar")
    system.verify()


@pytest.mark.parametrize(
    "story",
    ["short_wallet", "failed_payout", "returned_payout", "changed_mid_period", "terminated_mid_period"],
)
def test_a_failure_story_ends_with_nothing_lost_and_nothing_doubled(system: System, story: str) -> None:
    system.play(story)
    system.verify()


def test_a_second_play_beside_the_first_contract_stands_to_the_cent(system: System) -> None:
    system.play("first_dollar")
    system.verify()


def test_a_year_of_changes_is_billed_to_the_cent_whatever_was_learned_late(young_system: System) -> None:
    young_system.play("a_year_of_changes")
    young_system.verify()
