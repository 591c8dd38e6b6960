"""Rules of the ledger that the database keeps, each as a function that fails when it is broken.

`test_planted_bugs` breaks every one of them; those of the last part need a second connection.
"""

from datetime import UTC, date, datetime, timedelta
from threading import Event, Thread
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction

from commerce.errors import CommerceError, Conflict, InsufficientFunds, InvalidInput, StateConflict
from commerce.parties.models import Organization
from ledger.models import LedgerAccount, LedgerBalance, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.rules.recipes import Entry, mirrored
from ledger.services import (
    Posting,
    balance,
    begin_closing,
    discard_pending,
    keep,
    open_accounts,
    post_all,
    post_pending,
    reverse,
    settle_pending,
    verify_ledger,
)
from tests.ledger.conftest import ACTOR, AT, usd
from tests.ledger.test_invariants import tamper

NOW = timedelta(0)
WAIT = 10


# words


def someone():
    return Organization.objects.create(name="Someone", slug=uuid4().hex, roles=["buyer"]).pk


def funding(owner, amount="100", at=AT):
    platform = Organization.objects.platform().pk
    entries = recipes.fund_wallet(platform=platform, buyer=owner, amount=usd(amount))
    return Posting(entries, uuid4().hex, "t", "fund_wallet", at)


def spending(owner, amount):
    entries = recipes.commit(buyer=owner, downpayment=usd("0"), expected=usd(amount))
    return Posting(entries, uuid4().hex, "t", "commit", AT)


def put(*postings):
    return post_all(postings=postings, actor=ACTOR)


def funded(amount="100"):
    owner = someone()
    open_accounts(accounts=[(owner, Kind.COMMITTED, "USD")])
    put(funding(owner, amount))
    return owner


def set_aside(owner, amount):
    posting = spending(owner, amount)
    return post_pending(
        entries=posting.entries, key=posting.key, source="t", recipe="commit", at=AT, actor=ACTOR
    )


def available(owner, **instants):
    return balance(owner=owner, kind="AVAILABLE", currency="USD", **instants)


def cash(**instants):
    platform = Organization.objects.platform().pk
    return balance(owner=platform, kind="CASH_BANK", currency="USD", **instants)


def wrong():
    return {finding.type for finding in verify_ledger(connections=1)}


def beside(work):
    """What `work` answers on a connection of its own, or raises."""
    answers = []

    def run():
        try:
            answers.append(work())
        except (CommerceError, DatabaseError) as error:
            answers.append(error)
        finally:
            connection.close()

    thread = Thread(target=run)
    thread.start()
    return thread, answers


