"""A ledger of five months in a database of its own, whose entries are partitions, sealed and closed.

The ledger records by the wall clock, so months that are over have to be made: the owner moves what
was posted back in time, with the guards off, before it is sealed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from uuid import uuid4

from django.conf import settings
from django.db import connection

from commerce.money import Money
from ledger.models import LedgerAccount, LedgerPeriod
from ledger.rules import recipes
from ledger.services import account_balances, post, reverse
from ledger.services import keep as seal
from tests.ledger.conftest import ACTOR, make_people, usd


def month_before(day: date, months: int = 1) -> date:
    for _ in range(months):
        day = (day.replace(day=1) - timedelta(days=1)).replace(day=1)
    return day


THIS = datetime.now(UTC).date().replace(day=1)
LAST, B, A, OLD, OLDEST = (month_before(THIS, months) for months in range(1, 6))
MONTHS = (OLDEST, OLD, A, B, LAST, THIS)
GUARDED = ("ledger_ledgertransaction", "ledger_ledgerbalance", "ledger_ledgerentry")


def noon(month: date, day: int = 10) -> datetime:
    return datetime.combine(month.replace(day=day), time(12), UTC)


def end_of(month: date) -> datetime:
    """The last instant of a month."""
    after = (month.replace(day=28) + timedelta(days=4)).replace(day=1)
    return datetime.combine(after, time.min, UTC) - timedelta(microseconds=1)


def sql(statement: str, *parameters: object) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def own_database(template: str | None = None, *, keep: bool = False) -> Iterator[str]:
    """This thread's connections, and those of threads that it starts, go to a copy of a database."""
    name = f"months_{uuid4().hex[:8]}"
    connection.close()
    _unhurried(f'CREATE DATABASE "{name}" TEMPLATE "{template or connection.settings_dict["NAME"]}"')
    try:
        with connected_to(name):
            yield name
    finally:
        if not keep:
            drop_database(name)


@contextmanager
def connected_to(name: str) -> Iterator[None]:
    """This thread's connections, and those of threads that it starts, go to that database."""
    before = connection.settings_dict["NAME"]
    connection.close()
    for known in (connection.settings_dict, settings.DATABASES["default"]):
        known["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        for known in (connection.settings_dict, settings.DATABASES["default"]):
            known["NAME"] = before


def drop_database(name: str) -> None:
    _unhurried(f'DROP DATABASE "{name}" WITH (FORCE)')


def _unhurried(statement: str) -> None:
    """Thousands of files are made or unlinked: on a busy disk longer than any statement of ours may take."""
    with connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(statement)


def unguarded(statement: str, *parameters: object) -> None:
    """As somebody who owns the database and switches its guards off."""
    sql("SET CONSTRAINTS ALL IMMEDIATE")
    guards = sql(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger"
        " WHERE tgname LIKE 'guard%%' AND tgenabled = 'A' AND tgrelid::regclass::text ~ %s",
        "^ledger_ledger(account|transaction|balance|entry|archive|carriedbalance)",
    )
    for table, guard in guards:
        sql(f"ALTER TABLE {table} DISABLE TRIGGER {guard}")
    sql(statement, *parameters)
    for table, guard in guards:
        sql(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {guard}")


def make_months() -> None:
    """OLDEST, in which nothing is recorded, and OLD are the first partition; each later month is one."""
    _make_partitions()
    people = make_people()
    began = datetime.now(UTC)
    for number, month in enumerate(MONTHS[1:], 1):
        at = noon(month) if month != THIS else datetime.now(UTC)
        _fund(people.platform, people.acme, f"{number}00", f"fund:{month}", at)
        entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd(f"{number}"))
        _post("commit", entries, f"commit:{month}", at + timedelta(hours=1))
        if month in (OLD, B):  # nobody moves these accounts again
            _fund(people.platform, people.bridge if month == OLD else people.northwind, "7", f"x:{month}", at)
        if month == A:  # back-dated, and corrected while its own month is there
            _fund(people.platform, people.acme, "0.50", "late", noon(OLD, 20))
            row = _fund(people.platform, people.acme, "9", "wrong", at)
            part = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("4"))
            reverse(
                transaction=row, key="part", at=at, actor=ACTOR, reason="part",
                entries=[type(leg)(leg.owner, leg.kind, leg.amount, _other(leg.side)) for leg in part],
            )  # fmt: skip
        if month != THIS:
            _move_back(began, noon(month, 15))
    assert seal(limit=3, margin=timedelta(0))
    for month in MONTHS[:-1]:
        period = LedgerPeriod.objects.create(
            starts_on=month, ends_on=(end_of(month) + timedelta(days=1)).date()
        )
        LedgerPeriod.objects.filter(pk=period.pk).update(status="closing")
        sql("SELECT ledger_keep_period(%s)", period.pk)
        LedgerPeriod.objects.filter(pk=period.pk).update(status="closed")


