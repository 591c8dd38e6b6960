"""Recipes: the stories of docs/recipes.md are played step by step, and laws hold for any amounts.

The page gives every balance after every step. Its numbers are those of our published worked examples
where one exists, otherwise our own, worked out by hand.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from commerce.errors import InsufficientFunds, InvalidInput
from commerce.money import Money
from ledger.rules import recipes
from ledger.rules.kinds import BUYER, PAYEE, AccountClass, Kind, Side
from ledger.rules.recipes import FLOWS, RECIPES, Entry, Flow, mirrored
from ledger.services import balances, post
from tests.ledger.conftest import ACTOR, AT, holds, usd

PAGE = Path(settings.BASE_DIR) / "docs" / "recipes.md"
OWNERS = {name: uuid5(UUID(int=0), name) for name in ("platform", "buyer", "seller", "partner", "lender")}
WHO = {"payee": "seller", "borrower": "buyer", "funder": "platform"}
OTHER_CURRENCY = {
    ("receive_stablecoin", "received"): "USDC",
    ("receive_quoted_stablecoin", "received"): "USDC",
    ("sell_stablecoin", "sold"): "USDC",
    ("exchange_currency", "bought"): "EUR",
}
FUNCTIONS: dict[str, Callable[..., tuple[Entry, ...]]] = {
    name: getattr(recipes, name) for name in RECIPES if name != "reversal"
}
every_recipe = pytest.mark.parametrize("name", sorted(FUNCTIONS))

Account = tuple[UUID, str, str]


class Step(NamedTuple):
    recipe: str
    given: dict[str, str]
    balances: dict[Account, int]


def read_stories() -> dict[str, list[Step]]:
    """`# title`, `after` another story, then pairs of a recipe with its amounts and all balances."""
    stories: dict[str, list[Step]] = {}
    steps: list[Step] = []
    lines = iter(PAGE.read_text().split("```text\n")[1].split("```")[0].splitlines())
    for line in filter(None, lines):
        if line.startswith("# "):
            steps = stories[line[2:]] = []
        elif line.startswith("after "):
            steps.extend(stories[line.removeprefix("after ")])
        else:
            recipe, *amounts = line.split()
            steps.append(Step(recipe, dict(a.split("=") for a in amounts), read_balances(next(lines))))
    return stories


def read_balances(line: str) -> dict[Account, int]:
    """`FX_POSITION EUR -1.00, PAYABLE seller 2.00`: on the normal side; returned credit positive."""
    found = {}
    for text in line.strip().split(", ") if line.strip() != "nothing" else ():
        kind, *middle, amount = text.split()
        owner = next((word for word in middle if word in OWNERS), "platform")
        currency = next((word for word in middle if word.isupper()), "USD")
        minor = Money.parse(amount, currency).minor
        credit = Kind(kind).nature.normal == Side.CREDIT
        found[OWNERS[owner], kind, currency] = minor if credit else -minor
    return found


def read_money(text: str) -> Money:
    amount, currency = re.fullmatch(r"([\d.]+)([A-Z]*)", text).groups()
    return Money.parse(amount, currency or "USD")


def parameters(name: str) -> Iterator[tuple[str, Any]]:
    return ((p.name, p.annotation) for p in inspect.signature(FUNCTIONS[name]).parameters.values())


def called(name: str, given: Mapping[str, str], owners: Mapping[str, UUID] = OWNERS) -> tuple[Entry, ...]:
    """The recipe's entries for amounts as the page writes them; what is not given is zero."""
    values: dict[str, Any] = {}
    for parameter, annotation in parameters(name):
        text = given.get(parameter, "")
        if annotation is UUID:
            values[parameter] = owners[text or WHO.get(parameter, parameter)]
        elif annotation is Money:
            values[parameter] = read_money(text or "0")
        else:
            shares = (share.split(":") for share in text.split("+") if share)
            values[parameter] = {owners[payee]: read_money(amount) for payee, amount in shares}
    assert not given.keys() - values.keys(), f"{name} takes no {given.keys() - values.keys()}"
    return FUNCTIONS[name](**values)


def play(steps: list[Step]) -> Iterator[tuple[Step, dict[Account, int]]]:
    """A balance book in memory, after each step. Floors hold at every step."""
    book: Counter[Account] = Counter()
    entries: tuple[Entry, ...] = ()
    for step in steps:
        entries = mirrored(entries) if step.recipe == "reversal" else called(step.recipe, step.given)
        for entry in entries:
            book[entry.owner, entry.kind, entry.amount.currency] += entry.signed
        for (_, kind, _), balance in book.items():
            floor = Kind(kind).nature.floor
            assert floor is None or balance >= floor, f"{step.recipe} took {kind} to {balance}"
        yield step, {account: balance for account, balance in book.items() if balance}


