"""The keeper: what it folds and seals, what it waits for, and that nothing depends on it having run."""

import hashlib
from datetime import timedelta
from threading import Event, Thread

import pytest
from django.db import InternalError, connection, transaction

from ledger.models import LedgerAccount, LedgerDay, LedgerEntry, LedgerSeal, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.services import balance, discard_pending, keep, open_accounts, post_pending
from ledger.tasks import keep_days_and_seals
from tests.ledger.conftest import ACTOR, AT, make_people, usd

NOW, HOUR = timedelta(0), timedelta(hours=1)


@pytest.fixture
def fund(people, posted):
    def _fund(key, dollars="1", at=AT):
        entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(dollars))
        return posted("fund_wallet", entries, key, at=at)

    return _fund


def members(seal):
    """The ids of the transactions and, after them, of the accounts that a seal covers."""
    raw = bytes(seal.members)
    ids = [raw[place : place + 16].hex() for place in range(0, len(raw), 48)]
    return ids[: seal.transactions], [int(account, 16) for account in ids[seal.transactions :]]


def test_days_are_the_sums_of_what_was_posted_on_them(fund, people):
    for key, dollars, hours in (("a", "1", 0), ("b", "2", 2), ("c", "4", 24)):
        fund(key, dollars, AT + hours * HOUR)
    assert keep(margin=NOW) == 3
    days = LedgerDay.objects.filter(account__kind="AVAILABLE").order_by("day")
    assert [(d.day, d.debit, d.credit, d.entries) for d in days] == [
        (AT.date(), 0, 300, 2),
        ((AT + 24 * HOUR).date(), 0, 400, 1),
    ]
    fund("d", "8", AT)
    assert keep(margin=NOW) == 1
    assert [(d.credit, d.entries) for d in days.all()] == [(1100, 3), (400, 1)]


def test_a_seal_names_every_transaction_in_the_order_of_recording(fund):
    rows = [fund(key) for key in "abc"]
    assert keep(margin=NOW) == 3
    seal = LedgerSeal.objects.get()
    assert members(seal)[0] == [row.pk.hex for row in rows]
    assert (seal.number, seal.transactions, seal.entries, bytes(seal.previous)) == (1, 3, 6, b"")
    assert seal.until == LedgerTransaction.objects.get(key="c").recorded_at


def test_a_seal_names_every_account_that_was_opened_in_its_time(fund, people):
    fund("a")
    keep(margin=NOW)
    opened = sorted(LedgerAccount.objects.values_list("pk", flat=True))
    open_accounts(accounts=[(people.bridge, Kind.PAYABLE, "USD"), (people.bridge, Kind.PAYABLE, "EUR")])
    assert keep(margin=NOW) == 0
    fund("b")
    keep(margin=NOW)
    later = LedgerAccount.objects.filter(owner=people.bridge).order_by("pk").values_list("pk", flat=True)
    assert [members(seal)[1] for seal in LedgerSeal.objects.order_by("number")] == [opened, list(later)]


