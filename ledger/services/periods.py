"""Accounting periods: months of business time that are closed one after the other.

Closing has two steps. `begin_closing` sends whatever is posted for the month from then on to the
first open instant. `finish_closing` waits for those who had still read it as open, keeps what each
account opened, moved and closed with, proves it and closes. A second person reopens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, QuerySet, Sum

from commerce.actor import Actor
from commerce.console.approvals import Operation, register_operation, request_approval
from commerce.console.models import Approval, ReviewItem, ReviewStatus
from commerce.console.services import clear_reviews, open_review
from commerce.errors import Busy, Conflict, InvalidInput, StateConflict
from commerce.money import Money
from commerce.states import available, transition
from ledger.models import (
    LedgerAccount,
    LedgerHold,
    LedgerPeriod,
    LedgerPeriodBalance,
    LedgerRelease,
    LedgerTransaction,
)
from ledger.rules.months import after, midnight

CLOSE = "ledger.close_ledgerperiod"
REOPEN_OPERATION = "ledger.reopen_period"
DIFFERS = "period_differs"
PATIENCE = timedelta(seconds=5)
PROVED = 10_000
_FIRST = """
SELECT least(
  (SELECT min(d.day) FROM ledger_ledgerday d),
  (SELECT min(t.effective_at AT TIME ZONE 'UTC')::date FROM ledger_ledgertransaction t
    WHERE t.status = 'posted'
      AND t.recorded_at > COALESCE((SELECT max(s.until) FROM ledger_ledgerseal s), '-infinity')))
"""
_UNSEALED = """
SELECT EXISTS (SELECT 1 FROM ledger_ledgertransaction t
 WHERE t.recorded_at > COALESCE((SELECT max(s.until) FROM ledger_ledgerseal s), '-infinity')
   AND t.status = 'posted' AND t.effective_at < %s)
"""
_TOTALS = """
SELECT a.currency, count(*), sum(m.debit)::bigint, sum(m.credit)::bigint
  FROM ledger_moved(%s, %s) m JOIN ledger_ledgeraccount a ON a.id = m.account_id
 GROUP BY a.currency ORDER BY a.currency
"""
_UNBALANCED = """
SELECT a.currency, sum(k.closing)::bigint, sum(k.credit - k.debit)::bigint
  FROM ledger_ledgerperiodbalance k JOIN ledger_ledgeraccount a ON a.id = k.account_id
 WHERE k.period_id = %s GROUP BY a.currency
HAVING sum(k.closing) <> 0 OR sum(k.credit) <> sum(k.debit) LIMIT 1
"""
_DIFFERENT = """
SELECT k.account_id, k.credit - k.debit, e.moved
  FROM ledger_ledgerperiodbalance k JOIN ledger_ledgeraccount a ON a.id = k.account_id
 CROSS JOIN LATERAL (
   SELECT COALESCE(sum(e.amount), 0)::bigint AS moved FROM ledger_ledgerentry e
    WHERE e.account_id = k.account_id AND e.effective_at >= %s AND e.effective_at < %s) e
 WHERE k.period_id = %s AND a.currency = %s AND k.credit - k.debit <> e.moved
 ORDER BY k.account_id LIMIT 1
"""
_UNPROVED = """
SELECT p.account_id, p.closing, p.entries
  FROM (SELECT k.account_id, k.closing, ledger_balance(k.account_id, %s) AS entries
          FROM (SELECT * FROM ledger_ledgerperiodbalance WHERE period_id = %s ORDER BY random() LIMIT %s) k) p
 WHERE p.closing <> p.entries LIMIT 1