STORIES = read_stories()


# the stories


@pytest.mark.parametrize("title", STORIES)
def test_after_each_step_every_account_holds_what_the_page_says(title: str) -> None:
    assert STORIES[title]
    for step, book in play(STORIES[title]):
        assert book == step.balances, step.recipe


def test_every_recipe_is_a_step_of_a_story() -> None:
    assert {step.recipe for steps in STORIES.values() for step in steps} == set(RECIPES)


def test_every_end_of_a_dispute_leaves_nothing_frozen_and_nothing_disputed() -> None:
    ends = [s for steps in STORIES.values() for s in steps if s.recipe.startswith(("lose_", "win_"))]
    assert len({step.recipe for step in ends}) == 4
    for step in ends:
        kinds = {kind for _, kind, _ in step.balances}
        assert not kinds & {Kind.DISPUTE_HOLD, Kind.PAYEE_DISPUTE_HOLD, Kind.DISPUTE_RECEIVABLE}, step


def test_after_the_spread_is_booked_the_position_is_zero_at_mid() -> None:
    *_, (step, book) = play(STORIES["10,000.00 USD are exchanged at 0.9120 when the mid rate is 0.9150"])
    assert step.recipe == "book_fx_spread"
    dollars, euros = (book[OWNERS["platform"], Kind.FX_POSITION, currency] for currency in ("USD", "EUR"))
    assert dollars < 0 < euros
    assert round(dollars + euros / Decimal("0.9150")) == 0


def test_a_used_up_trial_leaves_no_memo() -> None:
    *_, (step, book) = play(STORIES["a trial is half used and the rest lapses"])
    assert step.recipe == "expire_trial"
    assert not {kind for _, kind, _ in book} & {Kind.NOTIONAL, Kind.NOTIONAL_GRANTED}


# laws


def drawn(name: str, amounts: Iterator[int]) -> dict[str, Any]:
    """Arguments for any recipe; where both sides are given, what one lacks is added to it."""
    values: dict[str, Any] = {}
    for parameter, annotation in parameters(name):
        currency = OTHER_CURRENCY.get((name, parameter), "USD")
        if annotation is UUID:
            values[parameter] = uuid5(UUID(int=0), parameter)
        elif annotation is Money:
            values[parameter] = Money(next(amounts), currency)
        else:
            values[parameter] = {OWNERS["seller"]: Money(next(amounts), currency)}
    if name in ("collect", "collect_as_principal"):
        ours = "fee" if name == "collect" else "revenue"
        credits = [values["tax"], values[ours], *(values["payees"].values() if name == "collect" else ())]
        gap = sum(m.minor for k, m in values.items() if k.startswith("from_")) - sum(m.minor for m in credits)
        side = ours if gap > 0 else "from_available"
        values[side] = values[side] + Money(abs(gap), "USD")
    return values


amounts = st.lists(st.integers(0, 10**12), min_size=8, max_size=8)


@every_recipe
@given(minor=amounts)
def test_any_amounts_balance_in_each_currency_and_memo_by_itself(name: str, minor: list[int]) -> None:
    sums: Counter[tuple[str, bool]] = Counter()
    sides: dict[Account, str] = {}
    for entry in FUNCTIONS[name](**drawn(name, iter(minor))):
        memo = Kind(entry.kind).nature.account_class == AccountClass.MEMO
        sums[entry.amount.currency, memo] += entry.signed
        account = entry.owner, entry.kind, entry.amount.currency
        assert account not in sides, f"{entry.kind} is moved twice"
        sides[account] = entry.side
        assert entry.amount.minor > 0
    assert not any(sums.values())


@every_recipe
def test_nothing_is_moved_by_zero_amounts(name: str) -> None:
    assert FUNCTIONS[name](**drawn(name, iter([0] * 8))) == ()
    assert FUNCTIONS[name](**drawn(name, iter([1] * 8))) != ()


@every_recipe
def test_a_negative_amount_is_refused_wherever_it_stands(name: str) -> None:
    for parameter, annotation in parameters(name):
        values = drawn(name, iter([5] * 8))
        minus = Money(-1, OTHER_CURRENCY.get((name, parameter), "USD"))
        if annotation is not UUID:
            values[parameter] = minus if annotation is Money else {OWNERS["seller"]: minus}
            with pytest.raises(InvalidInput, match="negative"):
                FUNCTIONS[name](**values)


