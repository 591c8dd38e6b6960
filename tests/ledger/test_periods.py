"""Closing the books: what belongs to a closed month stays as it was, whatever is posted afterwards."""

import random
import threading
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from itertools import pairwise

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from commerce.actor import Actor
from commerce.console.approvals import approve
from commerce.console.models import ApprovalStatus, ReviewItem
from commerce.errors import Busy, Conflict, InvalidInput, PermissionDenied, StateConflict
from ledger.models import LedgerAccount, LedgerPeriod, LedgerPeriodBalance, LedgerTransaction
from ledger.rules import recipes
from ledger.services import (
    balance,
    balances,
    begin_closing,
    finish_closing,
    finish_closings,
    next_month,
    outlook,
    post,
    post_pending,
    request_reopening,
    schedule_release,
    settle_pending,
    trial_balance,
)
from tests.ledger.conftest import ACTOR, make_people, usd

pytestmark = pytest.mark.django_db(transaction=True)

FEBRUARY, MARCH, APRIL = date(2027, 2, 1), date(2027, 3, 1), date(2027, 4, 1)
IN_MARCH = datetime(2027, 3, 10, 12, tzinfo=UTC)
FIRST_OF_APRIL = datetime(2027, 4, 1, tzinfo=UTC)
LATER = datetime(2027, 6, 15, tzinfo=UTC)


def seal():
    """What the keeper does on its tick."""
    with connection.cursor() as cursor:
        while cursor.execute("SELECT ledger_keep(1000, '0', '5s')") and cursor.fetchone()[0]:
            pass


def fund(people, amount, at=IN_MARCH, key=None):
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount))
    key = key or f"fund:{LedgerTransaction.objects.count()}"
    return post(entries=entries, key=key, source="t", recipe="fund_wallet", at=at, actor=ACTOR)


def close(month, at=LATER):
    period = begin_closing(month=month, actor=ACTOR, at=at)
    seal()
    return finish_closing(period=period, actor=ACTOR, at=at)


def cash(people, at=None):
    return balance(owner=people.platform, kind="CASH_BANK", currency="USD", at=at)


def person(name, *groups):
    user = User.objects.create_user(name)
    user.groups.set(Group.objects.filter(name__in=groups))
    return Actor.for_user(user)


def test_months_are_closed_in_order_when_they_are_over_and_each_once():
    people = make_people()
    with pytest.raises(StateConflict, match="Nothing has been posted"):
        begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    fund(people, "100")
    assert next_month() == MARCH
    with pytest.raises(InvalidInput, match="March 2027 is not over") as refused:
        begin_closing(month=MARCH, actor=ACTOR, at=FIRST_OF_APRIL - timedelta(seconds=1))
    assert refused.value.errors[0].pointer == "/month"
    with pytest.raises(StateConflict, match="March 2027 comes first"):
        begin_closing(month=APRIL, actor=ACTOR, at=LATER)
    with pytest.raises(StateConflict, match="Nothing was posted in February"):
        begin_closing(month=FEBRUARY, actor=ACTOR, at=LATER)
    assert not LedgerPeriod.objects.exists()

    assert close(MARCH).status == "closed"
    with pytest.raises(StateConflict, match="closed already"):
        begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    assert close(APRIL).status == "closed"
    assert [p.starts_on for p in LedgerPeriod.objects.order_by("starts_on")] == [MARCH, APRIL]


def test_only_who_may_close_periods_does():
    fund(make_people(), "100")
    with pytest.raises(PermissionDenied):
        begin_closing(month=MARCH, actor=person("viewer", "viewer"), at=LATER)
    assert not LedgerPeriod.objects.exists()
    assert begin_closing(month=MARCH, actor=person("operator", "operator"), at=LATER).status == "closing"


def test_a_posting_into_a_closed_month_lands_on_the_first_open_instant_and_says_what_it_adjusts():
    people = make_people()
    fund(people, "100")
    period = close(MARCH)
    late = fund(people, "7", at=IN_MARCH)
    assert (late.effective_at, late.adjusts_period_id, late.meant_at) == (FIRST_OF_APRIL, period.pk, IN_MARCH)
    row = LedgerTransaction.objects.get(pk=late.pk)
    assert (row.effective_at, row.adjusts_period, row.meant_at) == (FIRST_OF_APRIL, period, IN_MARCH)
    assert {e.effective_at for e in row.entries.all()} == {FIRST_OF_APRIL}
    assert cash(people, at=FIRST_OF_APRIL - timedelta(microseconds=1)) == 100_00
    assert cash(people, at=FIRST_OF_APRIL) == 107_00
    own = fund(people, "1", at=FIRST_OF_APRIL + timedelta(days=1))
    assert own.adjusts_period_id is None
    before_the_first = fund(people, "1", at=datetime(2027, 1, 5, tzinfo=UTC))
    assert (before_the_first.effective_at, before_the_first.adjusts_period_id) == (FIRST_OF_APRIL, period.pk)