def on_another_stripe(work):
    """The same, on a connection that writes to another stripe of a hot account than ours."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid() % 16")
        (ours,) = cursor.fetchone()
    found = Event()

    def elsewhere():
        while True:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid() % 16")
                if cursor.fetchone()[0] != ours:
                    break
            connection.close()
        found.set()
        return work()

    thread, answers = beside(elsewhere)
    assert found.wait(WAIT)
    return thread, answers


def await_blocked(thread):
    """Until somebody waits for one of our locks, or has no need to."""
    with connection.cursor() as cursor:
        while thread.is_alive():
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_locks l"
                " WHERE NOT l.granted AND pg_backend_pid() = ANY (pg_blocking_pids(l.pid)))"
            )
            if cursor.fetchone()[0]:
                return
            thread.join(0.005)


# rules that one connection can ask


def nobody_spends_more_than_they_have():
    owner = funded("100")
    with pytest.raises(InsufficientFunds):
        put(spending(owner, "100.01"))
    put(spending(owner, "100"))
    assert available(owner) == 0


def what_is_set_aside_is_not_spent():
    owner = funded("100")
    set_aside(owner, "60")
    with pytest.raises(InsufficientFunds):
        put(spending(owner, "40.01"))
    put(spending(owner, "40"))
    assert wrong() == set()


def an_account_without_a_floor_takes_any_amount():
    before = cash()
    funded("100")
    assert cash() - before == 10_000


def a_repeated_posting_happens_once():
    posting = funding(owner := someone())
    first, second = put(posting), put(posting)
    assert first == second
    assert available(owner) == 10_000
    assert wrong() == set()


def a_repeated_posting_beside_a_new_one_happens_once():
    old, new = funding(owner := someone()), funding(owner, "1")
    put(old)
    put(old, new)
    assert available(owner) == 10_100
    assert wrong() == set()


def a_key_stands_for_one_content():
    first, other = funding(someone()), funding(someone())
    put(first)
    with pytest.raises(Conflict):
        put(Posting(other.entries, first.key, "t", "fund_wallet", AT), funding(someone()))


def a_split_is_exact():
    owner, payees = funded("100"), [someone() for _ in range(3)]
    entries = [Entry(owner, "AVAILABLE", usd("0.10"), "debit")]
    shares = ("0.04", "0.03", "0.03")
    entries += [Entry(p, "PAYABLE", usd(s), "credit") for p, s in zip(payees, shares, strict=True)]
    put(Posting(entries, uuid4().hex, "t", "collect", AT))
    assert [balance(owner=p, kind="PAYABLE", currency="USD") for p in payees] == [4, 3, 3]
    moved = LedgerEntry.objects.filter(account__owner__in=payees).order_by("account__owner")
    assert {(e.account.owner_id, e.amount) for e in moved} == set(zip(payees, (4, 3, 3), strict=True))
    assert wrong() == set()


def what_does_not_balance_is_refused():
    owner = funded("100")
    account = LedgerAccount.objects.get(owner=owner, kind="AVAILABLE")
    with pytest.raises(DatabaseError, match="off balance"), transaction.atomic():
        one_legged(account)
    assert available(owner) == 10_000


def one_legged(account):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_post(ARRAY[%s::uuid], ARRAY[%s], ARRAY['x'::bytea], ARRAY['posted'], ARRAY['t'],"
            " ARRAY['commit'], ARRAY[''], 'a', ARRAY[now()], ARRAY[NULL::uuid], ARRAY[NULL::uuid], ARRAY[1],"
            " ARRAY[%s::uuid], ARRAY[%s], ARRAY['USD'], ARRAY[5::bigint])",
            [uuid4(), uuid4().hex, account.owner_id, account.kind],
        )


def entries_are_never_changed():
    owner = funded()
    for change in ("UPDATE ledger_ledgerentry SET amount = -amount", "DELETE FROM ledger_ledgerentry"):
        refused = pytest.raises(DatabaseError, match="never changed")
        with refused, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(change)
    assert LedgerEntry.objects.filter(account__owner=owner).get().amount == 10_000


def no_more_is_taken_back_than_was_posted():
    posting = funding(someone())
    (row,) = put(posting)
    arguments = {"transaction": row, "at": AT, "actor": ACTOR, "reason": ""}
    part = mirrored(funding(posting.entries[1].owner, "60").entries)
    reverse(key=uuid4().hex, entries=part, **arguments)
    with pytest.raises(InvalidInput):
        reverse(key=uuid4().hex, entries=part, **arguments)
    assert {available(e.owner) for e in posting.entries if e.kind == "AVAILABLE"} == {4_000}


def no_more_is_settled_than_was_set_aside():
    owner = funded()
    row = set_aside(owner, "60")
    more = spending(owner, "60.01").entries
    with pytest.raises(InvalidInput):
        settle_pending(transaction=row, key=uuid4().hex, at=AT, actor=ACTOR, entries=more)
    settle_pending(transaction=row, key=uuid4().hex, at=AT, actor=ACTOR)
    assert available(owner) == 4_000
    assert wrong() == set()


def what_was_set_aside_is_resolved_once():
    row = set_aside(funded(), "60")
    discard_pending(transaction=row, key=uuid4().hex, at=AT, actor=ACTOR)
    with pytest.raises(StateConflict):
        settle_pending(transaction=row, key=uuid4().hex, at=AT, actor=ACTOR)


def a_closed_month_takes_nothing():
    owner = funded()
    period = begin_closing(month=date(2027, 3, 1), actor=ACTOR, at=datetime(2027, 6, 1, tzinfo=UTC))
    (row,) = put(funding(owner, "7"))
    assert (row.adjusts_period, row.meant_at) == (period, AT)
    assert available(owner, at=period.ends_at - timedelta(microseconds=1)) == 10_000
    assert available(owner, at=period.ends_at) == 10_700


def a_transfer_into_a_closed_month_goes_to_the_next():
    one, other = (LedgerAccount.objects.get(owner=funded(), kind="AVAILABLE").pk for _ in range(2))
    period = begin_closing(month=date(2027, 3, 1), actor=ACTOR, at=datetime(2027, 6, 1, tzinfo=UTC))
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_transfer(%s, %s, %s, 5, %s)", [uuid4().hex, one, other, AT])
        (pk,) = cursor.fetchone()
    row = LedgerTransaction.objects.get(pk=pk)
    assert (row.effective_at, row.adjusts_period) == (period.ends_at, period)


def a_refused_transfer_moves_nothing():
    """Neither from the account that is locked first, nor from the one that is locked second."""
    ids = sorted(LedgerAccount.objects.get(owner=funded(), kind="AVAILABLE").pk for _ in range(2))
    for source, to in (ids, ids[::-1]):
        refused = pytest.raises(DatabaseError, match="insufficient")
        with refused, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT ledger_transfer(%s, %s, %s, 10001)", [uuid4().hex, source, to])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT ledger_move(%s, %s, 'x', 's', 'transfer', '', 'a', now(), %s, %s, %s)",
                [uuid4(), uuid4().hex, *ids, -10_001 if source == ids[0] else 10_001],
            )
            assert cursor.fetchone() == (None,)
    assert wrong() == set()


def a_refused_batch_moves_nothing():
    """Not of what could have been moved either, and the caller's transaction goes on."""
    rich, poor = funded("100"), funded("10")
    with transaction.atomic():
        with pytest.raises(InsufficientFunds):
            put(spending(rich, "60"), spending(poor, "60"))
        put(spending(rich, "100"))
    assert (available(rich), available(poor)) == (0, 1_000)
    assert wrong() == set()


