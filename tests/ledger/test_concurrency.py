"""Writers at the same time, on real connections: no overdraft, no deadlock, each key once."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from commerce.embedded import REPOSITORY
from commerce.errors import Busy, CommerceError, InsufficientFunds, StateConflict
from ledger.models import LedgerBalance, LedgerEntry, LedgerRelease, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.rules.recipes import Entry
from ledger.services import (
    balance,
    open_accounts,
    post,
    post_pending,
    release_due,
    reverse,
    schedule_release,
    settle_pending,
    verify_ledger,
)
from tests.ledger.conftest import ACTOR, AT, holds, make_people, usd
from tests.ledger.test_invariants import findings

pytestmark = pytest.mark.django_db(transaction=True)

THREADS = 8
PROCESSES, TURNS = 4, 40


def together(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Run work(0), work(1), … at once; returns each result, or the error it was refused with."""
    barrier, results = threading.Barrier(threads), [None] * threads

    def run(number: int) -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            results[number] = work(number)
        except BaseException as error:
            results[number] = error
        finally:
            connection.close()

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    unexpected = [r for r in results if isinstance(r, BaseException) and not isinstance(r, CommerceError)]
    assert unexpected == []
    return results


def fund(people, amount, key="fund"):
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount))
    return post(entries=entries, key=key, source="t", recipe="fund_wallet", at=AT, actor=ACTOR)


def spend(people, amount, key):
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd(amount))
    return post(entries=entries, key=key, source="t", recipe="commit", at=AT, actor=ACTOR)


def test_many_spenders_never_overdraw_a_wallet():
    people = make_people()
    fund(people, "100")

    def twenty_ones(number):
        done = 0
        for turn in range(20):
            try:
                spend(people, "1", f"{number}:{turn}")
                done += 1
            except InsufficientFunds:
                pass
        return done

    assert sum(together(twenty_ones)) == 100
    assert (holds(people.acme, "AVAILABLE"), holds(people.acme, "COMMITTED")) == (usd("0"), usd("100"))
    assert findings() == {}


def test_the_same_key_at_the_same_time_posts_once_and_everybody_gets_that_transaction():
    people = make_people()
    results = together(lambda _: fund(people, "100"))
    assert len({row.pk for row in results}) == 1
    assert holds(people.acme, "AVAILABLE") == usd("100")
    assert (LedgerTransaction.objects.count(), LedgerEntry.objects.count()) == (1, 2)


def test_the_same_key_with_other_content_at_the_same_time_posts_one_of_them():
    people = make_people()
    results = together(lambda number: fund(people, str(number + 1)))
    written = [row for row in results if isinstance(row, LedgerTransaction)]
    assert len(written) == 1
    assert {r.code for r in results if isinstance(r, CommerceError)} == {"key_conflict"}
    assert holds(people.acme, "AVAILABLE").minor == abs(written[0].entries.first().amount)


def test_who_loses_a_race_to_open_accounts_is_told_to_come_again():
    people = make_people()
    wallets = [(owner, Kind.AVAILABLE, "USD") for owner in (people.acme, people.northwind)]
    opened = threading.Barrier(2)

    def open_both(number):
        with transaction.atomic():
            open_accounts(accounts=[wallets[number]])
            opened.wait()
            open_accounts(accounts=[wallets[1 - number]])

    lost = [error for error in together(open_both, threads=2) if error is not None]
    assert [type(error) for error in lost] == [Busy]
    assert LedgerBalance.objects.count() == 2


def test_writers_over_the_same_few_accounts_in_any_order_do_not_deadlock():
    people = make_people()
    parties = [people.acme, people.northwind, people.bridge, people.platform]

    def shuffle(number):
        dice = random.Random(number)
        for turn in range(40):
            order = dice.sample(parties, len(parties))
            entries = [Entry(owner, "TAX_PAYABLE", usd("1"), "credit") for owner in order[:2]]
            entries += [Entry(owner, "TAX_PAYABLE", usd("1"), "debit") for owner in order[2:]]
            post(entries=entries, key=f"{number}:{turn}", source="t", recipe="commit", at=AT, actor=ACTOR)

    together(shuffle)
    assert LedgerTransaction.objects.count() == THREADS * 40
    assert sum(balance(owner=owner, kind="TAX_PAYABLE", currency="USD") for owner in parties) == 0
    assert findings() == {}


