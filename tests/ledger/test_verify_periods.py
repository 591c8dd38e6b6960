"""`ledger_verify`: what was kept of closed periods, and what was posted into one after it was closed."""

import pytest

from commerce.actor import Actor
from ledger.models import LedgerAccount, LedgerEntry, LedgerPeriod, LedgerPeriodBalance, LedgerSeal
from ledger.services import verify_ledger
from ledger.services.periods import reopen
from tests.ledger.conftest import make_people
from tests.ledger.test_invariants import findings, tamper
from tests.ledger.test_periods import FEBRUARY, FIRST_OF_APRIL, IN_MARCH, LATER, MARCH, close, fund, seal

pytestmark = pytest.mark.django_db(transaction=True)
IN_FEBRUARY = IN_MARCH.replace(month=2)


@pytest.fixture
def people():
    """February and March are closed: $5 and $3 in them, $2 since, and $1 that is not sealed yet."""
    people = make_people()
    fund(people, "5", at=IN_FEBRUARY)
    fund(people, "3")
    close(FEBRUARY)
    close(MARCH)
    fund(people, "2", at=FIRST_OF_APRIL)
    seal()
    fund(people, "1", at=FIRST_OF_APRIL)
    assert findings() == {}
    return people


def kept(month):
    row = LedgerPeriodBalance.objects.get(account=wallet(), period__starts_on=month)
    return row, f"period:{row.period_id}/{row.account_id}"


def wallet():
    return LedgerAccount.objects.get(kind="AVAILABLE")


def change(month, sql):
    row, subject = kept(month)
    tamper(
        f"UPDATE ledger_ledgerperiodbalance SET {sql} WHERE period_id = %s AND account_id = %s",
        row.period_id,
        row.account_id,
    )
    return subject


def test_what_the_latest_period_opened_and_closed_with(people):
    subject = change(MARCH, "opening = opening + 500, closing = closing + 500")
    assert findings() == {"period_not_carried": [subject], "period_not_held": [subject]}


def test_what_an_earlier_period_opened_and_closed_with(people):
    _, next_month = kept(MARCH)
    subject = change(FEBRUARY, "opening = opening + 500, closing = closing + 500")
    assert sorted(findings().pop("period_not_carried")) == sorted([subject, next_month])
    assert list(findings()) == ["period_not_carried"]


def test_what_all_periods_opened_and_closed_with(people):
    first = change(FEBRUARY, "opening = opening + 500, closing = closing + 500")
    last = change(MARCH, "opening = opening + 500, closing = closing + 500")
    assert findings() == {"period_not_carried": [first], "period_not_held": [last]}


def test_a_closing_that_is_not_opening_and_movement(people):
    tamper("ALTER TABLE ledger_ledgerperiodbalance DROP CONSTRAINT period_balance_adds_up")
    subject = change(MARCH, "closing = closing + 1")
    assert findings() == {"period_not_carried": [subject], "period_not_held": [subject]}
    change(MARCH, "closing = closing - 1")
    tamper(
        "ALTER TABLE ledger_ledgerperiodbalance ADD CONSTRAINT period_balance_adds_up"
        " CHECK (closing = opening + credit - debit)"
    )


def test_what_moved_in_a_period(people):
    subject = change(MARCH, "debit = debit + 7, credit = credit + 7")
    assert findings() == {"period_not_sum": [subject]}


def test_a_kept_balance_that_is_gone(people):
    row, subject = kept(MARCH)
    tamper("DELETE FROM ledger_ledgerperiodbalance WHERE period_id = %s AND account_id = %s", *row.pk)
    assert findings() == {
        "period_not_sum": [subject],
        "period_not_carried": [subject],
        "period_not_held": [subject],
    }


def test_from_a_late_seal_on_the_latest_period_is_still_held_against_what_is_held_now(people):
    """Each look costs what was recorded lately and one month, however many are closed."""
    late = LedgerSeal.objects.latest("number").number + 1
    change(FEBRUARY, "debit = debit + 1, credit = credit + 1")
    assert list(verify_ledger(since=late)) == []
    assert [finding.type for finding in verify_ledger()] == ["period_not_sum"]
    change(FEBRUARY, "opening = opening + 500, closing = closing + 500")
    subject = change(MARCH, "opening = opening + 500, closing = closing + 500")
    assert [(f.type, f.subject) for f in verify_ledger(since=late)] == [("period_not_held", subject)]


def test_a_posting_into_a_month_that_was_closed_before(people):
    """As an owner would who opens the month, posts, and closes it as if nothing had been."""
    period = LedgerPeriod.objects.get(starts_on=MARCH)
    tamper("UPDATE ledger_ledgerperiod SET status = 'open' WHERE id = %s", period.pk)
    row = fund(people, "40", at=IN_MARCH)
    assert row.effective_at == IN_MARCH
    tamper("UPDATE ledger_ledgerperiod SET status = 'closed' WHERE id = %s", period.pk)
    found = findings()
    assert found["posted_into_closed"] == [f"transaction:{row.pk}"]
    moved = [f"period:{period.pk}/{e.account_id}" for e in LedgerEntry.objects.filter(transaction=row)]
    assert sorted(found["period_not_sum"]) == sorted(moved)


def test_who_posts_for_a_month_that_is_closed_or_was_reopened_is_none(people):
    assert fund(people, "40", at=IN_MARCH).adjusts_period.starts_on == MARCH
    assert findings() == {}
    actor = Actor.system("test")
    reopen(period=LedgerPeriod.objects.get(starts_on=MARCH), actor=actor, at=LATER)
    assert fund(people, "50", at=IN_MARCH).effective_at == IN_MARCH
    close(MARCH)
    assert findings() == {}
