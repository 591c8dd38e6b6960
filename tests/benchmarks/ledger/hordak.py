"""django-hordak's side: the same work by its own means."""

import random
from datetime import date, timedelta

from django.core.management import call_command
from django.db import connection, transaction
from hordak.models import Account, AccountType, Leg, Transaction
from moneyed import Money

from tests.benchmarks import clocks
from tests.benchmarks.ledger.statements import HORDAK_HISTORY

BATCH = 1000
ONE = Money("1.00", "USD")
_accounts: list[Account] = []


def migrate() -> None:
    call_command("migrate", verbosity=0)


def open_accounts(count: int) -> None:
    """Leaves of the tree side by side; numbering them one by one would take minutes."""
    with Account.objects.disable_mptt_updates():
        for number in range(count):
            _accounts.append(
                Account.objects.create(
                    name=f"Account {number}", type=AccountType.liability, currencies=["USD"], code=None
                )
            )
    Account.objects.rebuild()
    _accounts[:] = list(Account.objects.all())


def one_by_one(seconds: float) -> float:
    """One `transfer_to` per commit."""

    def work() -> int:
        payer, payee = random.sample(_accounts, 2)
        payer.transfer_to(payee, ONE)
        return 1

    return clocks.rate(work, seconds)


def in_batches(seconds: float) -> float:
    """A thousand transactions and their legs by `bulk_create` per commit."""

    def work() -> int:
        with transaction.atomic():
            written = Transaction.objects.bulk_create([Transaction() for _ in range(BATCH)])
            legs = []
            for row in written:
                payer, payee = random.sample(_accounts, 2)
                legs.append(Leg(transaction=row, account=payer, credit=ONE))
                legs.append(Leg(transaction=row, account=payee, debit=ONE))
            Leg.objects.bulk_create(legs)
        return BATCH

    return clocks.rate(work, seconds)


def load(entries: int) -> int:
    """An account with that many legs over three years."""
    account, other = (
        Account.objects.create(name=name, type=AccountType.liability, currencies=["USD"])
        for name in (f"History {entries}", f"Other {entries}")
    )
    with connection.cursor() as cursor:
        cursor.execute(HORDAK_HISTORY, {"entries": entries, "account": account.pk, "other": other.pk})
        cursor.execute("ANALYZE")
    return account.pk


def reads(account: int, times: int) -> dict[str, dict[str, float]]:
    row = Account.objects.get(pk=account)

    def instant() -> date:
        return date.today() - timedelta(days=random.randrange(3 * 365))

    return {
        "balance now": clocks.in_database(row.get_balance, times, warm=1),
        "balance as of an instant": clocks.in_database(
            lambda: row.get_balance(as_of=instant()), times, warm=1
        ),
    }