def test_seals_are_a_chain_that_anybody_can_compute(fund):
    fund("a")
    keep(margin=NOW)
    fund("b")
    keep(margin=NOW)
    first, second = LedgerSeal.objects.order_by("number")
    assert bytes(second.previous) == bytes(first.hash)
    epoch = second.until.replace(year=2000, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    micros = (second.until - epoch) // timedelta(microseconds=1)
    content = bytes(first.hash) + b"".join(
        number.to_bytes(size, "big", signed=True) for number, size in ((2, 8), (micros, 8), (1, 4), (2, 4))
    )
    assert bytes(second.hash) == hashlib.sha256(content + bytes(second.members)).digest()


def test_a_block_ends_with_the_instant_that_fills_it(fund):
    for key in "abcde":
        fund(key)
    assert keep(limit=2, margin=NOW) == 5
    assert [seal.transactions for seal in LedgerSeal.objects.order_by("number")] == [2, 2, 1]


def test_nothing_new_is_no_new_seal(fund):
    fund("a")
    assert keep(margin=NOW) == 1
    assert keep(margin=NOW) == 0
    assert LedgerSeal.objects.count() == 1


def test_what_was_recorded_a_moment_ago_waits_for_the_next_time(fund):
    fund("a")
    assert keep(margin=HOUR) == 0
    assert not LedgerSeal.objects.exists()
    assert not LedgerDay.objects.exists()


def test_pending_and_discarded_transactions_are_sealed_and_move_no_day(people, fund):
    fund("a", "5")
    entries = recipes.commit(buyer=people.acme, downpayment=usd("1"), expected=usd("1"))
    row = post_pending(entries=entries, key="p", source="test:p", recipe="commit", at=AT, actor=ACTOR)
    discard_pending(transaction=row, key="q", at=AT, actor=ACTOR)
    assert keep(margin=NOW) == 3
    assert LedgerSeal.objects.get().entries == 2
    assert LedgerDay.objects.count() == 2


def test_settings_of_the_session_change_no_digest(fund):
    fund("a")
    with connection.cursor() as cursor:
        read = "SELECT digest FROM ledger_digests('-infinity', 'infinity')"
        cursor.execute(read)
        before = cursor.fetchall()
        cursor.execute(
            "SET LOCAL timezone = 'Asia/Tokyo'; SET LOCAL datestyle = 'German, DMY';"
            " SET LOCAL bytea_output = 'escape'; SET LOCAL intervalstyle = 'iso_8601'"
        )
        cursor.execute(read)
        assert cursor.fetchall() == before != []


def test_a_transaction_with_an_old_snapshot_cannot_seal(transactional_db):
    with pytest.raises(InternalError, match="must see"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        keep(margin=NOW)


@pytest.mark.django_db(transaction=True)
def test_a_posting_that_has_not_ended_holds_the_seal_back_and_is_never_left_out(posted):
    people = make_people()
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("1"))
    posted("fund_wallet", entries, "opens the accounts")
    assert keep(margin=NOW) == 1
    written, commit = Event(), Event()

    def slow():
        with transaction.atomic():
            posted("fund_wallet", entries, "slow")
            written.set()
            commit.wait(10)
        connection.close()

    thread = Thread(target=slow)
    thread.start()
    assert written.wait(10)
    others = recipes.fund_wallet(platform=people.platform, buyer=people.northwind, amount=usd("1"))
    posted("fund_wallet", others, "quick")
    assert keep(margin=NOW, patience=timedelta(milliseconds=50)) == 0
    assert LedgerSeal.objects.count() == 1
    commit.set()
    assert keep(margin=NOW) == 2
    thread.join()
    keys = LedgerTransaction.objects.in_bulk(members(LedgerSeal.objects.get(number=2))[0])
    assert {row.key for row in keys.values()} == {"slow", "quick"}


@pytest.mark.django_db(transaction=True)
def test_two_keepers_seal_nothing_twice_and_postings_do_not_wait_for_them(posted):
    people = make_people()
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("1"))
    posted("fund_wallet", entries, "a")
    answers = []

    def work(name):
        for number in range(10):
            posted("fund_wallet", entries, f"{name}:{number}")
            answers.append(keep(margin=NOW))
        connection.close()

    threads = [Thread(target=work, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.append(keep(margin=NOW))
    assert sum(answers) == 31 == sum(seal.transactions for seal in LedgerSeal.objects.all())
    assert len({m for seal in LedgerSeal.objects.all() for m in members(seal)[0]}) == 31
    assert [m for seal in LedgerSeal.objects.order_by("number") for m in members(seal)[1]] == sorted(
        LedgerAccount.objects.values_list("pk", flat=True)
    )
    assert sum(day.entries for day in LedgerDay.objects.all()) == LedgerEntry.objects.count() == 62


def test_the_task_keeps_and_reads_are_the_same_before_and_after(fund, people):
    for number in range(4):
        fund(f"f{number}", "1", AT + number * 12 * HOUR)
    wanted = [(AT + hours * HOUR, hours // 12 * 100 + 100) for hours in (0, 12, 13, 24, 36)]

    def read():
        return [(at, balance(owner=people.acme, kind="AVAILABLE", currency="USD", at=at)) for at, _ in wanted]

    assert read() == wanted
    assert keep_days_and_seals() == 0  # a second has not passed
    assert keep(margin=NOW) == 4
    assert read() == wanted
    assert LedgerAccount.objects.count() == 2


def test_a_clock_that_was_set_back_writes_nothing_behind_a_seal(fund, people):
    fund("a")
    with connection.cursor() as cursor:  # as if it had been an hour later when this was sealed
        cursor.execute(
            "INSERT INTO ledger_ledgerseal (number, until, transactions, entries, members, previous, hash,"
            " sealed_at) VALUES (1, now() + interval '1 hour', 0, 0, '', '', '', now())"
        )
    sealed = LedgerSeal.objects.get()
    open_accounts(accounts=[(people.bridge, Kind.PAYABLE, "USD")])
    assert LedgerAccount.objects.get(owner=people.bridge).opened_at > sealed.until
    assert fund("b").recorded_at > sealed.until
    one, other = LedgerAccount.objects.exclude(owner=people.bridge).values_list("pk", flat=True)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_ledgerbalance SET recorded_at = now() - interval '1 day'")
        cursor.execute("SELECT ledger_transfer('t', %s, %s, 1)", [one, other])
    assert LedgerTransaction.objects.get(key="t").recorded_at > sealed.until
