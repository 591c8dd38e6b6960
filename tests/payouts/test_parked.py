"""A payout that stands still, found, understood and resolved from the console alone."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from commerce.console.models import Approval
from commerce.outbox import drain
from commerce.outbox.models import OutboxEvent, OutboxSkip, OutboxStream
from tests.payouts.conftest import EVERYTHING, holds, link, orders, press, text, usd

pytestmark = pytest.mark.django_db
IN_TRANSIT = usd("31,675.00")


def test_an_operator_finds_it_from_home_reads_why_and_lets_it_go_on(
    parked: OutboxStream, ready: Any, bank: Any, browser: Callable[[str], Client]
) -> None:
    operator = browser("operator")
    card = link(operator.get("/admin/"), r"/admin/outbox/outboxstream/\?condition=parked")
    page = link(operator.get(card), r"/admin/outbox/outboxstream/\d+/change/[^\"]*")
    stream = operator.get(page)
    said = text(stream)
    assert "payouts.modern_treasury stands at payout.approved #1; 1 event waits" in said
    assert "The provider said no and would say it again" in said
    assert "403" in said
    payout = ready.payout()
    assert payout.external_id in said
    assert "submitted" in said
    assert "31,675.00" in said
    link(stream, rf"/admin/payouts/payout/{payout.pk}/change/")
    link(stream, rf"/admin/payouts/payout/{payout.pk}/do/poll/")

    bank.control.delete("/faults")
    assert "It was parked because: payout.approved #1: Rejected" in press(
        operator, link(stream, r"/admin/outbox/outboxstream/\d+/do/resume/")
    )
    assert orders(bank) == [], "a request of an operator spoke to the bank"
    drain(groups=EVERYTHING)
    assert ready.payout().status == "in_transit"
    assert [order["amount"] for order in orders(bank)] == [3_167_500]
    assert holds(ready.northwind, "PAYOUT_IN_TRANSIT") == IN_TRANSIT
    assert holds(ready.northwind, "PAYABLE") == usd("0")
    assert "Every event finds its way." in text(operator.get("/admin/"))


def test_two_people_go_on_without_it_and_no_money_moves_until_it_is_replayed(
    parked: OutboxStream, ready: Any, bank: Any, browser: Callable[[str], Client]
) -> None:
    operator, approver = browser("operator"), browser("approver")
    page = f"/admin/outbox/outboxstream/{parked.pk}/"
    assert approver.get(f"{page}do/skip/").status_code == 403
    assert "31,675.00 USD, and its stream goes on after it" in press(operator, f"{page}do/skip/")
    approval = f"/admin/console/approval/{Approval.objects.get().pk}/"
    assert operator.get(f"{approval}do/approve/").status_code == 403
    drain(groups=EVERYTHING)
    assert not OutboxSkip.objects.exists()
    assert "Skip an event" in text(operator.get(f"{page}change/"))

    press(approver, f"{approval}do/approve/")
    drain(groups=EVERYTHING)
    skip = OutboxSkip.objects.get()
    assert (skip.type, skip.sequence) == ("payout.approved", 1)
    assert orders(bank) == []
    assert ready.payout().status == "submitted"
    assert holds(ready.northwind, "PAYOUT_IN_TRANSIT") == IN_TRANSIT, "a skip has moved money"
    assert "As agreed with the bank." in text(operator.get(f"{page}change/"))

    event = OutboxEvent.objects.get(event_id=skip.event_id)
    event_page = f"/admin/outbox/outboxevent/{event.pk}/"
    assert "skipped" in text(operator.get(f"{event_page}change/"))
    bank.control.delete("/faults")
    press(operator, f"{event_page}do/replay/", group="payouts.modern_treasury")
    drain(groups=EVERYTHING)
    assert ready.payout().status == "in_transit"
    assert len(orders(bank)) == 1
    chain = text(operator.get(f"{event_page}change/"))
    assert "replay payout.approved" in chain
    copy = OutboxEvent.objects.get(headers__has_key="replay")
    assert "cause payout.approved #1" in text(operator.get(f"/admin/outbox/outboxevent/{copy.pk}/change/"))


def test_all_that_are_parked_for_the_same_error_go_on_together(
    parked: OutboxStream, browser: Callable[[str], Client]
) -> None:
    names = ("group", "lane", "last_error", "parked_at", "pending_since")
    alike = {name: getattr(parked, name) for name in names}
    for n in range(3):
        OutboxStream.objects.create(
            aggregate_type="payout", aggregate_id=f"p{n}", parked_reason=parked.parked_reason, **alike
        )
    by_hand = OutboxStream.objects.create(
        aggregate_type="payout", aggregate_id="p9", parked_reason="user:1: wait", **alike
    )
    operator = browser("operator")
    url = f"/admin/outbox/outboxstream/{parked.pk}/do/resume-alike/"
    shown = operator.get(url)
    assert "4 streams of payouts.modern_treasury" in text(shown)
    seen = re.search(r'name="fingerprint" value="([0-9a-f]{64})"', shown.content.decode())
    assert seen
    fields = {"reason": "x", "fingerprint": seen[1], "expected": "3"}
    assert operator.post(url, fields).status_code == 409
    assert OutboxStream.objects.filter(parked_at__isnull=False).count() == 5
    assert operator.post(url, {**fields, "expected": "4"}).status_code == 302
    assert list(OutboxStream.objects.filter(parked_at__isnull=False)) == [by_hand]
    assert browser("viewer").get(url).status_code == 403


def test_a_providers_line_is_paused_and_resumed_in_the_console(
    ready: Any, bank: Any, browser: Callable[[str], Client]
) -> None:
    operator = browser("operator")
    line = link(operator.get("/admin/"), "/admin/outbox/circuit/modern_treasury/change/").removesuffix(
        "change/"
    )
    assert "answers" in text(operator.get(f"{line}change/"))
    press(operator, f"{line}do/pause/")
    drain(groups=EVERYTHING)
    assert orders(bank) == []
    assert ready.payout().status == "approved"
    assert "As agreed with the bank." in text(operator.get("/admin/outbox/circuit/"))
    press(operator, f"{line}do/resume/")
    drain(groups=EVERYTHING)
    assert len(orders(bank)) == 1
    assert operator.get("/admin/outbox/circuit/local/do/pause/").status_code == 404
    assert browser("viewer").get(f"{line}do/pause/").status_code == 403