def an_instant_includes_what_is_effective_at_it():
    owner = funded()
    assert available(owner, at=AT) == 10_000
    assert available(owner, at=AT - timedelta(microseconds=1)) == 0


def what_was_known_is_what_had_been_recorded():
    owner = funded()
    first = LedgerTransaction.objects.latest("recorded_at").recorded_at
    put(funding(owner, "5"))
    assert available(owner, known_at=first) == available(owner, at=AT, known_at=first) == 10_000
    assert available(owner, at=AT) == 10_500


def days_are_the_sums_of_their_entries():
    owner = funded()
    put(spending(owner, "1"))
    assert keep(margin=NOW)
    assert available(owner, at=AT + timedelta(days=2)) == 9_900
    assert wrong() == set()


def nothing_is_sealed_within_the_margin():
    funded()
    assert keep(margin=timedelta(hours=1)) == 0


def nothing_is_recorded_behind_a_seal():
    owner = funded()
    with connection.cursor() as cursor:  # as if the clock had been set back by an hour since
        cursor.execute(
            "INSERT INTO ledger_ledgerseal (number, until, transactions, entries, members, previous, hash,"
            " sealed_at) VALUES (1, now() + interval '1 hour', 0, 0, '', '', '', now()) RETURNING until"
        )
        (sealed,) = cursor.fetchone()
    (row,) = put(funding(owner))
    assert row.recorded_at > sealed


def sealed_rows_cannot_be_changed_unnoticed():
    funded()
    assert keep(margin=NOW)
    assert wrong() == set()
    tamper("UPDATE ledger_ledgertransaction SET actor = 'user:somebody else'")
    assert wrong() == {"sealed_row_changed"}


