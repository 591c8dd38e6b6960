"""No amount is larger than JSON can carry: whoever asks for more is told the field and the rule."""

from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from commerce.api.services import issue_key
from commerce.console.models import Approval
from commerce.errors import InvalidInput
from commerce.money import MAX_MINOR, Money
from commerce.parties.models import Organization
from ledger.models import LedgerAccount, LedgerBalance, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.recipes import Entry
from ledger.services import Posting, balances, post, post_all, post_pending
from tests.commerce.api.conftest import Api
from tests.ledger.conftest import ACTOR, AT, People, usd

LARGEST = Money(MAX_MINOR, "USD")
TOO_LARGE = [2**53, 2**63 - 1, 2**63, 10**30]


def nothing_was_written() -> bool:
    return not LedgerTransaction.objects.exists() and not LedgerBalance.objects.exclude(posted=0).exists()


def facts(error: InvalidInput) -> tuple[str, str]:
    return error.code, "".join(fault.pointer for fault in error.errors)


@pytest.mark.parametrize("minor", TOO_LARGE)
def test_an_amount_that_is_too_large_names_its_field_and_the_rule(minor: int) -> None:
    for signed in (minor, -minor):
        with pytest.raises(InvalidInput, match=r"larger than 2\^53 - 1 minor units") as refused:
            Money(signed, "USD")
        assert facts(refused.value) == ("amount_overflow", "/amount_minor")


def test_the_entries_of_a_transaction_do_not_sum_to_more_than_an_amount(people: People) -> None:
    entries = [
        *(Entry(people.acme, kind, LARGEST, "credit") for kind in ("AVAILABLE", "COMMITTED")),
        *(Entry(people.platform, kind, LARGEST, "debit") for kind in ("CASH_BANK", "CASH_PROCESSOR")),
    ]
    for write in (post, post_pending):
        with pytest.raises(InvalidInput, match=r"in USD come to more than 2\^53 - 1") as refused:
            write(entries=entries, key="k", source="s", recipe="fund_wallet", at=AT, actor=ACTOR)
        assert facts(refused.value) == ("amount_overflow", "/entries")
    assert nothing_was_written()


def test_what_is_set_aside_and_what_is_there_stay_an_amount_together(people: People) -> None:
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=LARGEST)
    words = {"source": "s", "recipe": "fund_wallet", "at": AT, "actor": ACTOR}
    post_pending(entries=entries, key="first", **words)
    for write, key in ((post_pending, "second"), (post, "third")):
        with pytest.raises(InvalidInput, match=r"cannot hold more than 2\^53 - 1") as refused:
            write(entries=entries, key=key, **words)
        assert refused.value.code == "amount_overflow"
    [wallet] = balances(owner=people.acme)
    assert (wallet.posted, wallet.pending) == (usd("0"), LARGEST)
    assert LedgerTransaction.objects.count() == 1


def test_the_postings_of_one_call_do_not_overflow_an_account(people: People) -> None:
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=LARGEST)
    for number in (2, 1_100):
        postings = [Posting(entries, f"k:{place}", "s", "fund_wallet", AT) for place in range(number)]
        with (
            pytest.raises(InvalidInput, match=r"more than 2\^53 - 1 minor units") as refused,
            transaction.atomic(),
        ):
            post_all(postings=postings, actor=ACTOR)
        assert refused.value.code == "amount_overflow"
    assert nothing_was_written()


def test_a_transfer_in_sql_names_the_rule_too(people: People, posted: Any) -> None:
    posted(
        "fund_wallet",
        recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("1")),
        "one",
    )
    accounts = list(LedgerAccount.objects.order_by("kind").values_list("pk", flat=True))
    for minor in (2**53, 2**63 - 1):
        with (
            pytest.raises(DatabaseError, match=r"p_amount is .* larger than 2\^53 - 1"),
            transaction.atomic(),
        ):
            connection.cursor().execute("SELECT ledger_transfer('k', %s, %s, %s)", [*accounts, minor])
    assert LedgerTransaction.objects.count() == 1


@pytest.mark.parametrize("minor", TOO_LARGE)
def test_the_api_names_the_field_and_the_rule(people: People, posted: Any, minor: int) -> None:
    funded = posted(
        "fund_wallet",
        recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("1")),
        "one",
    )
    owner, scopes = Organization.objects.platform(), ["ledger:read", "ledger:write"]
    key = Api(issue_key(organization=owner, scopes=scopes, label="key", actor=ACTOR, at=AT)[1])
    parts = [
        {"account_id": leg.account_id, "amount": {"amount_minor": minor, "currency": "USD"}}
        for leg in funded.entries.all()
    ]
    place = f"/api/v1/ledger/transactions/{funded.pk}/reversal-requests/"
    answer = key.post(place, {"reason": "x", "parts": parts})
    assert answer.status_code == 400
    (first, *_) = answer.json()["errors"]
    assert (first["code"], first["pointer"]) == ("number_too_large", "/parts/0/amount/amount_minor")
    assert "2^53 - 1" in first["detail"]
    assert not Approval.objects.exists()
