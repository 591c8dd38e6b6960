"""Where the ledger's entries begin: what was recorded before is in files, and who needs it is told so.

Balances come from sums that stay, so they end at no horizon; lines of a statement do. Nothing here
returns a part for the whole: it names the month that has to be restored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta

from django.db import DatabaseError, connection
from django.db.models import Max

from commerce.errors import StateConflict
from ledger.models import LedgerAccount, LedgerArchive, LedgerTransaction

REFUSED = "LA001"  # what the SQL functions raise (0008)


def horizon() -> datetime | None:
    """The instant before which nothing recorded is present; None while nothing is archived."""
    return LedgerArchive.objects.order_by("-pk").values_list("horizon", flat=True).first()


def is_archived(posting: LedgerTransaction) -> bool:
    """Whether its entries have left; the transaction itself stays."""
    begins = horizon()
    return begins is not None and posting.recorded_at < begins


def require_entries_of(posting: LedgerTransaction) -> None:
    """StateConflict when the entries of this transaction have left."""
    if is_archived(posting):
        raise archived(f"{posting.recorded_at.astimezone(UTC):%Y-%m}")


def begins(account: LedgerAccount) -> datetime | None:
    """From when on, in business time, all entries of the account are present; None when they all are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_begins(%s)", [account.pk])
        (first,) = cursor.fetchone()
    return first


def everything_begins() -> datetime | None:
    """The same for the entries of all accounts together."""
    if (now := horizon()) is None:
        return None
    left = LedgerArchive.objects.filter(month__lt=now.astimezone(UTC).date())
    last = left.aggregate(last=Max("last_day"))["last"]
    return datetime.combine(last, time.min, UTC) + timedelta(days=1) if last else None


def whole_since(
    account: LedgerAccount, since: datetime | None, until: datetime | None, known_at: datetime | None
) -> datetime | None:
    """`since`, or the later instant from which on a statement of the account is whole.

    StateConflict when nothing of what was asked for lies behind that.
    """
    with answered(), connection.cursor() as cursor:
        cursor.execute("SELECT ledger_whole_since(%s, %s, %s, %s)", [account.pk, since, until, known_at])
        (first,) = cursor.fetchone()
    return first


def require_entries_since(account: LedgerAccount | None, since: datetime | None) -> None:
    """StateConflict when entries effective from `since` on have left: of an account, or of any."""
    first = begins(account) if account else everything_begins()
    if first is not None and (since is None or since < first):
        raise archived(_latest_month(), first)


def require_recorded_since(since: datetime | None) -> None:
    """The same, where entries are chosen by when they were recorded."""
    first = horizon()
    if first is not None and (since is None or since < first):
        raise archived(_latest_month(), first)


@contextmanager
def answered() -> Iterator[None]:
    """Around SQL that may need archived entries: its refusal becomes ours."""
    try:
        yield
    except DatabaseError as error:
        if getattr(error.__cause__, "sqlstate", "") != REFUSED:
            raise
        month = error.__cause__.diag.message_detail  # type: ignore[union-attr]
        raise archived(month) from error


def archived(month: str, since: datetime | None = None) -> StateConflict:
    """`since` is when what is left begins, if asking for that would help."""
    instead = f" Ask since {since:%Y-%m-%d}, or have them restored" if since else " Have them restored"
    return StateConflict(
        f"Entries recorded in {month} that this needs are archived.{instead}"
        f" (ledger_archive --month {month} --restore FILE, later months first).",
        code="archived",
        month=month,
    )


def _latest_month() -> str:
    last = LedgerArchive.objects.order_by("-pk")[0]
    before = LedgerArchive.objects.filter(month__lt=last.horizon.astimezone(UTC).date())
    return f"{before.aggregate(month=Max('month'))['month']:%Y-%m}"
