"""A paid invoice becomes legs, legs season, and what is released is payable to its payee."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction

from commerce.errors import InvalidInput, PermissionDenied, StateConflict
from commerce.outbox import append, drain
from ledger.models import LedgerRelease
from ledger.services import cancel_release, hold_release, lift_release, release_due
from payouts import services
from payouts.models import Payout, Settlement, SettlementLeg
from tests.payouts.conftest import LOCAL_GROUPS, PAID, SEASONED, SYSTEM, holds, usd

pytestmark = pytest.mark.django_db


def statuses(settlement):
    return dict(settlement.legs.values_list("kind", "status"))


def test_tax_and_fee_are_final_at_once_and_payees_money_seasons(world):
    settlement = world.settle()
    assert settlement.status == "seasoning"
    assert statuses(settlement) == {
        "tax": "released", "fee": "released", "partner": "seasoning", "seller": "seasoning"
    }  # fmt: skip
    assert sum(settlement.legs.values_list("amount_minor", flat=True)) == 3_918_650
    assert set(settlement.legs.filter(release__isnull=False).values_list("releasable_at", flat=True)) == {
        SEASONED
    }
    assert holds(world.northwind, "PAYABLE") == usd("0")


def test_the_event_is_settled_once_however_often_it_is_told(world):
    payload = world.collect()
    with transaction.atomic():
        for _ in range(2):
            append("invoice", payload["invoice_id"], "invoice.paid", payload, at=PAID, actor=SYSTEM)
    drain(groups=LOCAL_GROUPS)
    services.plan_settlement(invoice=payload, actor=SYSTEM, at=PAID)
    assert Settlement.objects.count() == 1
    assert SettlementLeg.objects.count() == 4
    assert LedgerRelease.objects.count() == 2


def test_legs_that_do_not_add_up_settle_nothing(world):
    payload = world.collect(total_minor=1)
    with pytest.raises(InvalidInput, match="do not make up the invoice"):
        services.plan_settlement(invoice=payload, actor=SYSTEM, at=PAID)
    assert not Settlement.objects.exists()
    assert not LedgerRelease.objects.exists()


def test_money_is_released_when_it_has_seasoned_and_not_before(world):
    settlement = world.settle()
    world.release(at=SEASONED - timedelta(seconds=1))
    assert statuses(settlement)["seller"] == "seasoning"
    assert not Payout.objects.exists()
    world.release(at=SEASONED)
    settlement.refresh_from_db()
    assert settlement.status == "released"
    assert statuses(settlement)["seller"] == statuses(settlement)["partner"] == "released"


def test_an_invoice_that_is_all_tax_and_fee_is_complete_at_once(world):
    payload = world.collect()
    tax_and_fee = [leg for leg in payload["legs"] if leg["kind"] in ("tax", "fee")]
    total = sum(leg["amount_minor"] for leg in tax_and_fee)
    settlement = services.plan_settlement(
        invoice=payload | {"legs": tax_and_fee, "total_minor": total}, actor=SYSTEM, at=PAID
    )
    assert settlement.status == "completed"


def test_an_invoice_of_nothing_needs_no_settlement(world):
    payload = world.collect() | {"legs": [], "total_minor": 0, "transaction_id": None}
    assert services.plan_settlement(invoice=payload, actor=SYSTEM, at=PAID) is None
    assert not Settlement.objects.exists()


def test_a_held_leg_is_not_released_until_the_hold_is_lifted(world):
    settlement = world.settle()
    seller = settlement.legs.get(kind="seller")
    services.hold_leg(leg=seller, actor=SYSTEM, at=PAID, reason="dispute")
    settlement.refresh_from_db()
    assert settlement.status == "held"
    world.release()
    assert statuses(settlement)["seller"] == "held"
    assert statuses(settlement)["partner"] == "released"
    assert holds(world.northwind, "PAY_IN_HOLDING") == usd("31,675.00")
    services.lift_leg(leg=seller, actor=SYSTEM, at=SEASONED, reason="resolved")
    world.release()
    settlement.refresh_from_db()
    assert settlement.status == "released"
    assert world.payout().amount == usd("31,675.00")


def test_holding_needs_the_permission(world, person):
    leg = world.settle().legs.get(kind="seller")
    with pytest.raises(PermissionDenied):
        services.hold_leg(leg=leg, actor=person("viewer"), at=PAID, reason="x")
    leg.refresh_from_db()
    assert leg.status == "seasoning"


def test_a_hold_set_in_the_ledger_shows_on_the_leg(world):
    leg = world.settle().legs.get(kind="seller")
    hold_release(release=leg.release, actor=SYSTEM, at=PAID, reason="from the ledger")
    drain(groups=LOCAL_GROUPS)
    leg.refresh_from_db()
    assert leg.status == "held"
    lift_release(release=leg.release, actor=SYSTEM, at=PAID, reason="over")
    drain(groups=LOCAL_GROUPS)
    leg.refresh_from_db()
    assert leg.status == "seasoning"


def test_a_cancelled_release_leaves_the_leg_held_for_a_person(world):
    from commerce.console.models import ReviewItem

    leg = world.settle().legs.get(kind="seller")
    cancel_release(release=leg.release, actor=SYSTEM, at=PAID, reason="refund")
    drain(groups=LOCAL_GROUPS)
    leg.refresh_from_db()
    assert leg.status == "held"
    assert ReviewItem.objects.filter(kind="release_cancelled").count() == 1
    with pytest.raises(StateConflict):
        services.lift_leg(leg=leg, actor=SYSTEM, at=PAID, reason="try")


def test_a_release_heard_twice_pays_once(world):
    settlement = world.settle()
    world.release()
    services.release_leg(leg_id=settlement.legs.get(kind="seller").pk, actor=SYSTEM, at=SEASONED)
    assert Payout.objects.filter(payee=world.northwind).count() == 1


def test_what_a_payee_is_owed_cannot_be_rewritten(world):
    leg = world.settle().legs.get(kind="seller")
    for statement in (
        "UPDATE payouts_settlementleg SET amount_minor = 1 WHERE id = %s",
        "DELETE FROM payouts_settlementleg WHERE id = %s",
        "UPDATE payouts_settlementleg SET status = 'paid_out', released_at = now() WHERE id = %s",
    ):
        with pytest.raises(DatabaseError, match="may"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, [leg.pk])
    leg.refresh_from_db()
    assert (leg.amount, leg.status) == (usd("31,675.00"), "seasoning")


def test_releases_of_one_batch_leave_as_one_payout_with_both_legs(world):
    world.settle()
    world.settle(seller="100.00", partner="1.00")
    release_due(at=SEASONED, actor=SYSTEM)
    drain(groups=LOCAL_GROUPS)
    payout = Payout.objects.get(payee=world.northwind)
    assert payout.amount == usd("31,775.00")
    assert sorted(payout.items.values_list("amount_minor", flat=True)) == [10_000, 3_167_500]
    assert set(SettlementLeg.objects.filter(kind="seller").values_list("status", flat=True)) == {"released"}
