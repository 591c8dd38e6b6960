"""Posting: once per key, balanced, never below zero, and a refusal leaves no trace."""

from dataclasses import replace
from datetime import datetime
from uuid import uuid4

import pytest
from django.db import transaction

from commerce.errors import Conflict, InsufficientFunds, InvalidInput, StateConflict
from commerce.ids import uuid7
from commerce.money import MAX_MINOR, Money
from ledger.models import LedgerAccount, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.rules.recipes import RECIPES, Entry
from ledger.services import (
    Posting,
    balances,
    discard_pending,
    post,
    post_all,
    post_pending,
    reverse,
    settle_pending,
)
from tests.ledger.conftest import ACTOR, AT, holds, usd


@pytest.fixture
def funded(people, posted):
    posted(
        "fund_wallet",
        recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("100")),
        "f",
    )
    return people


def commit(people, amount="40"):
    return recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd(amount))


def post_commit(people, amount="40", key="c", **changes):
    arguments = {"source": "contract:1", "recipe": "commit", "at": AT, "actor": ACTOR}
    return post(entries=commit(people, amount), key=key, **{**arguments, **changes})


def counts():
    return LedgerTransaction.objects.count(), LedgerEntry.objects.count()


def test_a_posting_records_who_why_and_both_times(funded):
    row = post_commit(funded, description="March")
    stored = LedgerTransaction.objects.get(pk=row.pk)
    for field in LedgerTransaction._meta.concrete_fields:
        written, read = getattr(row, field.attname), getattr(stored, field.attname)
        assert (bytes(read) if field.attname == "fingerprint" else read) == written, field.attname
    assert (stored.actor, stored.effective_at, stored.status) == ("system:test", AT, "posted")
    assert stored.explanation == RECIPES["commit"]
    assert stored.recorded_at > AT.replace(year=2026, month=1)


def test_the_same_key_and_content_gives_the_first_transaction(funded):
    first = post_commit(funded)
    before = counts()
    again = post_commit(funded, at=AT.replace(day=2), description="another wording")
    assert again == first
    assert again.effective_at == AT
    assert counts() == before
    assert holds(funded.acme, "COMMITTED") == usd("40")


@pytest.mark.parametrize(
    "change",
    [{"amount": "41"}, {"source": "contract:2"}, {"recipe": "uncommit"}],
    ids=["amount", "source", "recipe"],
)
def test_the_same_key_with_other_content_is_a_conflict(funded, change):
    first = post_commit(funded)
    before = counts()
    with pytest.raises(Conflict) as refused:
        post_commit(funded, **change)
    assert refused.value.code == "key_conflict"
    assert refused.value.extra == {"key": "c", "transaction_id": str(first.pk)}
    assert counts() == before
    assert holds(funded.acme, "COMMITTED") == usd("40")


def test_the_same_key_as_pending_is_a_conflict(funded):
    post_commit(funded)
    with pytest.raises(Conflict, match="other content"):
        post_pending(
            entries=commit(funded), key="c", source="contract:1", recipe="commit", at=AT, actor=ACTOR
        )


def test_too_little_money_is_refused_with_account_currency_balance_and_amount(funded):
    before = counts()
    with pytest.raises(InsufficientFunds) as refused:
        post_commit(funded, "100.01")
    assert refused.value.detail == "Acme's AVAILABLE account in USD holds 100.00 USD; 100.01 USD is needed."
    account = LedgerAccount.objects.get(owner=funded.acme, kind="AVAILABLE")
    assert refused.value.extra == {
        "account_id": account.pk,
        "owner_id": str(funded.acme),
        "kind": "AVAILABLE",
        "currency": "USD",
        "balance_minor": 10000,
        "amount_minor": 10001,
    }
    assert counts() == before
    assert holds(funded.acme, "AVAILABLE") == usd("100")


def test_a_refusal_leaves_the_callers_transaction_usable(funded):
    with transaction.atomic():
        with pytest.raises(InsufficientFunds):
            post_commit(funded, "101")
        post_commit(funded, "99", key="less")
    assert holds(funded.acme, "COMMITTED") == usd("99")


