"""Whose invoice, whose account and whose money it is when a transfer is corrected, early, or soon undone."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import RequestFactory

from billing import services
from billing.admin.pages import contract_billing
from billing.models import BillingAccount, Invoice
from billing.services.invoices import _billed_period
from billing.services.subscriptions import is_behind
from commerce.errors import StateConflict
from commerce.parties.models import Organization
from commerce.states import transition
from contracts.services import take_effect_due
from tests.billing.conftest import (
    APRIL,
    CUT,
    MARCH,
    SYSTEM,
    Deal,
    OpenMeter,
    World,
    findings,
    now,
    parked,
    reviews,
    usd,
    waiting,
    wallet,
    work,
)
from tests.billing.test_collection import owe
from tests.billing.test_drift import check
from tests.billing.test_following import globex, subscriptions, to, transfer  # noqa: F401
from tests.billing.test_prepayments import ID, prepay, refused

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def initech(db: None) -> Organization:
    row = Organization.objects.create(name="Initech", slug="initech", roles=["buyer"])
    Organization.objects.filter(pk=row.pk).update(onboarding_status="active")
    return row


def agreed(old: Organization, new: Organization) -> dict[str, Any]:
    consents = [{"party": str(one.pk), "name": one.name, "at": "2027-03-01T00:00:00Z"} for one in (old, new)]
    return {"party": "buyer", "new_party_id": str(new.pk), "consents": consents}


def void(deal: Deal, seq: int = 5) -> None:
    deal.edit("correct", {"target_seq": seq, "mode": "void"}, reason="typed by mistake")
    work()


def account(deal: Deal, buyer: Organization) -> BillingAccount:
    return BillingAccount.objects.get(contract=deal.contract, buyer=buyer)


def test_a_transfer_after_one_that_was_voided_bills_its_own_buyer(
    openmeter: OpenMeter,
    world: World,
    globex: Organization,  # noqa: F811
    initech: Organization,
    to: Callable[[datetime], None],  # noqa: F811
) -> None:
    deal = world.live()
    to(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    to(MARCH + 11 * DAY)
    void(deal)
    assert account(deal, world.acme).billing_status != "settled"
    to(MARCH + 12 * DAY)
    transfer(deal, world.acme, initech)
    customer = openmeter.sandbox.om.get(f"/customers/{deal.sync.customer_id}").json()
    assert customer["metadata"]["organization_id"] == str(initech.pk)
    for at in (MARCH + 12 * DAY + 2 * HOUR, APRIL, CUT, CUT + HOUR):
        to(at)
    owed = Invoice.objects.filter(contract=deal.contract, verified_at__isnull=False)
    assert not owed.filter(buyer=globex).exists(), "the contract never was its own"
    assert reviews("unowned_invoice"), "a person hears that OpenMeter bills it"
    [march] = owed.filter(buyer=initech)
    assert (march.period_start, march.period_end) == (MARCH + 12 * DAY, APRIL)
    assert march.net_minor == 3600000 - 3600000 * 12 // 31
    assert account(deal, globex).billing_status == "settled"
    assert parked() == waiting() == []
    assert findings() == []


def test_a_transfer_that_is_replaced_by_one_to_another_buyer_bills_that_one(
    openmeter: OpenMeter,
    world: World,
    globex: Organization,  # noqa: F811
    initech: Organization,
    to: Callable[[datetime], None],  # noqa: F811
) -> None:
    deal = world.live()
    to(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    to(MARCH + 11 * DAY)
    replacement = {"payload": agreed(world.acme, initech), "effective_at": (MARCH + 10 * DAY).isoformat()}
    deal.edit("correct", {"target_seq": 5, "mode": "replace", "replacement": replacement}, reason="another")
    work()
    assert account(deal, globex).billing_status == "settled"
    assert account(deal, initech).billing_status == "not_billing"
    for at in (MARCH + 12 * DAY, APRIL, CUT, CUT + HOUR):
        to(at)
    invoices = Invoice.objects.filter(contract=deal.contract)
    assert not invoices.filter(buyer=globex, verified_at__isnull=False).exists()
    theirs = invoices.get(buyer=initech)
    assert (theirs.period_start, theirs.period_end) == (MARCH + 10 * DAY, APRIL)
    assert parked() == waiting() == []


def test_a_settled_account_whose_termination_in_the_trial_is_voided_comes_back(
    world: World, clock: Any
) -> None:
    deal = world.live(trial={"days": 14, "on_end": "convert"})
    before = wallet(world.acme)
    clock(MARCH + DAY)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert (deal.account.billing_status, wallet(world.acme)[1:]) == ("settled", (0, 0))
    void(deal)
    assert deal.account.billing_status == "not_billing"
    assert wallet(world.acme) == before
    assert before[1] == usd("10,000.00")
    assert parked() == []
    assert findings() == []


def shown(deal: Deal, **asked: datetime) -> str:
    """The billing of the contract's page, at the instants asked for."""
    query = {name: at.isoformat() for name, at in asked.items()}
    return str(contract_billing(deal.contract, RequestFactory().get("/", query)))