def everything() -> dict:
    """Balances of all accounts now, at the ends of days, and as known at the ends of days."""
    accounts = list(LedgerAccount.objects.order_by("pk"))
    ends = [end_of(month) for month in MONTHS[:-1]] + [noon(B, 3).replace(hour=0) - timedelta(microseconds=1)]
    asked = [{}, *({"at": end} for end in ends), *({"known_at": end} for end in ends)]
    asked += [{"at": at, "known_at": known} for at in ends for known in ends]
    return {
        str(instants): [found.posted for found in account_balances(accounts, **instants)]
        for instants in asked
    }


def held(owner: object, kind: str = "AVAILABLE") -> LedgerAccount:
    return LedgerAccount.objects.select_related("owner").get(owner_id=owner, kind=kind)


def owner_of(slug: str) -> object:
    return LedgerAccount.objects.filter(owner__slug=slug).values_list("owner", flat=True).first()


def fund_again(key: str, dollars: str = "1") -> None:
    platform = LedgerAccount.objects.get(kind="CASH_BANK").owner_id
    _fund(platform, owner_of("acme"), dollars, key, datetime.now(UTC))


def total(lines: list) -> Money:
    return sum((line.amount for line in lines), usd("0"))


def _other(side: str) -> str:
    return "debit" if side == "credit" else "credit"


def _fund(platform: object, buyer: object, dollars: str, key: str, at: datetime):
    entries = recipes.fund_wallet(platform=platform, buyer=buyer, amount=usd(dollars))
    return _post("fund_wallet", entries, key, at)


def _post(recipe: str, entries: object, key: str, at: datetime):
    return post(entries=entries, key=key, source=f"t:{key}", recipe=recipe, at=at, actor=ACTOR)


def _make_partitions() -> None:
    bound = end_of(THIS) + timedelta(microseconds=1)
    sql("SELECT ledger_partition_entries(%s)", bound)
    whole = f"ledger_ledgerentry_until_{bound:%Y%m}"
    sql(f"ALTER TABLE ledger_ledgerentry DETACH PARTITION {whole}")
    sql(f"DROP TABLE {whole}")
    for month in MONTHS[1:]:
        name = f"ledger_ledgerentry_{month:%Y%m}" if month != OLD else f"ledger_ledgerentry_until_{A:%Y%m}"
        sql(f"CREATE TABLE {name} (LIKE ledger_ledgerentry INCLUDING ALL)")
        first = "MINVALUE" if month == OLD else f"'{month}Z'"
        after = f"'{(end_of(month) + timedelta(days=1)).date()}Z'"
        sql(f"ALTER TABLE ledger_ledgerentry ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({after})")
        sql(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER guard_append_only")


def _move_back(began: datetime, to: datetime) -> None:
    """What was recorded since then was recorded around `to`, in the same order."""
    for table in GUARDED:
        unguarded(
            f"UPDATE {table} SET recorded_at = %s + (recorded_at - %s) WHERE recorded_at >= %s",
            to, began, began,
        )  # fmt: skip