def test_platform_accounts_carry_no_condition(people, posted):
    payee, amount = people.northwind, usd("5")
    posted("return_payout", recipes.return_payout(platform=people.platform, payee=payee, amount=amount), "r")
    posted("request_payout", recipes.request_payout(payee=payee, amount=amount), "q")
    posted(
        "confirm_payout", recipes.confirm_payout(platform=people.platform, payee=payee, amount=amount), "c1"
    )
    posted(
        "fund_wallet", recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=amount), "f"
    )
    posted(
        "return_pay_in",
        recipes.return_pay_in(platform=people.platform, buyer=people.acme, amount=amount),
        "b",
    )
    assert holds(people.platform, "CASH_BANK") == usd("0")


def test_balances_of_two_currencies_do_not_help_each_other(funded):
    with pytest.raises(InsufficientFunds, match=r"AVAILABLE account in EUR holds 0\.00 EUR"):
        post(
            entries=recipes.commit(buyer=funded.acme, downpayment=Money(0, "EUR"), expected=Money(1, "EUR")),
            key="eur",
            source="contract:1",
            recipe="commit",
            at=AT,
            actor=ACTOR,
        )


def test_a_transaction_may_carry_two_currencies_if_each_balances(funded):
    p = funded
    usd_leg = recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=usd("1"))
    eur_leg = recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=Money(7, "EUR"))
    post(entries=(*usd_leg, *eur_leg), key="two", source="t", recipe="fund_wallet", at=AT, actor=ACTOR)
    assert holds(p.acme, "AVAILABLE") == usd("101")
    assert holds(p.acme, "AVAILABLE", "EUR") == Money(7, "EUR")


def bad(people, **changes):
    arguments = {"owner": people.acme, "kind": "AVAILABLE", "amount": usd("1"), "side": "credit"}
    return Entry(**{**arguments, **changes})


def good(people, **changes):
    return bad(people, **{"kind": "COMMITTED", "side": "debit", **changes})


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: [bad(p, amount=usd("0")), good(p)], "amount_not_positive"),
        (lambda p: [bad(p, amount=usd("-1")), good(p)], "amount_not_positive"),
        (lambda p: [bad(p, amount=Money(MAX_MINOR + 1, "USD")), good(p)], "amount_overflow"),
        (lambda p: [bad(p, amount=Money(1, "XXX")), good(p)], "unknown_currency"),
        (lambda p: [bad(p, kind="POCKET"), good(p)], "unknown_kind"),
        (lambda p: [bad(p, side="left"), good(p)], "unknown_side"),
        (lambda p: [bad(p, amount=usd("2")), good(p)], "unbalanced"),
        (lambda p: [bad(p, amount=Money(100, "EUR")), good(p)], "unbalanced"),
        (lambda p: [bad(p)], "unbalanced"),
        (lambda p: [], "no_entries"),
        (lambda p: [bad(p, owner=uuid4()), good(p)], "unknown_owner"),
    ],
)
def test_bad_entries_are_refused_and_nothing_is_written(funded, make, code):
    before = (*counts(), LedgerAccount.objects.count())
    with pytest.raises(InvalidInput) as refused:
        post(entries=make(funded), key="k", source="s", recipe="commit", at=AT, actor=ACTOR)
    assert refused.value.code == code
    if code != "unknown_owner":
        assert (*counts(), LedgerAccount.objects.count()) == before
    assert counts() == before[:2]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"at": datetime(2027, 3, 1)}, "invalid_instant"),
        ({"recipe": "improvise"}, "unknown_recipe"),
        ({"key": ""}, "invalid_key"),
        ({"key": "k" * 201}, "invalid_key"),
    ],
)
def test_bad_envelopes_are_refused(funded, change, code):
    before = counts()
    with pytest.raises(InvalidInput) as refused:
        post_commit(funded, **{"key": "k", **change})
    assert (refused.value.code, counts()) == (code, before)


@pytest.mark.parametrize("text", ["\x00", "\ud800", "caf\udce9"])
def test_what_is_no_text_is_refused_alone_and_in_a_batch(funded, text):
    before = counts()
    for name in ("description", "source", "key"):
        with pytest.raises(InvalidInput, match="cannot hold this posting"):
            post_commit(funded, **{"key": "k", name: text})
    made = posting(funded, "a", "1")
    with pytest.raises(InvalidInput, match="cannot hold this posting"):
        post_all(postings=[made, replace(made, key="b", description=text)], actor=ACTOR)
    assert counts() == before


def test_a_balance_that_json_could_not_carry_is_refused(funded):
    with pytest.raises(InvalidInput) as refused:
        post(
            entries=recipes.fund_wallet(
                platform=funded.platform, buyer=funded.acme, amount=Money(MAX_MINOR, "USD")
            ),
            key="all",
            source="s",
            recipe="fund_wallet",
            at=AT,
            actor=ACTOR,
        )
    assert refused.value.code == "amount_overflow"
    assert holds(funded.acme, "AVAILABLE") == usd("100")


