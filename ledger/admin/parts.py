"""What several pages of the ledger have in common: legs, their two sides, causes, days of an address."""

from collections.abc import Iterable
from datetime import datetime, time

from django.http import HttpRequest
from django.utils.dateparse import parse_date
from django.utils.safestring import SafeString

from commerce.console.as_of import within_calendar
from commerce.console.format import aggregate_label, money
from ledger.models import LedgerEntry, LedgerHold, LedgerTransaction

Leg = LedgerEntry | LedgerHold


def subject_of(source: str) -> tuple[str, str]:
    """ "contract:<id>:v3" as what a link is made from: the model's label and the id."""
    kind, pk, *_ = [*source.split(":"), ""]
    return aggregate_label(kind), pk


def legs_of(transaction: LedgerTransaction) -> list[Leg]:
    pending = transaction.status == LedgerTransaction.Status.PENDING
    return [*transaction.holds.all()] if pending else [*transaction.entries.all()]


def sums_of(legs: Iterable[Leg]) -> dict[str, tuple[int, int]]:
    """Debits and credits per currency."""
    sums: dict[str, tuple[int, int]] = {}
    for leg in legs:
        debit, credit = sums.get(leg.account.currency, (0, 0))
        sums[leg.account.currency] = (debit - min(leg.amount, 0), credit + max(leg.amount, 0))
    return sums


def sides(signed: int, currency: str) -> tuple[SafeString | str, SafeString | str]:
    """A credit-positive amount in its column: debit or credit."""
    return (money(-signed, currency), "") if signed < 0 else ("", money(signed, currency))


def day_of(request: HttpRequest, name: str) -> datetime | None:
    """Midnight UTC of the day in the query; None when there is none, or none that a page can show."""
    try:
        day = parse_date(request.GET.get(name, ""))
    except ValueError:
        return None
    return within_calendar(datetime.combine(day, time.min)) if day else None