def test_from_the_commit_of_closing_on_nothing_new_arrives_in_the_period():
    people = make_people()
    fund(people, "100")
    period = begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    late = fund(people, "7")
    assert late.adjusts_period_id == period.pk
    seal()
    finish_closing(period=period, actor=ACTOR, at=LATER)
    assert {abs(k.closing) for k in LedgerPeriodBalance.objects.all()} == {100_00}


def test_what_was_read_as_open_and_commits_late_is_in_the_period_before_its_balances_are_kept():
    people = make_people()
    fund(people, "100")
    posted, go_on = threading.Event(), threading.Event()

    def slow():
        with transaction.atomic():
            fund(people, "5", key="slow")
            posted.set()
            go_on.wait(30)
        connection.close()

    writer = threading.Thread(target=slow)
    writer.start()
    assert posted.wait(30)
    period = begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    with pytest.raises(Busy, match="still writing"):
        finish_closing(period=period, actor=ACTOR, at=LATER, patience=timedelta(milliseconds=200))
    period.refresh_from_db()
    assert period.status == "closing"
    assert not LedgerPeriodBalance.objects.exists()

    go_on.set()
    writer.join(30)
    assert LedgerTransaction.objects.get(key="slow").adjusts_period is None
    seal()
    assert finish_closings(actor=ACTOR, at=LATER) == 1
    assert {abs(k.closing) for k in LedgerPeriodBalance.objects.all()} == {105_00}


def test_a_period_is_closed_only_when_all_of_it_is_sealed():
    fund(make_people(), "100")
    period = begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    with pytest.raises(Busy, match="not sealed"):
        finish_closing(period=period, actor=ACTOR, at=LATER)
    assert finish_closings(actor=ACTOR, at=LATER) == 0
    seal()
    assert finish_closings(actor=ACTOR, at=LATER) == 1


def test_while_writers_post_beside_it_every_posting_is_wholly_inside_or_marked():
    people = make_people()
    fund(people, "1")
    stop = threading.Event()

    def write(number):
        turn = 0
        while not stop.is_set() and turn < 300:
            fund(people, "1", key=f"{number}:{turn}")
            turn += 1
        connection.close()

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    period = begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    seal()
    while not finish_closings(actor=ACTOR, at=LATER):
        seal()
    kept = LedgerPeriodBalance.objects.get(account__kind="CASH_BANK")
    stop.set()
    for writer in writers:
        writer.join(30)
    inside = LedgerTransaction.objects.filter(adjusts_period=None).count()
    assert -kept.closing == inside * 1_00
    assert LedgerTransaction.objects.filter(adjusts_period=period, effective_at=FIRST_OF_APRIL).count() > 0
    assert cash(people, at=FIRST_OF_APRIL - timedelta(microseconds=1)) == inside * 1_00


@pytest.mark.parametrize("seed", range(3))
def test_no_balance_inside_a_closed_month_ever_changes(seed):
    dice = random.Random(seed)
    people = make_people()
    start = datetime(2027, 2, 1, tzinfo=UTC)

    def back_date():
        at = start + timedelta(seconds=dice.randrange(100 * 86_400))
        if dice.random() < 0.5:
            return fund(people, str(dice.randrange(1, 500)), at=at)
        entries = recipes.commit(
            buyer=people.acme, downpayment=usd("0"), expected=usd(str(dice.randrange(1, 9)))
        )
        key = f"c:{LedgerTransaction.objects.count()}"
        return post(entries=entries, key=key, source="t", recipe="commit", at=at, actor=ACTOR)

    fund(people, "10000", at=start)
    for _ in range(30):
        back_date()
    instants = [start + timedelta(hours=dice.randrange(24 * 58)) for _ in range(10)]
    instants.append(datetime(2027, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC))

    def seen():
        return [
            [(b.account.pk, b.posted.minor) for b in balances(at=instant)]
            + [(r.key, r.balance.minor) for r in trial_balance(at=instant, by="account").rows]
            for instant in instants
        ]

    before = seen()
    close(FEBRUARY)
    close(MARCH)
    assert seen() == before
    for turn in range(40):
        back_date()
        if turn == 20:
            seal()
    assert seen() == before
    assert LedgerTransaction.objects.filter(adjusts_period__isnull=False).exists()