def accounts_cannot_be_given_away_unnoticed():
    owner = funded()
    assert keep(margin=NOW)
    assert wrong() == set()
    tamper("UPDATE ledger_ledgeraccount SET owner_id = %s WHERE owner_id = %s", someone(), owner)
    assert wrong() == {"sealed_row_changed"}


# rules that need two connections


def between_hot_accounts(amount):
    platform = Organization.objects.platform().pk
    legs = [Entry(platform, "CASH_BANK", usd(amount), "debit")]
    legs.append(Entry(platform, "PLATFORM_FEES", usd(amount), "credit"))
    return Posting(legs, uuid4().hex, "t", "fund_wallet", AT)


def two_parts_at_once_share_what_was_posted():
    """On accounts of many stripes nothing but the original is between the two."""
    posting = between_hot_accounts("100")
    (row,) = put(posting)
    before = cash()
    part = {"entries": mirrored(between_hot_accounts("60").entries), "transaction": row}
    others = {"at": AT, "actor": ACTOR, "reason": ""}
    with transaction.atomic():
        reverse(key=uuid4().hex, **part, **others)
        thread, answers = on_another_stripe(lambda: reverse(key=uuid4().hex, **part, **others))
        await_blocked(thread)
    thread.join(WAIT)
    assert [type(answer) for answer in answers] == [InvalidInput]
    assert cash() - before == -6_000


def a_reversal_repeated_at_the_same_time_is_the_first_one():
    (row,) = put(between_hot_accounts("100"))
    before = cash()
    call = {"transaction": row, "key": uuid4().hex, "at": AT, "actor": ACTOR, "reason": ""}
    with transaction.atomic():
        first = reverse(**call)
        thread, answers = on_another_stripe(lambda: reverse(**call))
        await_blocked(thread)
    thread.join(WAIT)
    assert answers == [first]
    assert cash() - before == -10_000


def locks_are_taken_in_one_order(size=1):
    """One holds the account of the smaller number and asks for the other; nobody may hold that and wait."""
    low, high = funded(), funded()

    def within(owner):
        legs = [Entry(owner, "AVAILABLE", usd("1"), side) for side in ("debit", "credit")]
        return Posting(legs, uuid4().hex, "t", "commit", AT)

    def across(payer, payee):
        legs = [Entry(payer, "AVAILABLE", usd("1"), "debit"), Entry(payee, "AVAILABLE", usd("1"), "credit")]
        return Posting(legs, uuid4().hex, "t", "commit", AT)

    def without_another_try():
        with transaction.atomic():
            return put(*[across(high, low) for _ in range(size)])

    with transaction.atomic():
        put(within(low))
        thread, answers = beside(without_another_try)
        await_blocked(thread)
        put(within(high))
    thread.join(WAIT)
    assert [type(answer) for answer in answers] == [list]
    assert (available(low), available(high)) == (10_000 + 100 * size, 10_000 - 100 * size)


def locks_of_a_batch_are_taken_in_one_order():
    locks_are_taken_in_one_order(size=2)


def every_stripe_counts():
    before, writers = cash(), 0
    used = LedgerBalance.objects.filter(account__kind="CASH_BANK", version__gt=0)
    owner = someone()
    while writers < 2 or used.count() < 2:
        thread, answers = beside(lambda: put(funding(owner)))
        thread.join(WAIT)
        assert [type(answer) for answer in answers] == [list]
        writers += 1
    assert cash() - before == 10_000 * writers
    assert cash(at=AT) == cash(known_at=datetime.now(UTC)) == cash()


def a_posting_that_has_not_ended_is_never_left_out_of_the_seals():
    slow, quick = funded(), funded()
    keep(margin=NOW)
    with transaction.atomic():
        put(spending(slow, "1"))
        thread, answers = beside(
            lambda: (put(spending(quick, "1")), keep(margin=NOW, patience=timedelta(milliseconds=20)))
        )
        thread.join(WAIT)
    assert [sealed for _, sealed in answers] == [0]
    assert keep(margin=NOW) == 2
    assert wrong() == set()
