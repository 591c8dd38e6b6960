"""create: a draft between one buyer and the sellers of its lines, in one currency, under terms."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import FieldError
from commerce.money import CURRENCIES
from contracts.rules import schema
from contracts.rules.operations.base import Operation, operation
from contracts.rules.operations.products import AddProduct, add_lines, check_lines
from contracts.rules.periods import add_months
from contracts.rules.schema import Between, Pattern
from contracts.rules.state import Billing, ContractState, Currency, Terms
from contracts.rules.terms import contradictions


@dataclass(frozen=True)
class Term:
    kind: Literal["fixed", "evergreen"] = "evergreen"
    months: Annotated[int, Between(1, 120)] | None = None


@dataclass(frozen=True)
class Create:
    buyer_id: UUID
    currency: Currency
    start_at: datetime
    number: Annotated[str, Pattern("[A-Z0-9][A-Z0-9-]{2,31}", "3 to 32 of A-Z, 0-9 and -")] | None = None
    term: Term = field(default_factory=Term)
    billing: Billing = field(default_factory=Billing)
    terms: Terms = field(default_factory=Terms)
    lines: tuple[AddProduct, ...] = ()

    @property
    def end_at(self) -> datetime | None:
        return add_months(self.start_at, self.term.months) if self.term.months else None


@operation
class CreateOperation(Operation):
    name, label = "create", "Create"
    payload = Create

    def allowed(self, payload: Create) -> frozenset[str]:
        return frozenset({"none"})

    def check(self, state: ContractState, payload: Create, at: datetime) -> None:
        errors = list(_faults(payload))
        if errors:
            raise schema.invalid(errors)
        check_lines(replace(state, currency=payload.currency), payload.lines)

    def apply(self, state: ContractState, payload: Create, at: datetime) -> ContractState:
        opened = ContractState(
            status="draft",
            buyer_id=payload.buyer_id,
            currency=payload.currency,
            start_at=payload.start_at,
            end_at=payload.end_at,
            billing=payload.billing,
            terms=payload.terms,
        )
        return state if state.exists else add_lines(opened, payload.lines)

    def event(self, payload: Create, before: ContractState) -> str:
        return "contract.created"

    def buyer_may(self, payload: Create, state: ContractState) -> bool:
        return True


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
    return found + contradictions(payload.terms, pointer="/terms")