def test_the_closings_of_periods_follow_each_other_and_end_at_the_balances():
    people = make_people()
    dice = random.Random(7)
    for _ in range(25):
        fund(people, str(dice.randrange(1, 100)), at=IN_MARCH + timedelta(days=dice.randrange(70)))
    fund(people, "3", at=FIRST_OF_APRIL)
    for month in (MARCH, APRIL, date(2027, 5, 1)):
        close(month)
    periods = list(LedgerPeriod.objects.order_by("starts_on"))
    for account in LedgerAccount.objects.all():
        kept = [LedgerPeriodBalance.objects.get(period=p, account=account) for p in periods]
        assert kept[0].opening == 0
        for earlier, later in pairwise(kept):
            assert later.opening == earlier.closing
        assert sum(k.credit - k.debit for k in kept) == kept[-1].closing
        assert account.on_normal_side(kept[-1].closing) == balance(
            owner=account.owner_id, kind=account.kind, currency="USD"
        )
    for period in periods:
        assert sum(k.closing for k in period.balances.all()) == 0


def test_what_was_pending_when_the_month_was_closed_is_posted_at_its_own_instant():
    people = make_people()
    fund(people, "100")
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("30"))
    pending = post_pending(entries=entries, key="p", source="t", recipe="commit", at=IN_MARCH, actor=ACTOR)
    close(MARCH)
    at = FIRST_OF_APRIL + timedelta(days=9)
    settled = settle_pending(transaction=pending, key="s", at=at, actor=ACTOR)
    assert (settled.effective_at, settled.adjusts_period_id) == (at, None)


def test_the_maker_of_a_reopening_cannot_approve_it_and_another_can():
    people = make_people()
    fund(people, "100")
    period = close(MARCH)
    both = person("both", "operator", "approver")
    asked = request_reopening(period=period, actor=both, at=LATER, reason="An invoice of March was forgotten")
    period.refresh_from_db()
    assert period.status == "closed"
    with pytest.raises(PermissionDenied):
        approve(approval=asked, actor=both, at=LATER)
    period.refresh_from_db()
    assert period.status == "closed"
    assert LedgerPeriodBalance.objects.filter(period=period).count() == 2

    done = approve(approval=asked, actor=person("checker", "approver"), at=LATER)
    assert done.status == ApprovalStatus.APPROVED
    period.refresh_from_db()
    assert period.status == "open"
    assert not LedgerPeriodBalance.objects.exists()


def test_a_reopened_month_has_its_own_postings_again_and_earlier_adjustments_stay():
    people = make_people()
    fund(people, "100")
    period = close(MARCH)
    adjustment = fund(people, "7")
    asked = request_reopening(period=period, actor=person("maker", "operator"), at=LATER, reason="Forgotten")
    approve(approval=asked, actor=person("checker", "approver"), at=LATER)
    own = fund(people, "2")
    assert (own.effective_at, own.adjusts_period_id) == (IN_MARCH, None)
    adjustment.refresh_from_db()
    assert (adjustment.effective_at, adjustment.adjusts_period_id) == (FIRST_OF_APRIL, period.pk)
    period = close(MARCH)
    assert LedgerPeriodBalance.objects.get(period=period, account__kind="CASH_BANK").closing == -102_00
    assert cash(people) == 109_00


def test_only_the_latest_closed_period_is_reopened():
    fund(make_people(), "100")
    march, april = close(MARCH), close(APRIL)
    maker = person("maker", "operator")
    with pytest.raises(StateConflict, match="April 2027 comes after it"):
        request_reopening(period=march, actor=maker, at=LATER, reason="x")
    asked = request_reopening(period=april, actor=maker, at=LATER, reason="x")
    begin_closing(month=date(2027, 5, 1), actor=ACTOR, at=LATER)
    with pytest.raises(StateConflict, match="May 2027 comes after it and is closing"):
        approve(approval=asked, actor=person("checker", "approver"), at=LATER)
    april.refresh_from_db()
    assert april.status == "closed"
    assert april.balances.count() == 2


def test_kept_balances_are_written_and_removed_only_in_the_right_state():
    fund(make_people(), "100")
    period = close(MARCH)
    for function in ("ledger_keep_period", "ledger_forget_period"):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s)", [period.pk])
    assert period.balances.count() == 2


def test_balances_that_do_not_agree_with_the_entries_are_not_kept():
    fund(make_people(), "100")
    period = begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    seal()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_ledgerday SET debit = debit + 1 WHERE debit > 0")
    with pytest.raises(Conflict, match=r"a difference of -0\.01 USD") as refused:
        finish_closing(period=period, actor=ACTOR, at=LATER)
    period.refresh_from_db()
    assert (refused.value.code, period.status) == ("period_differs", "closing")
    assert not LedgerPeriodBalance.objects.exists()


