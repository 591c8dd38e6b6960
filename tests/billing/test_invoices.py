"""Invoices: rated again from the contract, numbered without gaps, and issued only when they agree."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from billing import services
from billing.models import Invoice, InvoiceLine, NumberSeries
from billing.rules.rating import rate_period
from billing.services import verification
from billing.services.invoices import apply_invoice
from billing.services.rate_cards import item_key
from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console.services import resolve_review
from commerce.errors import PermissionDenied, StateConflict
from commerce.parties.models import Organization
from commerce.providers import openmeter as provider
from contracts.services import contract_edits
from tests.billing.conftest import (
    APRIL,
    CUT,
    MARCH,
    SYSTEM,
    Deal,
    OpenMeter,
    World,
    findings,
    happened,
    now,
    parked,
    posted,
    reviews,
    usd,
    wallet,
    work,
)

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def cut(openmeter: OpenMeter) -> None:
    """The period ends, OpenMeter cuts its invoices and we hear of each."""
    openmeter.at(CUT)
    openmeter.tell()


def overcharge(openmeter: OpenMeter, amount: str, **more: Any) -> None:
    answer = openmeter.sandbox.control.post("/openmeter/overcharge", json={"amount": amount, **more})
    assert answer.status_code == 201


def facts(deal: Deal) -> dict[str, Any]:
    names = ("number", "status", "net_minor", "tax_minor", "total_minor", "paid_minor", "provider_status")
    return {name: getattr(deal.invoice, name) for name in names}


@pytest.fixture
def deal(openmeter: OpenMeter, world: World) -> Deal:
    return world.live()


def test_an_invoice_that_agrees_is_numbered_issued_and_collected(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    openmeter.at(MARCH + 5 * DAY)
    deal.use("100")
    work()
    cut(openmeter)
    assert facts(deal) == {
        "number": "INV-2027-000001", "status": "paid", "net_minor": 3_620_000, "tax_minor": 298_650,
        "total_minor": 3_918_650, "paid_minor": 3_918_650, "provider_status": "payment_processing.pending",
    }  # fmt: skip
    assert [line.net_minor for line in deal.invoice.lines.order_by("net_minor")] == [20_000, 3_600_000]
    assert wallet(world.acme) == (usd("110,813.50"), 0, 0)
    assert deal.account.invoiced_through == APRIL
    assert (parked(), findings()) == ([], [])


def test_a_poll_makes_up_for_every_lost_webhook(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    for _ in range(3):
        services.poll_invoices(actor=SYSTEM, at=now())
        work()
    assert (deal.invoice.status, deal.invoice.total_minor) == ("paid", 3_897_000)
    assert openmeter.counts("payment_status") == {deal.invoice.provider_id: 1}
    assert openmeter.counts("issuing_synchronized") == {deal.invoice.provider_id: 1}


def test_webhooks_and_polls_together_have_one_result(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    for _ in range(3):
        openmeter.tell()
        services.poll_invoices(actor=SYSTEM, at=now())
    work()
    assert (Invoice.objects.count(), posted("collect"), happened("invoice.paid")) == (1, 1, 1)
    assert openmeter.counts("issuing_synchronized") == {deal.invoice.provider_id: 1}
    assert NumberSeries.objects.get().last == 1


def test_a_quiet_poll_asks_for_two_lists_and_no_more(openmeter: OpenMeter, deal: Deal) -> None:
    cut(openmeter)
    services.poll_invoices(actor=SYSTEM, at=now())
    before = openmeter.requests()
    assert services.poll_invoices(actor=SYSTEM, at=now()) == 0
    assert openmeter.requests() == before + 2


def test_an_older_reading_is_a_no_op(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    [id_] = openmeter.invoice_ids()
    old = provider.client().invoice(id_)
    openmeter.tell()
    after = facts(deal)
    openmeter.at(CUT + DAY)
    services.refresh_invoice(provider_id=id_, actor=SYSTEM, at=now())
    apply_invoice(provider=old, actor=SYSTEM, at=now())
    assert facts(deal)["provider_status"] == "paid"
    assert {**facts(deal), "provider_status": ""} == {**after, "provider_status": ""}


def test_a_difference_stops_the_invoice_and_asks_a_person(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    overcharge(openmeter, "5.00", item_key=item_key(deal.servers))
    before = wallet(world.acme)
    cut(openmeter)
    services.poll_invoices(actor=SYSTEM, at=now())
    work()
    assert facts(deal) == {
        "number": None, "status": "draft", "net_minor": 3_600_000, "tax_minor": 297_000,
        "total_minor": 3_897_000, "paid_minor": 0, "provider_status": "issuing.syncing",
    }  # fmt: skip
    [item] = reviews("invoice_difference")
    assert item.value_minor == 500
    assert item.evidence["differences"] == [
        {
            "line_id": str(deal.servers), "ours_minor": 3_600_000, "theirs_minor": 3_600_500,
            "allowed_minor": 0, "expected": [],
        }
    ]  # fmt: skip
    assert wallet(world.acme) == before
    assert (happened("invoice.verified"), happened("invoice.issued"), posted("collect")) == (0, 0, 0)
    assert openmeter.counts("issuing_synchronized") == {}
    assert not InvoiceLine.objects.exists()
    assert not NumberSeries.objects.exists()
    assert findings() == []


def test_accepted_it_is_issued_and_collected_with_our_amounts(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    overcharge(openmeter, "5.00", item_key=item_key(deal.servers))
    cut(openmeter)
    services.accept_invoice(invoice=deal.invoice, actor=SYSTEM, at=now(), reason="ours is right")
    work()
    assert facts(deal)["number"] == "INV-2027-000001"
    assert (deal.invoice.status, deal.invoice.total_minor) == ("paid", 3_897_000)
    assert deal.invoice.provider_net_minor == 3_600_500
    assert wallet(world.acme)[0] == usd("111,030.00")
    assert reviews("invoice_difference") == []
    with pytest.raises(StateConflict):
        services.accept_invoice(invoice=deal.invoice, actor=SYSTEM, at=now(), reason="again")
    assert (posted("collect"), findings()) == (1, [])


def test_only_who_may_verify_accepts_and_only_what_differs(openmeter: OpenMeter, deal: Deal) -> None:
    overcharge(openmeter, "5.00", item_key=item_key(deal.servers))
    cut(openmeter)
    nobody = Actor(type="user", id="7")
    with pytest.raises(PermissionDenied):
        services.accept_invoice(invoice=deal.invoice, actor=nobody, at=now(), reason="mine")
    assert (deal.invoice.status, deal.invoice.number) == ("draft", None)


def test_over_http_the_platform_accepts_and_the_buyer_does_not(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    overcharge(openmeter, "5.00", item_key=item_key(deal.servers))
    cut(openmeter)

    def accept(organization: Any, key: str, body: Any) -> Any:
        scopes = ("invoices:read", "invoices:write")
        _, plain = issue_key(organization=organization, scopes=scopes, label="test", actor=SYSTEM, at=MARCH)
        return Client(raise_request_exception=False).post(
            f"/api/v1/invoices/{deal.invoice.pk}/accept/",
            body,
            "application/json",
            headers={"Authorization": f"Bearer {plain}", "Idempotency-Key": key},
        )

    assert accept(world.acme, "a", {"reason": "please"}).status_code == 403
    assert accept(world.northwind, "b", {"reason": "please"}).status_code in (403, 404)
    assert accept(world.platform, "c", {}).status_code == 400
    assert deal.invoice.status == "draft"
    answer = accept(world.platform, "d", {"reason": "ours is right"})
    assert (answer.status_code, answer.json()["number"]) == (200, "INV-2027-000001")


def test_a_rating_that_has_changed_since_it_was_shown_is_not_accepted(
    openmeter: OpenMeter, deal: Deal
) -> None:
    overcharge(openmeter, "5.00", item_key=item_key(deal.servers))
    cut(openmeter)
    deal.use("10", days=3)
    with pytest.raises(StateConflict) as refused:
        services.accept_invoice(invoice=deal.invoice, actor=SYSTEM, at=now(), reason="ok")
    assert refused.value.code == "rating_changed"
    assert deal.invoice.number is None
    services.poll_invoices(actor=SYSTEM, at=now())
    services.accept_invoice(invoice=deal.invoice, actor=SYSTEM, at=now(), reason="ok")
    assert deal.invoice.net_minor == 3_602_000


def test_a_difference_that_settles_itself_leaves_no_question(openmeter: OpenMeter, deal: Deal) -> None:
    """OpenMeter counted usage that we learn of a moment later."""
    overcharge(openmeter, "20.00", item_key=item_key(deal.burst))
    cut(openmeter)
    assert len(reviews("invoice_difference")) == 1
    deal.use("10", days=3)
    services.poll_invoices(actor=SYSTEM, at=now())
    work()
    assert (deal.invoice.status, deal.invoice.net_minor) == ("paid", 3_602_000)
    assert reviews("invoice_difference") == []


def test_numbers_have_no_gaps_even_when_transactions_roll_back(world: World) -> None:
    taken = []
    for fails in (False, True, True, False, True, False):
        try:
            with transaction.atomic():
                number = verification._next_number("INV-2027")
                if fails:
                    raise ZeroDivisionError
                taken.append(number)
        except ZeroDivisionError:
            pass
    assert taken == ["INV-2027-000001", "INV-2027-000002", "INV-2027-000003"]


def test_a_subscription_that_came_late_leaves_no_time_unbilled(openmeter: OpenMeter, world: World) -> None:
    """OpenMeter was away for three days when the contract went live."""
    world.pay_in("150,000.00")
    deal = world.signed()
    deal.edit("activate", {"stage": "live"})
    openmeter.at(MARCH + 3 * DAY)
    work()
    assert openmeter.effects("subscription")[0]["active_from"].startswith("2027-03-04")
    cut(openmeter)
    assert (deal.invoice.status, deal.invoice.net_minor) == ("draft", 3_600_000)
    assert deal.invoice.period_start == MARCH
    assert deal.invoice.provider_net_minor < 3_300_000
    services.accept_invoice(invoice=deal.invoice, actor=SYSTEM, at=now(), reason="OpenMeter was away")
    work()
    openmeter.at(APRIL + 30 * DAY + timedelta(hours=1))
    openmeter.tell()
    second = Invoice.objects.exclude(pk=deal.account.invoices.earliest("id").pk).get()
    assert (second.period_start, second.net_minor) == (APRIL, 3_600_000)


def test_an_invoice_behind_one_in_review_bills_its_own_month_only(openmeter: OpenMeter, deal: Deal) -> None:
    overcharge(openmeter, "5.00", item_key=item_key(deal.servers))
    cut(openmeter)
    openmeter.at(APRIL + 30 * DAY + timedelta(hours=1))
    openmeter.tell()
    first, second = Invoice.objects.order_by("period_start")
    assert (first.status, second.period_start, second.net_minor) == ("draft", APRIL, 3_600_000)
    assert second.number == "INV-2027-000001"


def test_an_invoice_heard_of_before_the_one_before_it_waits_for_it(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    openmeter.at(APRIL + 30 * DAY + timedelta(hours=1))
    first, second = openmeter.invoice_ids()
    openmeter.tell(second)
    assert deal.invoice.status == "draft", "two months against one is a difference"
    openmeter.tell(first)
    services.poll_invoices(actor=SYSTEM, at=now())
    work()
    assert [row.net_minor for row in Invoice.objects.filter(number__isnull=False)] == [3_600_000] * 2
    assert reviews("invoice_difference") == []


def test_changes_within_the_period_are_billed_for_what_was_served(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("suspend", {"reason": "maintenance", "billing": "stop"})
    work()
    openmeter.at(MARCH + 20 * DAY)
    deal.edit("resume", {"reason": "maintenance"})
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    work()
    cut(openmeter)
    # 36,000 × 10/31 + 54,000 × 11/31
    assert [line.net_minor for line in deal.invoice.lines.order_by("start")] == [1_161_290, 1_916_129]
    assert deal.invoice.number


def test_an_invoice_is_rated_after_the_subscription_has_followed(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    [id_] = openmeter.invoice_ids()
    assert services.poll_invoices(actor=SYSTEM, at=now()) == 0
    assert not Invoice.objects.exists()
    work()
    openmeter.tell(id_)
    assert deal.invoice.status == "paid"


def test_one_invoice_that_cannot_be_applied_holds_up_no_other(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    other = world.live()
    openmeter.at(CUT)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    services.poll_invoices(actor=SYSTEM, at=now())
    assert Invoice.objects.get().contract == other.contract


def test_what_openmeter_issued_by_itself_is_verified_all_the_same(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    [id_] = openmeter.invoice_ids()
    provider.client().issuing_synchronized(id_, number="THEIRS-1", sent_at=now())
    openmeter.tell()
    assert (deal.invoice.number, deal.invoice.status) == ("INV-2027-000001", "paid")


def test_an_unknown_customers_invoice_is_asked_about_once(openmeter: OpenMeter, deal: Deal) -> None:
    openmeter.at(CUT)
    type(deal.sync).objects.update(customer_key="nobody", subscription_id="nothing")
    services.poll_invoices(actor=SYSTEM, at=now())
    [item] = reviews("unknown_invoice")
    assert not Invoice.objects.exists()
    resolve_review(item=item, code="not_an_issue", actor=SYSTEM, at=now(), reason="a test of theirs")
    services.poll_invoices(actor=SYSTEM, at=now())
    assert len(reviews("unknown_invoice", resolved=True)) == 1
    assert reviews("unknown_invoice") == []


def test_a_draft_deleted_by_the_provider_is_void_and_its_question_closed(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    openmeter.at(APRIL)
    openmeter.tell()
    [id_] = openmeter.invoice_ids()
    assert deal.invoice.status == "draft"
    assert openmeter.sandbox.om.delete(f"/billing/invoices/{id_}").status_code == 204
    openmeter.tell(id_)
    openmeter.tell("01J0000000000000000000NONE")
    assert parked() == []
    assert (deal.invoice.status, deal.invoice.number) == ("voided", None)
    assert (posted("collect"), deal.account.billing_status) == (0, "not_billing")


def test_an_owed_invoice_voided_by_the_provider_is_owed_no_more_and_a_person_hears_of_it(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live(fund="10,000.00")
    cut(openmeter)
    assert (deal.invoice.status, deal.account.billing_status) == ("issued", "invoiced")
    url = f"/apps/custom-invoicing/{deal.invoice.provider_id}/payment/status"
    assert openmeter.sandbox.om.post(url, json={"trigger": "void"}).status_code == 200
    openmeter.tell()
    assert (deal.invoice.status, deal.account.billing_status) == ("voided", "current")
    assert deal.invoice.number == "INV-2027-000001", "a number is never given twice"
    [item] = reviews("invoice_withdrawn")
    assert item.value_minor == 3_897_000
    world.pay_in("50,000.00")
    assert posted("collect") == 0


def test_a_month_is_rated_by_itself_when_an_invoice_covers_two(world: World, clock: Any) -> None:
    world.tell(world.payment("150,000.00"))
    deal = world.draft(downpayment="0")
    for stage in ("submit", "signed", "live"):
        deal.edit("activate", {"stage": stage})
    lines = rate_period(
        contract_edits(deal.contract.pk),
        owner_epoch=1,
        start=MARCH,
        end=APRIL + 15 * DAY,
        usage=lambda line_id, start, end: Decimal(0),
    )
    assert [(line.start, line.net_minor) for line in lines] == [(MARCH, 3_600_000), (APRIL, 1_800_000)]


def test_each_seller_of_a_line_has_its_part_of_a_minimum_on_the_invoice(
    openmeter: OpenMeter, world: World, deal: Deal
) -> None:
    price = {"model": "unit", "rate": "2.00", "min_minor": usd("1,000.00")}
    deal.edit("change_price", {"line_id": str(deal.burst), "price": price})
    Organization.objects.filter(pk=world.southwind.pk).update(onboarding_status="active")
    openmeter.at(MARCH + 10 * DAY)
    parties = [world.northwind, world.southwind]
    consents = [{"party": str(one.pk), "name": one.name, "at": MARCH.isoformat()} for one in parties]
    sold = {"party": "seller", "new_party_id": str(world.southwind.pk), "consents": consents}
    deal.edit("transfer_ownership", sold)
    work()
    cut(openmeter)
    assert deal.invoice.differences == []
    missing = deal.invoice.lines.filter(kind="true_up").order_by("net_minor")
    assert [(line.line_id, line.seller_id, line.net_minor) for line in missing] == [
        (deal.burst, world.northwind.pk, 32_258),
        (deal.burst, world.southwind.pk, 67_742),
    ]
