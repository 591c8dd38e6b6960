"""A short run of `python -m tests.crashes outbox`: the same load, the same count, fewer deaths.

Of workers only: what PostgreSQL's and Redis's deaths do to real workers is in `test_lost_connections` and
in `tests/commerce/outbox_scale`.
"""

import json
import subprocess
import sys

import pytest

from commerce.embedded import REPOSITORY

RIGHT = {"lost": [], "doubled": [], "disordered": [], "invented": []}
GROUPS = ("crashes.local", "crashes.batch", "crashes.bank", "payouts.modern_treasury")


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, "-m", "tests.crashes", "outbox", "--json"]
    command += ["--kills", "5", "--restarts", "0", "--wipes", "0"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("group", GROUPS)
def test_each_effect_happens_once_and_in_turn_whoever_dies(report, group):
    """Counted where the effect happened, at the bank or in the database."""
    found = report["groups"][group]
    assert {how: found[how] for how in RIGHT} == RIGHT
    assert found["effects"] >= 5  # or it would say nothing
    assert (report["left"], report["parked"]) == ({"unpublished": 0, "due": 0}, [])
    assert report["answered_and_forgotten"] == []
    assert report["findings"] == []


def test_what_was_to_strike_has_struck(report):
    killed_in = report["workers"]["killed_in"]
    assert all(killed_in[group] for group in report["workers"]["besides_aimed_at"]), killed_in
    assert all(report["served"].values()), report["served"]
    assert report["deliveries_to_the_bank"]["found"] > 0, "an effect whose answer was lost is found again"


def test_handlers_that_do_it_wrong_are_found_out(report):
    fresh_key, cursor_first = (report["groups"][f"crashes.{name}"] for name in ("fresh_key", "cursor_first"))
    assert fresh_key["doubled"], "an order for each attempt was not noticed"
    assert fresh_key["lost"] == []
    assert cursor_first["lost"], "an effect that died after its cursor had moved was not noticed"
    assert cursor_first["doubled"] == []