def test_a_period_that_cannot_be_closed_is_in_the_review_queue_once_until_it_is():
    people = make_people()
    fund(people, "100")
    period = begin_closing(month=MARCH, actor=ACTOR, at=LATER)
    assert finish_closings(actor=ACTOR, at=LATER) == 0
    assert not ReviewItem.objects.exists(), "Waiting for a seal is no question for a person."
    seal()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_ledgerday SET debit = debit + 1 WHERE debit > 0")
    for _ in range(3):
        assert finish_closings(actor=ACTOR, at=LATER) == 0
    (item,) = ReviewItem.objects.all()
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    assert (item.kind, item.subject_type, item.subject_id, item.status) == (
        "period_differs",
        "ledger.ledgerperiod",
        str(period.pk),
        "open",
    )
    assert item.value == usd("-0.01")
    for fact in ("March 2027", f"account {cash.pk}", "Cash bank", "-100.01 USD", "-100.00 USD", "-0.01 USD"):
        assert fact in item.title + item.detail, fact
    assert (item.evidence["account_id"], item.evidence["difference_minor"]) == (cash.pk, -1)

    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_ledgerday SET debit = debit - 1 WHERE debit > 0")
    assert finish_closings(actor=ACTOR, at=LATER) == 1
    item.refresh_from_db()
    assert (item.status, item.resolution) == ("resolved", "cleared")
    assert ReviewItem.objects.count() == 1


def test_the_outlook_says_what_would_be_closed_and_what_is_left_open():
    people = make_people()
    fund(people, "100")
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("30"))
    post_pending(entries=entries, key="p", source="t", recipe="commit", at=IN_MARCH, actor=ACTOR)
    schedule_release(
        owner=people.northwind,
        amount=usd("5"),
        due_at=IN_MARCH,
        source="s",
        key="r",
        at=IN_MARCH,
        actor=ACTOR,
    )
    seen = outlook(month=MARCH, at=LATER)
    (moved,) = seen.moved
    assert (moved.accounts, moved.debit, moved.credit) == (2, usd("100"), usd("100"))
    assert (seen.pending, seen.unreleased, seen.unreleased_value) == (1, 1, [usd("5")])
    assert seen.why_not == ""
    assert not LedgerPeriod.objects.exists()


def test_the_command_shows_closes_and_asks_for_reopening(clock):
    fund(make_people(), "100")
    clock(LATER)
    seal()
    out = StringIO()
    call_command("ledger_close", "2027-03", "--dry-run", stdout=out, stderr=StringIO())
    assert "debit 100.00 USD" in out.getvalue()
    assert not LedgerPeriod.objects.exists()
    with CaptureQueriesContext(connection) as asked:
        call_command("ledger_close", "2027-03", stdout=out, stderr=StringIO())
    assert "ledger_moved" not in str(asked.captured_queries), "what only --dry-run shows"
    assert LedgerPeriod.objects.get().status == "closed"
    with pytest.raises(SystemExit) as refused:
        call_command("ledger_close", "2027-03", stdout=out, stderr=StringIO())
    assert refused.value.code == 6
    call_command("ledger_close", "2027-03", "--reopen", "--reason", "Late", stdout=out, stderr=StringIO())
    assert LedgerPeriod.objects.get().status == "closed"
    assert "second person" in out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["March"], "'March' is not a month such as 2027-03."),
        (["2027-13"], "'2027-13' is not a month"),
        (["2027-03-01"], "'2027-03-01' is not a month"),
        (["9999-12", "--dry-run"], "'9999-12' is not a month"),
        (["0001-01"], "'0001-01' is not a month"),
        (["2027-03", "--reopen"], "--reopen and --reason go together"),
        (["2027-03", "--reopen", "--reason", " "], "--reopen and --reason go together"),
        (["2027-03", "--reason", "Late"], "--reopen and --reason go together"),
        (["2027-03", "--wait", "-1"], "--wait is a number of seconds"),
    ],
)
def test_wrong_arguments_are_2_with_a_sentence_and_close_nothing(clock, arguments, sentence):
    fund(make_people(), "100")
    clock(LATER)
    out, err = StringIO(), StringIO()
    with pytest.raises(SystemExit) as wrong:
        call_command("ledger_close", *arguments, stdout=out, stderr=err)
    assert (wrong.value.code, out.getvalue()) == (2, "")
    assert err.getvalue().startswith(sentence)
    assert not LedgerPeriod.objects.exists()