"""


@dataclass(frozen=True)
class Moved:
    """What a month moved in one currency, over how many accounts; debit equals credit."""

    accounts: int
    debit: Money
    credit: Money


@dataclass(frozen=True)
class Outlook:
    """A month before it is closed: what moved in it, and what is not settled yet and will not be in it."""

    starts_on: date
    ends_on: date
    why_not: str
    moved: Sequence[Moved]
    pending: int
    unreleased: int
    unreleased_value: Sequence[Money]
    reviews: int


def next_month() -> date | None:
    """The month that is closed next, or is being closed; None while the ledger is empty."""
    last = LedgerPeriod.objects.exclude(status="open").order_by("-ends_on").first()
    if last:
        return last.starts_on if last.status == LedgerPeriod.Status.CLOSING else last.ends_on
    with connection.cursor() as cursor:
        cursor.execute(_FIRST)
        (first,) = cursor.fetchone()
    return first.replace(day=1) if first else None


def why_not_close(*, month: date, at: datetime) -> str:
    """ "" or why a month cannot be closed at `at`."""
    due, name = next_month(), f"{month:%B %Y}"
    if due is None:
        return "Nothing has been posted: there is no month to close."
    if month < due:
        closed = LedgerPeriod.objects.filter(starts_on=month).exists()
        return f"{name} is closed already." if closed else f"Nothing was posted in {name} or before it."
    if month > due:
        return f"{due:%B %Y} comes first."
    if at < midnight(after(month)):
        return f"{name} is not over."
    period = LedgerPeriod.objects.filter(starts_on=month).first()
    return available(period, "begin_closing") if period else ""


def outlook(*, month: date, at: datetime) -> Outlook:
    """What closing a month would mean, in numbers; changes nothing."""
    starts_on = month.replace(day=1)
    ends_on = after(starts_on)
    end = midnight(ends_on)
    waiting = LedgerRelease.objects.filter(
        status__in=[LedgerRelease.Status.SCHEDULED, LedgerRelease.Status.HELD], due_at__lt=end
    )
    values = (
        waiting.values("currency").annotate(n=Count("pk"), minor=Sum("amount_minor")).order_by("currency")
    )
    with connection.cursor() as cursor:
        cursor.execute(_TOTALS, [midnight(starts_on), end])
        moved = [
            Moved(accounts, Money(debit, currency), Money(credit, currency))
            for currency, accounts, debit, credit in cursor.fetchall()
        ]
    holds = LedgerHold.objects.filter(
        transaction__resolutions__isnull=True, transaction__effective_at__lt=end
    )
    reviews = ReviewItem.objects.exclude(status=ReviewStatus.RESOLVED).filter(opened_at__lt=end)
    return Outlook(
        starts_on,
        ends_on,
        why_not_close(month=starts_on, at=at),
        moved,
        pending=holds.aggregate(n=Count("transaction", distinct=True))["n"],
        unreleased=sum(row["n"] for row in values),
        unreleased_value=[Money(row["minor"], row["currency"]) for row in values],
        reviews=reviews.count(),
    )


@transaction.atomic
def begin_closing(*, month: date, actor: Actor, at: datetime, reason: str = "") -> LedgerPeriod:
    """Draw the line: what is posted for this month after the commit goes to the next one, marked.

    Months are closed in order and only when they are over: StateConflict says which comes first,
    InvalidInput that it is not over.
    """
    actor.require(CLOSE)
    _one_at_a_time()
    month = month.replace(day=1)
    if why_not := why_not_close(month=month, at=at):
        if why_not.endswith("is not over."):
            raise InvalidInput(why_not, pointer="/month", code="period_not_over")
        raise StateConflict(why_not, code="period_not_next")
    period, _ = LedgerPeriod.objects.get_or_create(starts_on=month, defaults={"ends_on": after(month)})
    return transition(period, "begin_closing", actor=actor, at=at, reason=reason)


def finish_closing(
    *, period: LedgerPeriod, actor: Actor, at: datetime, patience: timedelta = PATIENCE
) -> LedgerPeriod:
    """Keep and prove the balances of a period that is being closed, and close it.

    Busy while somebody who may have read the period as open is still writing, or a posting of it is
    not sealed. Conflict when the kept balances do not agree with the entries: nothing is kept, and a review
    item says where they differ until the period is closed.
    """
    if connection.in_atomic_block:
        raise RuntimeError(
            "Others must see that the period is being closed before anybody can wait for them."
        )
    if why_not := available(period, "finish_closing"):
        raise StateConflict(why_not, state=period.status, transition="finish_closing")
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_await_writers(make_interval(secs => %s))", [patience.total_seconds()])
        if not cursor.fetchone()[0]:
            raise Busy(f"Somebody who began before {period} was to be closed is still writing.")
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            _one_at_a_time()
            cursor.execute(_UNSEALED, [period.ends_at])
            if cursor.fetchone()[0]:
                raise Busy(f"Some of the postings of {period} are not sealed yet.")
            cursor.execute("SELECT ledger_keep_period(%s)", [period.pk])
            _prove(period)
            clear_reviews(
                kind=DIFFERS,
                subject_type="ledger.ledgerperiod",
                subject_id=period.pk,
                reason=f"{period} is closed.",
                actor=Actor.system("ledger"),
                at=at,
            )
            return transition(period, "finish_closing", actor=actor, at=at)
    except _Differs as error:
        open_review(
            kind=DIFFERS,
            subject_type="ledger.ledgerperiod",
            subject_id=period.pk,
            title=f"{period} cannot be closed: its balances differ from its entries",
            detail=error.detail,
            evidence=error.extra,
            value=error.difference,
            actor=actor,
            at=at,
        )
        raise


def finish_closings(*, actor: Actor, at: datetime) -> int:
    """Close what is being closed; how many. What is not possible yet or differs is tried again next time."""
    closed = 0
    for period in LedgerPeriod.objects.filter(status=LedgerPeriod.Status.CLOSING).order_by("starts_on"):
        try:
            finish_closing(period=period, actor=actor, at=at)
        except (Busy, Conflict):
            continue
        closed += 1
    return closed


def show_next_month() -> None:
    """Make sure that the month to be closed next has a row, so that people find it."""
    month = next_month()
    if month and not LedgerPeriod.objects.filter(starts_on=month).exists():
        LedgerPeriod.objects.get_or_create(starts_on=month, defaults={"ends_on": after(month)})


def why_not_reopen(period: LedgerPeriod) -> str:
    """ "" or why a period cannot be opened again: only the latest closed one can."""
    if why_not := available(period, "reopen"):
        return why_not
    later = LedgerPeriod.objects.exclude(status="open").filter(starts_on__gt=period.starts_on)
    last = later.order_by("-starts_on").first()
    return f"{last} comes after it and is {last.status}." if last else ""


def request_reopening(*, period: LedgerPeriod, actor: Actor, at: datetime, reason: str) -> Approval:
    """Ask a second person to let the latest closed period be opened again."""
    if why_not := why_not_reopen(period):
        raise StateConflict(why_not, code="period_stays_closed")
    return request_approval(
        operation=REOPEN_OPERATION,
        arguments={"starts_on": period.starts_on.isoformat()},
        subject_type="ledger.ledgerperiod",
        subject_id=period.pk,
        reason=reason,
        actor=actor,
        at=at,
    )


@transaction.atomic
def reopen(*, period: LedgerPeriod, actor: Actor, at: datetime, reason: str = "") -> LedgerPeriod:
    """Make the month's postings its own again; its kept balances go, entries stay where they are."""
    _one_at_a_time()
    period.refresh_from_db()
    if why_not := why_not_reopen(period):
        raise StateConflict(why_not, code="period_stays_closed")
    row = transition(period, "reopen", actor=actor, at=at, reason=reason)
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_forget_period(%s)", [period.pk])
    return row


