"""How long the poller goes on when the bank gives no answer, and what is none of that."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from commerce.outbox import drain
from payouts import services
from payouts.models import Payout
from payouts.services import bank as watching
from tests.payouts.conftest import EVERYTHING, SEASONED, SYSTEM, fault

pytestmark = pytest.mark.django_db


@pytest.fixture
def three(ready: Any, bank: Any, monkeypatch: pytest.MonkeyPatch) -> list[Payout]:
    """Payouts that the bank has and whose next look has come, for a poller that bears two silences."""
    drain(groups=EVERYTHING)
    for _ in range(2):
        ready.settle()
        ready.release()
        drain(groups=EVERYTHING)
    monkeypatch.setattr(watching, "PATIENCE", 2)
    payouts = list(Payout.objects.filter(status="in_transit").order_by("id"))
    for minutes, payout in zip((3, 2, 1), payouts, strict=True):
        due = timezone.now() - timedelta(minutes=minutes)
        Payout.objects.filter(pk=payout.pk).update(next_poll_at=due, polls=0)
    return payouts


def poll() -> list[int]:
    """How often each was looked at."""
    services.poll_payouts(at=SEASONED, actor=SYSTEM)
    return list(Payout.objects.order_by("id").values_list("polls", flat=True))


def test_after_some_looks_in_a_row_without_an_answer_the_rest_waits(three: Any, bank: Any) -> None:
    fault(bank, "error", method="GET", status=500, count=0)
    assert poll() == [1, 1, 0]


def test_an_answer_that_says_no_is_an_answer(three: Any, bank: Any) -> None:
    fault(bank, "error", method="GET", status=404, count=0)
    assert poll() == [1, 1, 1]
    assert Payout.objects.exclude(last_error="").count() == 3
    assert set(Payout.objects.values_list("status", flat=True)) == {"in_transit"}


def test_what_needs_no_look_any_more_is_no_silence(three: list[Payout], bank: Any) -> None:
    """As what was settled while the poller was on its way."""
    Payout.objects.filter(pk__in=[payout.pk for payout in three[:2]]).update(watched_since=None)
    bank.settle()
    assert poll() == [0, 0, 1]
    assert Payout.objects.get(pk=three[2].pk).status == "paid"
