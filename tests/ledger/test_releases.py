"""Seasoned money is released once, at its instant, and never while somebody holds it."""

from datetime import datetime, timedelta

import pytest

from commerce.actor import Actor
from commerce.console.models import ReviewItem
from commerce.errors import Conflict, InvalidInput, PermissionDenied, StateConflict
from commerce.models import TransitionLog
from commerce.outbox.models import OutboxEvent
from ledger.models import LedgerRelease, LedgerTransaction
from ledger.rules import recipes
from ledger.services import cancel_release, hold_release, lift_release, release_due, schedule_release
from ledger.tasks import release_due_money
from tests.ledger.conftest import ACTOR, AT, holds, usd

DUE = AT + timedelta(days=7)


@pytest.fixture
def holding(people, posted):
    """Northwind has 100.00 in holding."""
    nothing = usd("0")
    posted(
        "fund_wallet",
        recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("100")),
        "f",
    )
    entries = recipes.collect(
        platform=people.platform,
        buyer=people.acme,
        from_downpayment=nothing,
        from_committed=nothing,
        from_available=usd("100"),
        tax=nothing,
        fee=nothing,
        payees={people.northwind: usd("100")},
    )
    posted("collect", entries, "c")
    return people


def schedule(people, amount="60", key="leg:1", due_at=DUE, source="settlement:1"):
    return schedule_release(
        owner=people.northwind, amount=usd(amount), due_at=due_at, source=source, key=key, at=AT, actor=ACTOR
    )


def released_events():
    return list(OutboxEvent.objects.filter(type="ledger.released").order_by("id"))


def test_a_release_happens_at_its_instant_and_tells_of_it_once(holding):
    row = schedule(holding)
    assert release_due(at=DUE - timedelta(microseconds=1), actor=ACTOR) == 0
    assert (holds(holding.northwind, "PAYABLE"), released_events()) == (usd("0"), [])

    assert release_due(at=DUE, actor=ACTOR) == 1
    assert release_due(at=DUE, actor=ACTOR) == 0
    row.refresh_from_db()
    assert (row.status, row.transaction.recipe, row.transaction.effective_at) == ("released", "release", DUE)
    assert holds(holding.northwind, "PAY_IN_HOLDING") == usd("40")
    assert holds(holding.northwind, "PAYABLE") == usd("60")
    (event,) = released_events()
    assert (event.aggregate_type, event.aggregate_id) == ("ledger_release", str(row.pk))
    assert event.payload == {
        "release_id": str(row.pk),
        "owner_id": str(holding.northwind),
        "amount_minor": 6000,
        "currency": "USD",
        "source": "settlement:1",
        "transaction_id": str(row.transaction_id),
    }


def test_the_task_releases_by_the_business_clock(holding, clock):
    schedule(holding)
    clock(DUE - timedelta(seconds=1))
    assert release_due_money() == 0
    clock(DUE)
    assert release_due_money() == 1


def test_the_oldest_are_released_first_up_to_the_limit(holding):
    for day in range(5, 0, -1):
        schedule(holding, "10", key=f"leg:{day}", due_at=AT + timedelta(days=day))
    assert release_due(at=DUE, actor=ACTOR, limit=2) == 2
    assert sorted(LedgerRelease.objects.filter(status="released").values_list("key", flat=True)) == [
        "leg:1",
        "leg:2",
    ]


def test_scheduling_again_gives_the_first_row_and_other_content_is_a_conflict(holding):
    row = schedule(holding)
    assert schedule(holding) == row
    assert schedule(holding, due_at=DUE + timedelta(days=1)).due_at == DUE
    for change in ({"amount": "61"}, {"source": "settlement:2"}):
        with pytest.raises(Conflict, match=r"used before for a release of 60\.00 USD"):
            schedule(holding, **change)
    assert LedgerRelease.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": "0"}, "amount_not_positive"),
        ({"amount": "-1"}, "amount_not_positive"),
        ({"due_at": datetime(2027, 3, 8)}, "invalid_instant"),
    ],
)
def test_bad_schedules_are_refused(holding, change, code):
    with pytest.raises(InvalidInput) as refused:
        schedule(holding, **change)
    assert refused.value.code == code
    assert not LedgerRelease.objects.exists()


def test_a_held_release_waits_until_the_hold_is_lifted(holding):
    row = schedule(holding)
    hold_release(release=row, actor=ACTOR, at=AT, reason="buyer disputes the hours")
    assert release_due(at=DUE, actor=ACTOR) == 0
    assert holds(holding.northwind, "PAYABLE") == usd("0")
    lift_release(release=row, actor=ACTOR, at=DUE, reason="dispute withdrawn")
    assert release_due(at=DUE, actor=ACTOR) == 1
    assert list(TransitionLog.objects.order_by("id").values_list("name", "reason")) == [
        ("hold", "buyer disputes the hours"),
        ("lift", "dispute withdrawn"),
        ("release", ""),
    ]


def test_a_cancelled_release_leaves_the_money_in_holding_for_good(holding):
    row = schedule(holding)
    cancel_release(release=row, actor=ACTOR, at=AT, reason="invoice reversed")
    assert release_due(at=DUE, actor=ACTOR) == 0
    assert holds(holding.northwind, "PAY_IN_HOLDING") == usd("100")
    for verb in (hold_release, lift_release, cancel_release):
        with pytest.raises(StateConflict, match="is cancelled"):
            verb(release=row, actor=ACTOR, at=AT, reason="")


def test_released_money_cannot_be_held_or_cancelled(holding):
    row = schedule(holding)
    release_due(at=DUE, actor=ACTOR)
    for verb in (hold_release, lift_release, cancel_release):
        with pytest.raises(StateConflict, match="is released"):
            verb(release=row, actor=ACTOR, at=AT, reason="")
    assert holds(holding.northwind, "PAYABLE") == usd("60")


def test_each_verb_asks_for_its_permission(holding):
    row = schedule(holding)
    nobody = Actor(type="api_key", id="k", permissions=frozenset({"ledger.cancel_ledgerrelease"}))
    with pytest.raises(PermissionDenied, match="hold_ledgerrelease"):
        hold_release(release=row, actor=nobody, at=AT, reason="")
    cancel_release(release=row, actor=nobody, at=AT, reason="")


def test_a_release_whose_money_is_gone_is_held_and_does_not_stop_the_others(holding):
    short = schedule(holding, "70", key="leg:1", due_at=DUE - timedelta(days=1))
    fine = schedule(holding, "60", key="leg:2")
    gone = schedule(holding, "50", key="leg:3")
    assert release_due(at=DUE, actor=ACTOR) == 1
    for row in (short, fine, gone):
        row.refresh_from_db()
    assert [row.status for row in (short, fine, gone)] == ["released", "held", "held"]
    assert holds(holding.northwind, "PAY_IN_HOLDING") == usd("30")
    reason = TransitionLog.objects.get(object_id=str(gone.pk)).reason
    assert reason == "Northwind's PAY_IN_HOLDING account in USD holds 30.00 USD; 50.00 USD is needed."
    assert LedgerTransaction.objects.filter(recipe="release").count() == len(released_events()) == 1

    waiting = ReviewItem.objects.exclude(status="resolved")
    assert {item.subject_id for item in waiting} == {str(fine.pk), str(gone.pk)}
    cancel_release(release=gone, actor=ACTOR, at=DUE, reason="paid otherwise")
    assert [item.subject_id for item in waiting.all()] == [str(fine.pk)]