@every_recipe
def test_wallets_and_payees_are_never_mixed_with_the_platforms_accounts(name: str) -> None:
    """A platform account of a buyer's kind, or the other way round, would hide from every report."""
    theirs = {*BUYER, *PAYEE, Kind.BUYER_RECEIVABLE, Kind.SELLER_RECEIVABLE, Kind.FINANCING_RECEIVABLE}
    either = {Kind.NOTIONAL, Kind.NOTIONAL_GRANTED}
    for entry in FUNCTIONS[name](**drawn(name, iter([1] * 8))):
        of_platform = entry.owner == uuid5(UUID(int=0), "platform")
        assert entry.kind in either or of_platform == (entry.kind not in theirs), entry


# the register and the page


def test_every_recipe_belongs_to_a_flow_is_explained_and_can_be_imported() -> None:
    assert FLOWS.keys() == RECIPES.keys()
    assert set(FLOWS.values()) == set(Flow)
    assert set(FUNCTIONS) <= set(recipes.__all__)
    assert len(set(RECIPES.values())) == len(RECIPES)
    for name, text in RECIPES.items():
        assert re.fullmatch(r"[A-Z][^\n|]+[.]", text), name


def arrows(name: str) -> str:
    """`CASH_BANK → AVAILABLE of buyer`, one arrow per currency and one for memo."""
    labels = {uuid5(UUID(int=0), p): f" of {p}" for p, kind in parameters(name) if kind is UUID}
    labels |= {OWNERS["platform"]: "", OWNERS["seller"]: labels.get(OWNERS["seller"], " of each payee")}
    groups: dict[tuple[str, bool], tuple[list[str], list[str]]] = {}
    for entry in FUNCTIONS[name](**drawn(name, iter([1] * 8))):
        memo = Kind(entry.kind).nature.account_class == AccountClass.MEMO
        debits, credits = groups.setdefault((entry.amount.currency, memo), ([], []))
        (debits if entry.side == Side.DEBIT else credits).append(f"{entry.kind}{labels[entry.owner]}")
    return "; ".join(f"{' + '.join(debits)} → {' + '.join(credits)}" for debits, credits in groups.values())


def tables() -> str:
    text = ""
    for flow in Flow:
        text += f"### {flow}\n\n| recipe | what it means | debit → credit |\n|---|---|---|\n"
        for name in (name for name, of in FLOWS.items() if of == flow):
            moves = arrows(name) if name in FUNCTIONS else "each entry on its opposite side"
            text += f"| `{name}` | {RECIPES[name]} | {moves} |\n"
        text += "\n"
    return text


def test_the_page_shows_every_recipe_as_the_code_has_it() -> None:
    written = PAGE.read_text().split("## Flows\n\n")[1].split("## Worked numbers")[0]
    assert written == tables()


# through the ledger


def test_a_chargeback_after_the_payout_leaves_the_sellers_debt_in_the_ledger(people) -> None:
    owners = {"platform": people.platform, "buyer": people.acme, "seller": people.northwind}
    names = {OWNERS[name]: pk for name, pk in owners.items()}

    def ledger_balances() -> dict[Account, int]:
        rows = [(row.account, row.posted.minor) for row in balances()]
        return {(a.owner_id, a.kind, a.currency): a.on_normal_side(minor) for a, minor in rows if minor}

    for number, step in enumerate(STORIES["a dispute is lost after the seller was paid out"]):
        if step.recipe == "freeze_disputed":
            too_much = called(step.recipe, {"unspent": "800.01"}, owners)
            with pytest.raises(InsufficientFunds, match=r"800\.00 USD"):
                posted(too_much, step.recipe, "dispute:1:too_much")
            assert holds(people.acme, Kind.DISPUTE_HOLD) == usd("0")
        posted(called(step.recipe, step.given, owners), step.recipe, f"step:{number}")
        expected = {(names[o], kind, currency): minor for (o, kind, currency), minor in step.balances.items()}
        assert ledger_balances() == expected, step.recipe
    assert holds(people.northwind, Kind.SELLER_RECEIVABLE) == usd("160")
    assert holds(people.acme, Kind.DISPUTE_HOLD) == usd("0")


def posted(entries: tuple[Entry, ...], recipe: str, key: str) -> None:
    post(entries=entries, key=key, source="dispute:1", recipe=recipe, at=AT, actor=ACTOR)