def posting(people, key, amount, **changes):
    arguments = {"source": "s", "recipe": "commit", "at": AT}
    return Posting(commit(people, amount), key, **{**arguments, **changes})


def test_a_batch_is_written_whole_or_not_at_all(funded):
    before = counts()
    with pytest.raises(InsufficientFunds):
        post_all(postings=[posting(funded, "a", "60"), posting(funded, "b", "60")], actor=ACTOR)
    assert counts() == before
    rows = post_all(postings=[posting(funded, "b", "60"), posting(funded, "a", "40")], actor=ACTOR)
    assert [row.key for row in rows] == ["b", "a"]
    assert holds(funded.acme, "AVAILABLE") == usd("0")


def test_a_batch_returns_what_is_there_and_writes_the_rest(funded):
    (first,) = post_all(postings=[posting(funded, "b", "10")], actor=ACTOR)
    rows = post_all(postings=[posting(funded, k, "10") for k in "abc"], actor=ACTOR)
    assert rows[1] == first
    assert holds(funded.acme, "COMMITTED") == usd("30")
    with pytest.raises(Conflict):
        post_all(postings=[posting(funded, "d", "10"), posting(funded, "b", "11")], actor=ACTOR)
    assert not LedgerTransaction.objects.filter(key="d").exists()


def test_a_key_twice_in_one_batch_is_refused(funded):
    with pytest.raises(InvalidInput, match="same key"):
        post_all(postings=[posting(funded, "a", "1"), posting(funded, "a", "1")], actor=ACTOR)


def test_an_empty_batch_writes_nothing(db):
    assert post_all(postings=[], actor=ACTOR) == []


# two-phase


@pytest.fixture
def pending(funded):
    return post_pending(
        entries=commit(funded, "70"), key="p", source="contract:1", recipe="commit", at=AT, actor=ACTOR
    )


def wallet(people):
    by_kind = {b.account.kind: b for b in balances(owner=people.acme)}
    return [
        (b.posted.minor, b.pending.minor, b.available.minor)
        for b in (by_kind["AVAILABLE"], by_kind["COMMITTED"])
    ]


def test_a_pending_transaction_sets_money_aside_and_moves_nothing(funded, pending):
    assert pending.status == "pending"
    assert wallet(funded) == [(10000, 3000, 3000), (0, 7000, 0)]
    with pytest.raises(InsufficientFunds, match=r"holds 30\.00 USD; 30\.01 USD is needed"):
        post_commit(funded, "30.01")
    post_commit(funded, "30")
    assert wallet(funded) == [(7000, 0, 0), (3000, 10000, 3000)]


def test_announced_money_cannot_be_spent(funded, pending):
    with pytest.raises(InsufficientFunds, match="COMMITTED account"):
        post(
            entries=recipes.uncommit(buyer=funded.acme, downpayment=usd("0"), expected=usd("1")),
            key="u",
            source="s",
            recipe="uncommit",
            at=AT,
            actor=ACTOR,
        )


def test_settling_posts_it_once_and_the_pending_row_stays(funded, pending):
    settled = settle_pending(transaction=pending, key="p:settle", at=AT, actor=ACTOR)
    assert settle_pending(transaction=pending, key="p:settle", at=AT, actor=ACTOR) == settled
    assert (settled.status, settled.resolves, settled.recipe) == ("posted", pending, "commit")
    assert wallet(funded) == [(3000, 3000, 3000), (7000, 7000, 7000)]
    pending.refresh_from_db()
    assert (pending.status, pending.resolutions.get()) == ("pending", settled)


def test_discarding_gives_the_money_back_and_writes_no_entry(funded, pending):
    before = LedgerEntry.objects.count()
    discarded = discard_pending(transaction=pending, key="p:no", at=AT, actor=ACTOR, reason="expired")
    assert (discarded.status, discarded.description) == ("discarded", "expired")
    assert wallet(funded) == [(10000, 10000, 10000), (0, 0, 0)]
    assert LedgerEntry.objects.count() == before