def test_the_contracts_page_shows_the_account_of_the_instant_that_is_looked_at(
    world: World,
    globex: Organization,  # noqa: F811
    clock: Any,
) -> None:
    deal = world.live()
    clock(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    hers, theirs = str(account(deal, world.acme).pk), str(account(deal, globex).pk)
    assert theirs in shown(deal)
    assert hers not in shown(deal)
    before = shown(deal, valid_at=MARCH + 9 * DAY)
    assert hers in before
    assert theirs not in before
    assert "is of now" in before
    assert "is of now" not in shown(deal)
    learned = deal.contract.edits.get(operation="transfer_ownership").recorded_at
    unaware = shown(deal, known_at=learned - timedelta(microseconds=1))
    assert hers in unaware
    assert theirs not in unaware
    assert theirs in shown(deal, known_at=learned)
    nothing = shown(deal, known_at=deal.contract.edits.get(seq=1).recorded_at - HOUR)
    assert hers not in nothing
    assert theirs not in nothing


def test_after_a_transfer_was_voided_the_contracts_page_shows_the_account_in_force(
    world: World,
    globex: Organization,  # noqa: F811
    clock: Any,
) -> None:
    deal = world.live()
    clock(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    void(deal)
    assert str(account(deal, world.acme).pk) in shown(deal)
    assert str(account(deal, globex).pk) not in shown(deal), "the newest one, and not the owner's"


def test_an_owner_who_comes_back_sets_money_aside_again_and_who_goes_gets_it_back(
    world: World,
    globex: Organization,  # noqa: F811
    clock: Any,
) -> None:
    deal = world.live()
    before = wallet(world.acme)
    clock(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    deal.edit("correct", {"target_seq": 5, "mode": "void"}, reason="typed by mistake")
    work()
    assert wallet(world.acme) == before
    assert account(deal, globex).committed_wanted_minor == 0
    assert findings() == []


def test_a_transfer_and_an_end_before_openmeter_followed_end_the_old_owners_subscription(
    openmeter: OpenMeter,
    world: World,
    globex: Organization,  # noqa: F811
) -> None:
    deal = world.live()
    first = deal.sync
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("transfer_ownership", agreed(world.acme, globex))
    openmeter.at(MARCH + 10 * DAY + HOUR)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert [one["status"] for one in subscriptions(openmeter, first)] == ["inactive"]
    assert deal.sync == first, "there is nothing to bill the other owner for at OpenMeter"
    assert not is_behind(deal.contract.pk)
    assert deal.sync.ended_at == MARCH + 10 * DAY + HOUR
    assert parked() == waiting() == []


def test_what_was_not_followed_for_long_is_no_reason(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    openmeter.at(MARCH + HOUR)
    found = check(deal)
    assert found
    assert not any("OpenMeter has followed" in why for reasons in found.values() for why in reasons)


def test_after_a_transfer_a_contract_goes_live_with_the_new_owners_downpayment_only(
    world: World,
    globex: Organization,  # noqa: F811
) -> None:
    world.pay_in("150,000.00")
    deal = world.signed()
    asked = account(deal, world.acme)
    transfer(deal, world.acme, globex)
    assert wallet(world.acme) == (usd("150,000.00"), 0, 0)
    theirs = account(deal, globex)
    assert theirs.downpayment_wanted_minor == usd("10,000.00")
    assert theirs.committed_wanted_minor == asked.committed_minor == usd("28,970.00")
    with pytest.raises(StateConflict, match=r"10,000\.00 USD is missing") as refused:
        deal.edit("activate", {"stage": "live"})
    assert refused.value.code == "downpayment_unfunded"
    assert deal.status == "pending_activation"


def draft(deal: Deal, provider_id: str, start: datetime, end: datetime, **more: Any) -> Invoice:
    whose = deal.account
    invoice = Invoice(
        account=whose, contract=deal.contract, buyer=whose.buyer, currency="USD", provider="openmeter",
        provider_id=provider_id, provider_updated_at=now(), provider_status="draft", **more,
    )  # fmt: skip
    period = _billed_period(invoice, whose, start, end)
    assert period
    invoice.period_start, invoice.period_end = period
    invoice.save()
    return invoice


def test_an_invoice_that_comes_after_its_successor_bills_time_of_its_own(
    world: World,
    globex: Organization,  # noqa: F811
    clock: Any,
) -> None:
    deal = world.live()
    since, may = MARCH + 15 * DAY, APRIL + 30 * DAY
    clock(since)
    transfer(deal, world.acme, globex)
    april = draft(deal, "april", APRIL, may)
    assert (april.period_start, april.period_end) == (since, may)
    march = draft(deal, "march", since + HOUR, APRIL)
    assert (march.period_start, march.period_end) == (since + HOUR, APRIL)
    assert _billed_period(april, deal.account, APRIL, may) == (APRIL, may), "read again, it knows its own"
    assert _billed_period(march, deal.account, MARCH, since) is None, "all of it was another owner's"


def test_a_draft_that_was_withdrawn_has_billed_nothing(world: World, clock: Any) -> None:
    deal = world.live()
    clock(APRIL)
    withdrawn = draft(deal, "withdrawn", MARCH, APRIL - HOUR)
    services.refresh_status(account_id=deal.account.pk, actor=SYSTEM, at=now())
    transition(withdrawn, "void", actor=SYSTEM, at=now())
    again = draft(deal, "again", MARCH + HOUR, APRIL)
    assert (again.period_start, again.period_end) == (MARCH, APRIL)


def test_of_a_prepayment_of_later_only_what_was_not_drawn_before_is_set_aside(
    world: World, clock: Any
) -> None:
    deal = world.live()
    prepay(deal, "12,000.00", effective_at=MARCH + 5 * DAY)
    owe(deal)
    work()
    assert deal.account.downpayment_drawn_minor == usd("10,000.00")
    clock(MARCH + 5 * DAY)
    take_effect_due(at=now())
    work()
    assert wallet(world.acme)[1] == deal.account.downpayment_minor == usd("2,000.00")
    assert deal.account.downpayment_wanted_minor == 0
    payload = {"commitment_id": ID, "kind": "prepaid", "amount_minor": usd("13,000.00")}
    assert refused(deal, "set_commitment", payload).code == "downpayment_already_drawn"
    assert findings() == []


def test_a_prepayment_may_change_after_a_transfer_when_the_new_owners_was_not_drawn(
    world: World,
    globex: Organization,  # noqa: F811
    clock: Any,
) -> None:
    deal = world.live()
    clock(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    deal.edit("set_commitment", {"commitment_id": ID, "mode": "end", "kind": "prepaid"})
    work()
    assert account(deal, globex).downpayment_wanted_minor == 0
    assert parked() == []
    assert findings() == []


def test_nobody_accepts_an_invoice_for_a_buyer_whose_transfer_was_voided(
    world: World,
    globex: Organization,  # noqa: F811
    clock: Any,
) -> None:
    deal = world.live()
    clock(MARCH + 10 * DAY)
    transfer(deal, world.acme, globex)
    wrong = draft(deal, "wrong", MARCH + 10 * DAY, APRIL, differences=[{"delta": 1}])
    void(deal)
    with pytest.raises(StateConflict) as refused:
        services.accept_invoice(invoice=wrong, actor=SYSTEM, at=now(), reason="as agreed")
    assert refused.value.code == "not_the_owner"
    wrong.refresh_from_db()
    assert (wrong.verified_at, wrong.number) == (None, None)