def test_two_people_settle_or_reverse_the_same_transaction_and_one_of_them_wins():
    people = make_people()
    fund(people, "100")
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("30"))
    pending = post_pending(entries=entries, key="p", source="t", recipe="commit", at=AT, actor=ACTOR)
    results = together(lambda n: settle_pending(transaction=pending, key=f"settle:{n}", at=AT, actor=ACTOR))
    (settled,) = [row for row in results if isinstance(row, LedgerTransaction)]
    assert {r.code for r in results if isinstance(r, StateConflict)} == {"already_resolved"}
    assert holds(people.acme, "COMMITTED") == usd("30")

    results = together(
        lambda n: reverse(transaction=settled, key=f"back:{n}", at=AT, actor=ACTOR, reason="twice")
    )
    assert len([row for row in results if isinstance(row, LedgerTransaction)]) == 1
    assert holds(people.acme, "AVAILABLE") == usd("100")
    assert findings() == {}


def test_ticks_beside_each_other_release_each_row_once():
    people = make_people()
    fund(people, "100")
    nothing = usd("0")
    entries = recipes.collect(
        platform=people.platform,
        buyer=people.acme,
        from_downpayment=nothing,
        from_committed=nothing,
        from_available=usd("100"),
        tax=nothing,
        fee=nothing,
        payees={people.northwind: usd("100")},
    )
    post(entries=entries, key="c", source="t", recipe="collect", at=AT, actor=ACTOR)
    for number in range(100):
        schedule_release(
            owner=people.northwind,
            amount=usd("1"),
            due_at=AT,
            source="t",
            key=str(number),
            at=AT,
            actor=ACTOR,
        )
    later = AT + timedelta(days=1)
    released = together(lambda _: release_due(at=later, actor=ACTOR), threads=4)
    released.append(release_due(at=later, actor=ACTOR))
    assert sum(released) == 100
    assert LedgerRelease.objects.filter(status="released").count() == 100
    assert holds(people.northwind, "PAYABLE") == usd("100")
    assert findings() == {}


def test_processes_over_five_accounts_neither_deadlock_nor_lose_or_invent_a_cent():
    people = make_people()
    fund(people, "10", key="seed")
    give = recipes.fund_wallet(platform=people.platform, buyer=people.northwind, amount=usd("10"))
    post(entries=give, key="seed:2", source="t", recipe="fund_wallet", at=AT, actor=ACTOR)
    environment = os.environ | {"DATABASE_NAME": connection.settings_dict["NAME"]}
    command = [sys.executable, "-m", "tests.ledger.writer"]
    writers = [
        subprocess.Popen(
            [*command, str(number), str(TURNS)],
            cwd=REPOSITORY,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    order = json.dumps({name: str(getattr(people, name)) for name in ("platform", "acme", "northwind")})
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * PROCESSES
    for writer in writers:
        writer.stdin.write(f"{order}\n")
        writer.stdin.flush()
    answers = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * PROCESSES

    cash, fees, acme, northwind, payable = (
        sum(amounts) for amounts in zip(*(answer["moved"] for answer in answers), strict=True)
    )
    assert cash + fees + acme + northwind + payable == 0
    # An asset counts its debits.
    assert holds(people.platform, "CASH_BANK").minor == 2_000 - cash
    assert holds(people.platform, "PLATFORM_FEES").minor == fees
    floored = [
        holds(people.acme, "AVAILABLE").minor,
        holds(people.northwind, "AVAILABLE").minor,
        holds(people.northwind, "PAYABLE").minor,
    ]
    assert floored == [1_000 + acme, 1_000 + northwind, payable]
    assert min(floored) >= 0
    assert LedgerBalance.objects.filter(account__kind="CASH_BANK", version__gt=0).count() > 1
    for stripe in LedgerBalance.objects.filter(version__gt=0):
        versions = LedgerEntry.objects.filter(account_id=stripe.account_id, stripe=stripe.stripe)
        assert sorted(versions.values_list("version", flat=True)) == list(range(1, stripe.version + 1))
    assert sum(answer["refused"] for answer in answers) > 0
    assert list(verify_ledger()) == []