def _run_reopening(*, approval: Approval, actor: Actor, at: datetime) -> LedgerPeriod:
    period = LedgerPeriod.objects.get(pk=approval.subject_id)
    return reopen(period=period, actor=actor, at=at, reason=approval.reason)


def _describe_reopening(approval: Approval) -> str:
    period = LedgerPeriod.objects.get(pk=approval.subject_id)
    kept = LedgerPeriodBalance.objects.filter(period=period).count()
    return (
        f"{period} is opened again: postings for it are its own from then on, and the balances kept of "
        f"{kept:,} accounts are written anew when it is closed the next time. "
        f"{adjustments(period).count():,} postings that adjust it stay where they are."
    )


register_operation(
    Operation(
        name=REOPEN_OPERATION,
        label="Reopen an accounting period",
        maker="ledger.request_reopening",
        checker="ledger.reopen_ledgerperiod",
        run=_run_reopening,
        describe=_describe_reopening,
    )
)


def adjustments(period: LedgerPeriod) -> QuerySet[LedgerTransaction]:
    """Transactions that belong to the period and were posted to a later one."""
    return LedgerTransaction.objects.filter(adjusts_period=period).order_by("-id")


class _Differs(Conflict):
    """A kept balance is not what the entries say; `difference` is by how much."""

    code = DIFFERS

    def __init__(self, detail: str, *, difference: Money, **extra: Any) -> None:
        minor, currency = difference.minor, difference.currency
        super().__init__(detail, **extra, currency=currency, difference_minor=minor)
        self.difference = difference


def _prove(period: LedgerPeriod) -> None:
    """Kept balances sum to zero, and a sample of them is what the entries say."""
    with connection.cursor() as cursor:
        cursor.execute(_UNBALANCED, [period.pk])
        if off := cursor.fetchone():
            currency, minor = off[0], off[1] or off[2]
            cursor.execute(_DIFFERENT, [period.starts_at, period.ends_at, period.pk, currency])
            if wrong := cursor.fetchone():
                raise _differs(period, "moves", *wrong)
            raise _Differs(
                f"{period} cannot be closed: {currency} is off by {Money(minor, currency)}.",
                difference=Money(minor, currency),
                period=str(period),
            )
        cursor.execute(_UNPROVED, [period.ends_at - timedelta(microseconds=1), period.pk, PROVED])
        if wrong := cursor.fetchone():
            raise _differs(period, "closes with", *wrong)


def _differs(period: LedgerPeriod, verb: str, account_id: int, kept: int, entries: int) -> _Differs:
    account = LedgerAccount.objects.select_related("owner").get(pk=account_id)
    currency = account.currency
    by = Money(kept - entries, currency)
    return _Differs(
        f"{period} cannot be closed: account {account_id}, {account}, {verb} {Money(kept, currency)} by what "
        f"is kept and {Money(entries, currency)} by its entries (credit positive), a difference of {by}.",
        difference=by,
        period=str(period),
        account_id=account_id,
        account=str(account),
        kept_minor=kept,
        entries_minor=entries,
    )


def _one_at_a_time() -> None:
    """Closed periods are a prefix of all months; who changes one waits for who changes another."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('ledger.periods', 0))")
