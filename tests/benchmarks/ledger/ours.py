"""Our side of the ledger's benchmark, through the services that the product calls."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.core.management import call_command
from django.db import connection

from commerce.actor import Actor
from commerce.ids import uuid7
from commerce.money import Money
from commerce.parties.models import Organization
from ledger import services
from ledger.models import LedgerAccount
from ledger.rules.kinds import Kind, Side
from ledger.rules.recipes import Entry
from tests.benchmarks import clocks

ACTOR = Actor.system("benchmark")
YEARS = timedelta(days=3 * 365)
STRIPED = (Kind.PLATFORM_FEES, Kind.TAX_PAYABLE, Kind.HOSTING_FEES)
BATCH = 1000
_wallets: list[UUID] = []


def migrate() -> None:
    call_command("migrate", verbosity=0)


def open_wallets(count: int) -> dict[str, int]:
    """That many funded wallets; answers the first of their ids, which are in a row, and a hot account's."""
    owners = [_organization(number) for number in range(count)]
    Organization.objects.bulk_create(owners)
    _wallets[:] = [owner.pk for owner in owners]
    platform = Organization.objects.platform().pk
    services.open_accounts(accounts=[(owner, Kind.AVAILABLE, "USD") for owner in _wallets])
    services.open_accounts(
        accounts=[(platform, Kind.CASH_BANK, "USD"), (platform, Kind.PLATFORM_FEES, "USD")]
    )
    for start in range(0, count, BATCH):
        _post([(platform, Kind.CASH_BANK, owner) for owner in _wallets[start : start + BATCH]], minor=10**9)
    ids = LedgerAccount.objects.filter(kind=Kind.AVAILABLE).order_by("pk").values_list("pk", flat=True)
    if ids[count - 1] - ids[0] != count - 1:
        raise RuntimeError("The ids of the wallets are not in a row.")
    hot = LedgerAccount.objects.get(owner=platform, kind=Kind.PLATFORM_FEES)
    return {"first": ids[0], "hot": hot.pk, "stripes": hot.stripes}


def use_wallets() -> None:
    """Post between the wallets that are in the database already."""
    owners = LedgerAccount.objects.filter(kind=Kind.AVAILABLE).exclude(owner__slug__startswith="bench-")
    _wallets[:] = owners.values_list("owner_id", flat=True)


def one_by_one(seconds: float) -> float:
    """One posting per commit."""

    def work() -> int:
        payer, payee = random.sample(_wallets, 2)
        services.post(**_posting(payer, Kind.AVAILABLE, payee), actor=ACTOR)
        return 1

    return clocks.rate(work, seconds)


def in_batches(seconds: float) -> float:
    """A thousand postings per commit."""

    def work() -> int:
        pairs = [random.sample(_wallets, 2) for _ in range(BATCH)]
        _post([(payer, Kind.AVAILABLE, payee) for payer, payee in pairs])
        return BATCH

    return clocks.rate(work, seconds)


def _post(moves: Sequence[tuple[UUID, Kind, UUID]], minor: int = 100) -> None:
    postings = [services.Posting(**_posting(*move, minor=minor)) for move in moves]
    services.post_all(postings=postings, actor=ACTOR)


def _posting(payer: UUID, kind: Kind, payee: UUID, minor: int = 100) -> dict:
    amount = Money(minor, "USD")
    return {
        "entries": (
            Entry(payer, kind, amount, Side.DEBIT),
            Entry(payee, Kind.AVAILABLE, amount, Side.CREDIT),
        ),
        "key": f"bench:{uuid7()}",
        "source": "bench:transfer",
        "recipe": "fund_wallet",
        "at": datetime.now(UTC),
    }


def open_histories(count: int) -> list[dict[str, int]]:
    """Pairs of a wallet and a striped account of the platform."""
    platform = Organization.objects.platform().pk
    pairs = []
    for number, kind in zip(range(count), STRIPED, strict=False):
        owner = _organization(-1 - number)
        owner.save()
        keys = [(owner.pk, Kind.AVAILABLE, "USD"), (platform, kind, "USD")]
        services.open_accounts(accounts=keys)
        wallet, striped = (LedgerAccount.objects.get(owner=o, kind=k, currency=c) for o, k, c in keys)
        pairs.append({"account": wallet.pk, "other": striped.pk})
    return pairs


def reads(account: int, entries: int, times: int) -> dict[str, dict[str, float]]:
    """Milliseconds in the database of what an account can be asked."""
    row = LedgerAccount.objects.get(pk=account)
    key = {"owner": row.owner_id, "kind": row.kind, "currency": row.currency}
    newest = services.statement(account=row, limit=1).lines[0].entry.effective_at

    def instant() -> datetime:
        return newest - YEARS * random.random()

    def middle() -> None:
        services.statement(account=row, until=instant())

    def continued() -> None:
        services.statement(account=row, before=services.Place(instant(), newest, 0, 0))

    def period() -> None:
        since = instant()
        services.statement(account=row, since=since, until=since + timedelta(days=30))

    questions: dict[str, Callable[[], object]] = {
        "balance now": lambda: services.balance(**key),
        "balance as of an instant": lambda: services.balance(**key, at=instant()),
        "balance as known at an instant": lambda: services.balance(**key, known_at=instant()),
        "balance as of one, as known at another": lambda: services.balance(
            **key, at=instant(), known_at=instant()
        ),
        "statement, 50 newest": lambda: services.statement(account=row),
        "statement, 50 in the middle": middle,
        "statement, the next 50": continued,
        "statement of 30 days, 50 newest": period,
    }
    return {name: clocks.in_database(question, times) for name, question in questions.items()}


def verify() -> float:
    """Seconds of `manage.py ledger_verify --full`, its start included."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "manage.py", "ledger_verify", "--full"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def can_verify() -> bool:
    from django.core.management import get_commands

    return "ledger_verify" in get_commands()


def close() -> None:
    connection.close()


def _organization(number: int) -> Organization:
    return Organization(name=f"Bench {number}", slug=f"bench{number}", roles=["buyer"])
