"""Reversals by hand: asked for by one, approved by another, never more than is left, never another app's."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import Client
from django.urls import reverse as url_of

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console.approvals import approve, describe, reject
from commerce.console.demo_users import ensure_demo_users
from commerce.console.models import Approval
from commerce.errors import Conflict, InsufficientFunds, InvalidInput, PermissionDenied, StateConflict
from commerce.money import Money
from commerce.parties.models import Organization
from commerce.tasks import expire_approvals
from ledger import services
from ledger.models import LedgerAccount, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Side
from ledger.rules.recipes import Entry
from ledger.services import (
    Part,
    discard_pending,
    post_pending,
    register_reversal_veto,
    request_reversal,
    reversal_veto,
    reverse,
    why_not_reverse,
)
from tests.commerce.api.conftest import Api
from tests.ledger.conftest import ACTOR, AT, People, holds, usd

SOON = AT + timedelta(hours=1)
Posted = Callable[..., LedgerTransaction]


@pytest.fixture
def staff(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    User.objects.create_superuser("root", password="root")
    User.objects.create_superuser("other", password="other")
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


@pytest.fixture
def maker(staff: dict[str, Actor]) -> Actor:
    return staff["operator"]


@pytest.fixture
def checker(staff: dict[str, Actor]) -> Actor:
    return staff["approver"]


@pytest.fixture
def funded(people: People, posted: Posted) -> LedgerTransaction:
    """150 USD that somebody has put into the wrong wallet by hand."""
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("150"))
    return posted("fund_wallet", entries, "fund")


def account(owner: Any, kind: str) -> int:
    return LedgerAccount.objects.get(owner=owner, kind=kind).pk


def parts(people: People, wallet: str, cash: str) -> list[Part]:
    return [
        Part(account(people.platform, "CASH_BANK"), usd(cash)),
        Part(account(people.acme, "AVAILABLE"), usd(wallet)),
    ]


def ask(transaction: LedgerTransaction, actor: Actor, **more: Any) -> Approval:
    given = {"transaction": transaction, "reason": "Wrong wallet.", "actor": actor, "at": AT}
    return request_reversal(**given | more)


def status(approval: Approval) -> str:
    return Approval.objects.get(pk=approval.pk).status


def nothing_was_posted(people: People, kept: str = "150") -> bool:
    return not LedgerTransaction.objects.filter(recipe="reversal").exists() and (
        holds(people.acme, "AVAILABLE") == holds(people.platform, "CASH_BANK") == usd(kept)
    )


def refusal(transaction: LedgerTransaction, actor: Actor, **more: Any) -> tuple[str, str]:
    """Code and place with which a request is refused."""
    before = LedgerEntry.objects.count()
    with pytest.raises((InvalidInput, Conflict)) as refused:
        ask(transaction, actor, **more)
    assert not Approval.objects.exists()
    assert LedgerEntry.objects.count() == before
    return refused.value.code, "".join(error.pointer for error in refused.value.errors)


# Requesting


def test_a_request_posts_nothing_and_says_what_it_would_post(
    people: People, funded: LedgerTransaction, maker: Actor
) -> None:
    approval = ask(funded, maker)
    approval.refresh_from_db()
    assert nothing_was_posted(people)
    assert approval.arguments == {
        "transaction_id": str(funded.pk),
        "reason": "Wrong wallet.",
        "legs": sorted(
            [
                {
                    "account_id": account(people.platform, "CASH_BANK"),
                    "side": "credit",
                    "amount_minor": 15000,
                    "currency": "USD",
                },
                {
                    "account_id": account(people.acme, "AVAILABLE"),
                    "side": "debit",
                    "amount_minor": 15000,
                    "currency": "USD",
                },
            ],
            key=lambda leg: leg["account_id"],
        ),
    }
    assert (approval.operation, approval.value) == ("ledger.reverse", usd("150"))
    assert (approval.subject_type, approval.subject_id) == ("ledger.ledgertransaction", str(funded.pk))
    said = describe(approval)
    assert "debit 150.00 USD, Acme: Available" in said
    assert "left to reverse after it: nothing" in said


def test_parts_of_everything_are_the_same_request_as_the_whole(
    people: People, funded: LedgerTransaction, maker: Actor, staff: dict[str, Actor]
) -> None:
    ask(funded, maker)
    with pytest.raises(Conflict) as refused:
        ask(funded, staff["root"], parts=parts(people, "150", "150"))
    assert refused.value.code == "approval_pending"
    assert Approval.objects.count() == 1


def test_who_may_not_request_requests_nothing(
    people: People, funded: LedgerTransaction, staff: dict[str, Actor]
) -> None:
    key, _ = issue_key(
        organization=Organization.objects.get(pk=people.acme),
        scopes=["ledger:write", "wallets:write"],
        label="key",
        actor=ACTOR,
        at=AT,
    )
    for actor in (staff["viewer"], staff["approver"], key.actor()):
        for parts_given in (None, []):  # nor do they learn what is wrong with it
            with pytest.raises(PermissionDenied):
                ask(funded, actor, parts=parts_given)
    assert not Approval.objects.exists()


def test_only_what_is_posted_can_be_reversed(people: People, funded: LedgerTransaction, maker: Actor) -> None:
    pending = post_pending(
        entries=recipes.request_refund(buyer=people.acme, amount=usd("10")),
        key="p",
        source="test:p",
        recipe="request_refund",
        at=AT,
        actor=ACTOR,
    )
    discarded = discard_pending(transaction=pending, key="d", at=AT, actor=ACTOR)
    for row in (pending, discarded):
        assert refusal(row, maker) == ("not_posted", "")
        assert row.status in why_not_reverse(row)


def test_what_was_reversed_whole_is_refused_and_what_is_left_can_be_taken(
    people: People, funded: LedgerTransaction, maker: Actor, checker: Actor
) -> None:
    first = ask(funded, maker, parts=parts(people, "60", "60"))
    assert "left to reverse after it: 90.00 USD" in describe(first)
    approve(approval=first, actor=checker, at=SOON)
    rest = ask(funded, maker)
    assert rest.value == usd("90")
    approve(approval=rest, actor=checker, at=SOON)
    assert holds(people.acme, "AVAILABLE") == usd("0")
    assert [row.key for row in funded.reversals.order_by("id")] == [
        f"reversal:{first.pk}",
        f"reversal:{rest.pk}",
    ]
    assert why_not_reverse(funded) == "All of it was reversed already."
    with pytest.raises(StateConflict) as refused:
        ask(funded, maker)
    assert refused.value.code == "already_reversed"
    assert Approval.objects.count() == 2


def test_a_wrong_part_is_named(
    people: People, funded: LedgerTransaction, posted: Posted, maker: Actor
) -> None:
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.bridge, amount=usd("1"))
    posted("fund_wallet", entries, "other")
    cash, wallet = account(people.platform, "CASH_BANK"), account(people.acme, "AVAILABLE")
    amount = "/amount/amount_minor"
    for given, code, pointer in (
        ([Part(cash, usd("150.01"))], "more_than_posted", f"/parts/0{amount}"),
        ([Part(cash, usd("1")), Part(wallet, usd("200"))], "more_than_posted", f"/parts/1{amount}"),
        ([Part(cash, usd("0"))], "amount_not_positive", f"/parts/0{amount}"),
        ([Part(cash, usd("-1"))], "amount_not_positive", f"/parts/0{amount}"),
        (
            [Part(account(people.bridge, "AVAILABLE"), usd("1"))],
            "account_not_in_posting",
            "/parts/0/account_id",
        ),
        ([Part(2**53 - 1, usd("1"))], "account_not_in_posting", "/parts/0/account_id"),
        ([Part(cash, usd("1")), Part(cash, usd("1"))], "account_twice", "/parts/1/account_id"),
        ([Part(cash, Money(1, "EUR"))], "currency_mismatch", "/parts/0/amount/currency"),
        ([Part(cash, usd("2")), Part(wallet, usd("1"))], "unbalanced", "/parts"),
        ([], "no_entries", "/parts"),
    ):
        assert refusal(funded, maker, parts=given) == (code, pointer)
    assert refusal(funded, maker, reason=" ") == ("required", "/reason")
    assert refusal(funded, maker, reason="x" * 301) == ("max_length", "/reason")


def test_an_account_on_both_sides_is_only_reversed_with_the_whole(
    people: People, funded: LedgerTransaction, posted: Posted, maker: Actor, checker: Actor
) -> None:
    legs = (
        Entry(people.acme, "AVAILABLE", usd("5"), Side.DEBIT),
        Entry(people.acme, "AVAILABLE", usd("3"), Side.CREDIT),
        Entry(people.platform, "CASH_BANK", usd("2"), Side.CREDIT),
    )
    row = posted("exchange_currency", legs, "both")
    assert refusal(row, maker, parts=parts(people, "2", "2")) == (
        "account_on_both_sides",
        "/parts/1/account_id",
    )
    approve(approval=ask(row, maker), actor=checker, at=SOON)
    assert holds(people.acme, "AVAILABLE") == usd("150")
    assert why_not_reverse(row) == "All of it was reversed already."


def test_money_that_was_spent_since_is_refused_at_once(
    people: People, funded: LedgerTransaction, posted: Posted, maker: Actor
) -> None:
    posted("request_refund", recipes.request_refund(buyer=people.acme, amount=usd("100")), "spent")
    assert refusal(funded, maker) == ("insufficient_funds", "")
    assert ask(funded, maker, parts=parts(people, "50", "50")).status == "pending"
    assert not LedgerTransaction.objects.filter(recipe="reversal").exists()


# Approving


def test_approving_posts_the_opposite_once_and_links_it(
    people: People, funded: LedgerTransaction, maker: Actor, checker: Actor
) -> None:
    approval = approve(approval=ask(funded, maker), actor=checker, at=SOON)
    back = LedgerTransaction.objects.get(recipe="reversal")
    assert (approval.status, approval.result_type) == ("approved", "ledger.ledgertransaction")
    assert approval.result_id == str(back.pk)
    assert (back.key, back.source, back.description) == (
        f"reversal:{approval.pk}",
        "test:fund",
        "Wrong wallet.",
    )
    assert (back.reverses, back.actor, back.effective_at) == (funded, str(checker), SOON)
    assert holds(people.acme, "AVAILABLE") == holds(people.platform, "CASH_BANK") == usd("0")
    with pytest.raises(StateConflict):
        approve(approval=approval, actor=checker, at=SOON)
    assert LedgerTransaction.objects.filter(recipe="reversal").count() == 1
    assert "Acme: Available" in describe(approval)


def test_a_maker_cannot_approve_their_own_reversal(
    people: People, funded: LedgerTransaction, staff: dict[str, Actor]
) -> None:
    approval = ask(funded, staff["root"])
    for actor in (staff["root"], staff["operator"], staff["viewer"], ACTOR):
        with pytest.raises(PermissionDenied):
            approve(approval=approval, actor=actor, at=SOON)
    assert nothing_was_posted(people)
    assert status(approval) == "pending"
    approve(approval=approval, actor=staff["other"], at=SOON)
    assert holds(people.acme, "AVAILABLE") == usd("0")


def test_an_expired_or_rejected_request_posts_nothing(
    people: People, funded: LedgerTransaction, maker: Actor, checker: Actor
) -> None:
    late = ask(funded, maker)
    with pytest.raises(StateConflict, match="expired"):
        approve(approval=late, actor=checker, at=late.expires_at)
    other = ask(funded, maker, parts=parts(people, "1", "1"))
    reject(approval=other, actor=checker, at=SOON, reason="It was right.")
    with pytest.raises(StateConflict):
        approve(approval=other, actor=checker, at=SOON)
    assert nothing_was_posted(people)
    assert (status(late), status(other)) == ("pending", "rejected")


@pytest.mark.parametrize(
    "change",
    [
        """arguments = jsonb_set(arguments, '{legs,0,amount_minor}', '1')""",
        """arguments = jsonb_set(arguments, '{transaction_id}', '"x"')""",
        """arguments = '{}'""",
    ],
)
def test_a_request_that_was_tampered_with_posts_nothing(
    people: People, funded: LedgerTransaction, maker: Actor, checker: Actor, change: str
) -> None:
    approval = ask(funded, maker)
    with connection.cursor() as cursor:  # what somebody can do who owns the database
        cursor.execute("ALTER TABLE console_approval DISABLE TRIGGER USER")
        cursor.execute(f"UPDATE console_approval SET {change} WHERE id = %s", [approval.pk])
        cursor.execute("ALTER TABLE console_approval ENABLE TRIGGER USER")
    approval.refresh_from_db()
    with pytest.raises(Conflict) as refused:
        approve(approval=approval, actor=checker, at=SOON)
    assert refused.value.code == "approval_tampered"
    assert nothing_was_posted(people)
    assert status(approval) == "pending"
    assert "no longer what was requested" in describe(approval)


def test_a_request_overtaken_by_another_is_refused_and_nothing_of_it_is_approved(
    people: People, funded: LedgerTransaction, maker: Actor, checker: Actor
) -> None:
    whole, part = ask(funded, maker), ask(funded, maker, parts=parts(people, "60", "60"))
    approve(approval=part, actor=checker, at=SOON)
    assert "posts nothing and closes the request" in describe(whole)
    closed = approve(approval=whole, actor=checker, at=SOON)
    assert (closed.status, closed.checker, closed.result_id) == ("cancelled", "", "")
    assert "90.00 USD can still be reversed" in closed.decision
    assert (status(whole), status(part)) == ("cancelled", "approved")
    with pytest.raises(StateConflict):
        approve(approval=whole, actor=checker, at=SOON)
    assert holds(people.acme, "AVAILABLE") == usd("90")
    assert funded.reversals.count() == 1


def test_the_tick_closes_what_was_overtaken_and_leaves_what_can_still_be_done(
    people: People, funded: LedgerTransaction, maker: Actor, clock: Any
) -> None:
    clock(SOON)
    whole, part = ask(funded, maker), ask(funded, maker, parts=parts(people, "60", "60"))
    assert expire_approvals() == 0
    rest = [leg.entry for leg in services.left_to_reverse(funded)]
    cut = [replace(entry, amount=usd("50")) for entry in rest]
    reverse(transaction=funded, key="by-another-way", at=AT, actor=ACTOR, reason="x", entries=cut)
    assert expire_approvals() == 1
    assert (status(whole), status(part)) == ("cancelled", "pending")
    assert "100.00 USD can still be reversed" in Approval.objects.get(pk=whole.pk).decision
    assert expire_approvals() == 0
    assert holds(people.acme, "AVAILABLE") == usd("100")


def test_the_checker_is_told_on_the_page_that_a_request_was_overtaken(
    people: People, funded: LedgerTransaction, maker: Actor, client: Client, clock: Any
) -> None:
    clock(SOON)
    approval = ask(funded, maker)
    reverse(transaction=funded, key="by-another-way", at=AT, actor=ACTOR, reason="returned by the bank")
    client.force_login(User.objects.get(username="approver"))
    button = url_of("admin:console_approval_do", args=[approval.pk, "approve"])
    page = client.get(button)
    assert "closes the request" in page.content.decode()
    assert status(approval) == "pending"
    seen = {"fingerprint": page.context["form"].initial["fingerprint"], "reason": "Agreed."}
    answer = client.post(button, seen, follow=True).content.decode()
    assert "nothing was done, and the request is closed" in answer
    assert "0.00 USD can still be reversed" in answer
    assert status(approval) == "cancelled"
    assert funded.reversals.count() == 1


def test_money_that_was_spent_while_it_waited_stays_and_the_request_waits_on(
    people: People, funded: LedgerTransaction, posted: Posted, maker: Actor, checker: Actor
) -> None:
    approval = ask(funded, maker)
    posted("request_refund", recipes.request_refund(buyer=people.acme, amount=usd("1")), "spent")
    with pytest.raises(InsufficientFunds):
        approve(approval=approval, actor=checker, at=SOON)
    assert status(approval) == "pending"
    assert holds(people.acme, "AVAILABLE") == usd("149")
    assert not funded.reversals.exists()


# What is not reversed by hand


def test_what_an_application_depends_on_is_refused_with_where_to_go(
    people: People, funded: LedgerTransaction, maker: Actor, checker: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = ask(funded, maker)
    monkeypatch.setattr("ledger.services.reversals._vetoes", {})
    register_reversal_veto(recipe="fund_wallet", source="elsewhere", sentence="Not here either.")
    assert why_not_reverse(funded) == ""
    register_reversal_veto(recipe="fund_wallet", source="test", sentence="Return the pay-in.")
    assert why_not_reverse(funded) == "Return the pay-in."
    with pytest.raises(StateConflict, match="Return the pay-in") as refused:
        ask(funded, maker, parts=parts(people, "1", "1"))
    assert refused.value.code == "not_by_hand"
    with pytest.raises(StateConflict, match="Return the pay-in"):
        approve(approval=waiting, actor=checker, at=SOON)
    assert nothing_was_posted(people)
    assert (status(waiting), Approval.objects.count()) == ("pending", 1)


def test_a_reversal_is_as_protected_as_what_it_reversed(
    people: People, funded: LedgerTransaction, maker: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = reverse(transaction=funded, key="back", at=AT, actor=ACTOR, reason="returned by the bank")
    assert why_not_reverse(back) == ""
    monkeypatch.setattr("ledger.services.reversals._vetoes", {})
    register_reversal_veto(recipe="fund_wallet", sentence="Return the pay-in.")
    assert refusal(back, maker) == ("not_by_hand", "")


def test_a_veto_names_a_recipe_that_there_is() -> None:
    with pytest.raises(ImproperlyConfigured):
        register_reversal_veto(recipe="fund_walet", sentence="x")


@pytest.mark.parametrize(("app", "sources"), [("billing", ("pay_in", "invoice")), ("payouts", ("payout",))])
def test_all_that_billing_and_payouts_post_is_theirs_to_undo(app: str, sources: tuple[str, ...]) -> None:
    code = "".join(path.read_text() for path in Path(app, "services").glob("*.py"))
    used = set(re.findall(r"\brecipes\.(\w+)\(", code))
    assert len(used) >= 4
    for recipe in used:
        rows = [LedgerTransaction(recipe=recipe, source=f"{source}:1") for source in sources]
        assert any(reversal_veto(row) for row in rows), recipe
    by_hand = LedgerTransaction(recipe="release", source="ledger_release:1")
    assert "payee's policy" in reversal_veto(by_hand)
    assert reversal_veto(LedgerTransaction(recipe="write_off_payee_debt", source="payout:1")) == ""


# Doors


def test_the_whole_way_over_http(
    people: People, funded: LedgerTransaction, staff: dict[str, Actor], client: Client, clock: Any
) -> None:
    clock(AT)
    organization = Organization.objects.platform()
    scopes = ["ledger:read", "ledger:write", "approvals:read"]
    _, plain = issue_key(organization=organization, scopes=scopes, label="key", actor=ACTOR, at=AT)
    api = Api(plain)
    place = f"/api/v1/ledger/transactions/{funded.pk}/reversal-requests/"
    body = {
        "reason": "Wrong wallet.",
        "parts": [
            {"account_id": part.account_id, "amount": {"amount_minor": 6000, "currency": "USD"}}
            for part in parts(people, "60", "60")
        ],
    }
    asked = api.post(place, body)
    assert asked.status_code == 201, asked.content
    approval = asked.json()
    assert (approval["status"], approval["operation"]) == ("pending", "ledger.reverse")
    assert approval["value"] == {"amount_minor": 6000, "currency": "USD"}
    assert nothing_was_posted(people)
    assert api.post(place, body).json()["code"] == "approval_pending"

    client.force_login(User.objects.get(username="approver"))
    button = url_of("admin:console_approval_do", args=[approval["id"], "approve"])
    page = client.get(button)
    assert "debit 60.00 USD, Acme: Available" in page.content.decode()
    seen = page.context["form"].initial["fingerprint"]
    done = client.post(button, {"fingerprint": seen, "reason": "Agreed."})
    assert done.status_code == 302, done.content

    shown = api.get(f"/api/v1/approvals/{approval['id']}/").json()
    back = api.get(f"/api/v1/ledger/transactions/{shown['result_id']}/").json()
    assert (shown["status"], back["reverses_id"], back["recipe"]) == ("approved", str(funded.pk), "reversal")
    assert holds(people.acme, "AVAILABLE") == usd("90")


def test_an_organizations_key_neither_requests_nor_sees_a_reversal(
    people: People, funded: LedgerTransaction, maker: Actor, clock: Any
) -> None:
    clock(AT)
    approval = ask(funded, maker)
    scopes = ["ledger:read", "ledger:write", "wallets:write"]
    owner = Organization.objects.get(pk=people.acme)
    api = Api(issue_key(organization=owner, scopes=scopes, label="key", actor=ACTOR, at=AT)[1])
    for pk in (funded.pk, uuid4()):
        answer = api.post(f"/api/v1/ledger/transactions/{pk}/reversal-requests/", {"reason": "Mine."})
        assert answer.status_code == 403
    assert api.get(f"/api/v1/approvals/{approval.pk}/").status_code == 403
    assert Approval.objects.count() == 1
    assert nothing_was_posted(people)


def test_a_platforms_key_without_the_writing_scope_requests_nothing(
    people: People, funded: LedgerTransaction, clock: Any
) -> None:
    clock(AT)
    owner = Organization.objects.platform()
    api = Api(issue_key(organization=owner, scopes=["ledger:read"], label="key", actor=ACTOR, at=AT)[1])
    answer = api.post(f"/api/v1/ledger/transactions/{funded.pk}/reversal-requests/", {"reason": "x"})
    assert answer.status_code == 403
    assert not Approval.objects.exists()


def press(client: Client, funded: LedgerTransaction, **given: str) -> Any:
    url = url_of("admin:ledger_ledgertransaction_do", args=[funded.pk, "reverse"])
    page = client.get(url)
    form = page.context["form"]
    values = {name: field.initial or "" for name, field in form.fields.items()}
    return client.post(url, {**values, **form.initial, "reason": "Wrong wallet.", **given})


def test_an_operator_asks_on_the_transactions_page_for_the_whole_or_a_part(
    people: People, funded: LedgerTransaction, staff: dict[str, Actor], client: Client, clock: Any
) -> None:
    clock(AT)
    client.force_login(User.objects.get(username="operator"))
    page = client.get(url_of("admin:ledger_ledgertransaction_do", args=[funded.pk, "reverse"]))
    said = page.content.decode()
    assert "until a second person approves it" in said
    assert "credit 150.00 USD" in said
    assert not Approval.objects.exists()
    assert press(client, funded).status_code == 302
    assert Approval.objects.get().value == usd("150")
    cash, wallet = (str(part.account_id) for part in parts(people, "1", "1"))
    assert press(client, funded, **{cash: "12.50", wallet: "12.50"}).status_code == 302
    assert Approval.objects.latest("id").value == usd("12.50")
    assert nothing_was_posted(people)


def test_what_is_wrong_is_said_on_the_page_and_nothing_is_asked(
    people: People, funded: LedgerTransaction, staff: dict[str, Actor], client: Client, clock: Any
) -> None:
    clock(AT)
    client.force_login(User.objects.get(username="operator"))
    cash, wallet = (str(part.account_id) for part in parts(people, "1", "1"))
    for given, sentence in (
        ({cash: "12.50"}, "do not balance"),
        ({cash: "150.01", wallet: "150.01"}, "can still be reversed"),
        ({cash: "", wallet: "0"}, "nothing to take back"),
        ({cash: "1e9"}, "such as 1250.00"),
        ({cash: "1.001"}, "more digits"),
        ({cash: "9999999999999999"}, "2^53"),
    ):
        answer = press(client, funded, **given)
        assert answer.status_code in (409, 422), given
        assert sentence in answer.content.decode(), given
    assert not Approval.objects.exists()


def test_the_button_says_why_it_cannot_be_pressed_and_is_no_viewers(
    people: People, funded: LedgerTransaction, staff: dict[str, Actor], client: Client, clock: Any
) -> None:
    clock(AT)
    reverse(transaction=funded, key="back", at=AT, actor=ACTOR, reason="twice")
    page = url_of("admin:ledger_ledgertransaction_change", args=[funded.pk])
    client.force_login(User.objects.get(username="operator"))
    assert "All of it was reversed already." in client.get(page).content.decode()
    assert press(client, funded).status_code == 409
    client.force_login(User.objects.get(username="viewer"))
    assert "Request reversal" not in client.get(page).content.decode()
    url = url_of("admin:ledger_ledgertransaction_do", args=[funded.pk, "reverse"])
    assert client.get(url).status_code == client.post(url, {"reason": "x"}).status_code == 403
    assert not Approval.objects.exists()


def test_what_is_left_is_read_without_a_query_per_account(
    people: People, posted: Posted, funded: LedgerTransaction, django_assert_max_num_queries: Any
) -> None:
    posted("commit", recipes.commit(buyer=people.acme, downpayment=usd("9"), expected=usd("0")), "set")
    row = posted(
        "forfeit_downpayment",
        recipes.forfeit_downpayment(
            platform=people.platform,
            buyer=people.acme,
            fee=usd("6"),
            payees={payee: usd("1") for payee in (people.northwind, people.bridge, people.acme)},
        ),
        "gone",
    )
    with django_assert_max_num_queries(2):
        assert len([str(leg) for leg in services.left_to_reverse(row)]) == 5
