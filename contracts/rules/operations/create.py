"""create: a draft between one buyer and the sellers of its lines, in one currency, under terms."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import FieldError
from commerce.money import CURRENCIES
from contracts.rules import schema
from contracts.rules.operations.base import Operation, operation
from contracts.rules.operations.products import AddProduct, add_lines, check_lines
from contracts.rules.periods import add_months
from contracts.rules.schema import Between, Length, Pattern, Text
from contracts.rules.state import MAX_LINES, Billing, ContractState, Currency, Terms, Trial, evolve
from contracts.rules.terms import contradictions


@dataclass(frozen=True)
class Term:
    kind: Literal["fixed", "evergreen"] = "evergreen"
    months: Annotated[int, Between(1, 120)] | None = None


@dataclass(frozen=True)
class TrialPeriod:
    """Free until an instant or for so many days from the start; with `card_required`, not without a method of
    payment."""

    days: Annotated[int, Between(0, 90)] | None = None
    until: datetime | None = None
    on_end: Literal["convert", "expire"] = "convert"
    card_required: bool = False

    def begun(self, at: datetime) -> Trial | None:
        """The trial of a contract that goes live at `at`; None when it is over by then."""
        until = self.until or at + timedelta(days=self.days or 0)
        return Trial(until, on_end=self.on_end, card_required=self.card_required) if until > at else None


@dataclass(frozen=True)
class Create:
    """`end_policy` is what comes of the term's end: the contract expires, is renewed by itself (as the terms
    of renewal say), or goes on without an end. `quote_ref` is the seller's name for what was offered."""

    buyer_id: UUID
    currency: Currency
    start_at: datetime
    number: Annotated[str, Pattern("[A-Z0-9][A-Z0-9-]{2,31}", "3 to 32 of A-Z, 0-9 and -")] | None = None
    term: Term = field(default_factory=Term)
    billing: Billing = field(default_factory=Billing)
    terms: Terms = field(default_factory=Terms)
    lines: Annotated[tuple[AddProduct, ...], Length(MAX_LINES)] = ()
    end_policy: Literal["expire", "renew", "evergreen"] = "expire"
    trial: TrialPeriod | None = None
    quote_ref: Text | None = None

    @property
    def end_at(self) -> datetime | None:
        return add_months(self.start_at, self.term.months) if self.term.months else None

    @property
    def opened(self) -> ContractState:
        """The draft, yet without its lines."""
        renewal = self.terms.renewal
        if self.end_policy == "renew":
            renewal = evolve(renewal, auto=True)
        trial = self.trial
        return ContractState(
            status="draft",
            buyer_id=self.buyer_id,
            currency=self.currency,
            start_at=self.start_at,
            end_at=self.end_at,
            term_start_at=self.start_at,
            term_months=self.term.months,
            end_policy="evergreen" if self.end_policy == "evergreen" else "expire",
            billing=self.billing,
            terms=evolve(self.terms, renewal=renewal),
            trial=Trial(trial.until, trial.days, trial.on_end, trial.card_required) if trial else None,
        )


@operation
class CreateOperation(Operation[Create]):
    name, label = "create", "Create"
    payload = Create

    def allowed(self, payload: Create) -> frozenset[str]:
        return frozenset({"none"})

    def check(self, state: ContractState, payload: Create, at: datetime) -> None:
        errors = list(_faults(payload))
        if errors:
            raise schema.invalid(errors)
        check_lines(payload.opened, payload.lines, at)

    def apply(self, state: ContractState, payload: Create, at: datetime) -> ContractState:
        return state if state.exists else add_lines(payload.opened, payload.lines, at)

    def event(self, payload: Create, before: ContractState) -> str:
        return "contract.created"

    def buyer_may(self, payload: Create, state: ContractState) -> bool:
        return True


def trial_faults(trial: TrialPeriod, start: datetime, end: datetime | None) -> Iterator[FieldError]:
    """What of a trial that begins at `start` does not fit itself or the term."""
    if (trial.days is None) == (trial.until is None):
        yield FieldError("/trial/days", "trial_invalid", "A trial has either days or an end.")
        return
    place = "/trial/days" if trial.until is None else "/trial/until"
    until = trial.until or start + timedelta(days=trial.days or 0)
    if trial.until is not None and until <= start:
        yield FieldError(place, "trial_invalid", f"It ends before it starts at {start:%Y-%m-%d %H:%M} UTC.")
    if end is not None and until > end:
        yield FieldError(place, "trial_exceeds_term", f"The term ends at {end:%Y-%m-%d %H:%M} UTC.")


def _faults(payload: Create) -> list[FieldError]:
    found = []
    if payload.currency not in CURRENCIES:
        found.append(
            FieldError("/currency", "unknown_currency", f"{payload.currency} is not a currency we handle.")
        )
        return found
    if (payload.term.kind == "fixed") != (payload.term.months is not None):
        found.append(
            FieldError("/term/months", "term_invalid", "A fixed term has months, an evergreen one has none.")
        )
    downpayment = payload.terms.commitment.downpayment
    if downpayment and downpayment.currency != payload.currency:
        found.append(
            FieldError(
                "/terms/commitment/downpayment/currency",
                "currency_mismatch",
                f"The contract is in {payload.currency}, the downpayment in {downpayment.currency}.",
            )
        )
    if payload.end_policy != "expire" and payload.term.kind == "evergreen":
        found.append(FieldError("/end_policy", "term_invalid", "A term without an end has no end policy."))
    if payload.trial:
        found += trial_faults(payload.trial, payload.start_at, payload.end_at)
    return found + contradictions(payload.opened.terms, pointer="/terms")