@pytest.mark.parametrize("then", [settle_pending, discard_pending])
@pytest.mark.parametrize("first", [settle_pending, discard_pending])
def test_a_pending_transaction_is_resolved_at_most_once(funded, pending, first, then):
    first(transaction=pending, key="1", at=AT, actor=ACTOR)
    after = wallet(funded)
    with pytest.raises(StateConflict) as refused:
        then(transaction=pending, key="2", at=AT, actor=ACTOR)
    assert (refused.value.code, refused.value.extra["by"]) == ("already_resolved", "1")
    assert wallet(funded) == after


def test_only_a_pending_transaction_can_be_resolved(funded):
    row = post_commit(funded)
    for verb in (settle_pending, discard_pending):
        with pytest.raises(StateConflict, match="is posted"):
            verb(transaction=row, key="x", at=AT, actor=ACTOR)


# reversal


def test_a_reversal_takes_everything_back_and_names_what_it_reverses(funded):
    row = post_commit(funded)
    back = reverse(transaction=row, key="c:back", at=AT, actor=ACTOR, reason="typed twice")
    assert (back.reverses, back.recipe, back.description) == (row, "reversal", "typed twice")
    assert holds(funded.acme, "AVAILABLE") == usd("100")
    assert holds(funded.acme, "COMMITTED") == usd("0")
    assert reverse(transaction=row, key="c:back", at=AT, actor=ACTOR, reason="typed twice") == back


def test_a_transaction_is_reversed_at_most_once(funded):
    row = post_commit(funded)
    reverse(transaction=row, key="1", at=AT, actor=ACTOR, reason="")
    with pytest.raises(StateConflict) as refused:
        reverse(transaction=row, key="2", at=AT, actor=ACTOR, reason="")
    assert refused.value.code == "already_reversed"
    assert holds(funded.acme, "AVAILABLE") == usd("100")


def test_money_that_has_moved_on_cannot_be_reversed_away(funded):
    row = post_commit(funded)
    post(
        entries=recipes.uncommit(buyer=funded.acme, downpayment=usd("0"), expected=usd("40")),
        key="u",
        source="s",
        recipe="uncommit",
        at=AT,
        actor=ACTOR,
    )
    with pytest.raises(InsufficientFunds, match="COMMITTED account"):
        reverse(transaction=row, key="1", at=AT, actor=ACTOR, reason="")


def test_a_pending_transaction_cannot_be_reversed(funded, pending):
    with pytest.raises(StateConflict, match="is pending"):
        reverse(transaction=pending, key="1", at=AT, actor=ACTOR, reason="")


# recipes


def test_recipes_drop_zeros_and_refuse_what_does_not_balance():
    buyer, nothing = uuid7(), usd("0")
    assert recipes.commit(buyer=buyer, downpayment=nothing, expected=nothing) == ()
    assert [e.kind for e in recipes.commit(buyer=buyer, downpayment=nothing, expected=usd("1"))] == [
        Kind.AVAILABLE,
        Kind.COMMITTED,
    ]
    with pytest.raises(InvalidInput, match=r"do not balance in USD: 1\.00 USD debited, 2\.00 USD credited"):
        recipes.collect(
            platform=buyer,
            buyer=buyer,
            from_downpayment=nothing,
            from_committed=nothing,
            from_available=usd("1"),
            tax=usd("2"),
            fee=nothing,
            payees={},
        )
    with pytest.raises(InvalidInput, match="negative"):
        recipes.release(payee=buyer, amount=usd("-1"))


def test_every_recipe_has_one_line_of_explanation():
    assert {
        "fund_wallet", "commit", "uncommit", "collect", "release", "request_payout", "confirm_payout",
        "fail_payout", "return_payout", "return_pay_in", "reversal",
    } <= set(RECIPES)  # fmt: skip
    assert all(text.endswith(".") and "\n" not in text for text in RECIPES.values())


def test_every_kind_has_its_nature():
    assert all(kind == kind.name for kind in Kind)
    assert {k for k in Kind if k.nature.floor == 0} == {
        "AVAILABLE", "COMMITTED", "COMMITTED_DOWNPAYMENT", "DISPUTE_HOLD", "REFUND_PAYABLE",
        "PAY_IN_HOLDING", "RESERVE", "PAYABLE", "PAYOUT_IN_TRANSIT", "PAYEE_DISPUTE_HOLD",
    }  # fmt: skip
    assert Kind.CASH_BANK.nature.normal == Kind.PROMOTIONS.nature.normal == "debit"
    assert Kind.PLATFORM_FEES.nature.normal == Kind.TAX_PAYABLE.nature.normal == "credit"
