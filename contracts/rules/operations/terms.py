"""change_terms: how a contract is paid, renewed, billed, measured, taxed, divided and called.

The payload is a patch of sections: a field that is absent stays, one that is null goes back to the
platform's terms as they are when the edit is recorded, or to nothing.
"""

from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from commerce.errors import Conflict
from contracts.rules import schema
from contracts.rules.operations.base import EDITABLE, RUNNING, Operation, operation
from contracts.rules.periods import billing_period
from contracts.rules.platform import PER_CONTRACT, PlatformDefaults
from contracts.rules.schema import Patch
from contracts.rules.state import FINAL, Commitment, ContractState, evolve
from contracts.rules.terms import (
    AnchorDay,
    Payment,
    References,
    Renewal,
    SettlementTerms,
    Sla,
    Tax,
    Uplift,
    contradictions,
)

S = TypeVar("S")

# Whoever may pay later is given credit.
_CREDIT = ("net_days", "grace_days")
# What a buyer may choose for itself: how it pays, and whether the contract goes on.
_BUYERS = {"payment": {"collection", "method_ref"}, "renewal": {"auto"}}


@dataclass(frozen=True)
class Cycle:
    """Of the billing what may change while a contract runs: what comes next begins with a stub."""

    anchor_day: AnchorDay = 1
    cadence: Literal["P1M", "P3M", "P1Y"] = "P1M"


@dataclass(frozen=True)
class ChangeTerms:
    """A patch for each section that changes."""

    payment: Patch[Payment] = field(default_factory=Patch)
    renewal: Patch[Renewal] = field(default_factory=Patch)
    billing: Patch[Cycle] = field(default_factory=Patch)
    sla: Patch[Sla] = field(default_factory=Patch)
    tax: Patch[Tax] = field(default_factory=Patch)
    settlement: Patch[SettlementTerms] = field(default_factory=Patch)
    references: Patch[References] = field(default_factory=Patch)

    @property
    def sections(self) -> dict[str, Patch[Any]]:
        """The sections that change."""
        return {one.name: patch for one in fields(self) if (patch := getattr(self, one.name))}


def with_defaults(payload: ChangeTerms, defaults: PlatformDefaults) -> ChangeTerms:
    """The payload with each null that the platform has a value for as that value."""

    def of(section: str, name: str, value: Any) -> Any:
        if value is not None or name in PER_CONTRACT.get(section, ()) or not hasattr(defaults, section):
            return value
        if name == "partner_share" and not payload.settlement.values.get("partner_id"):
            return value
        return getattr(getattr(defaults, section), name)

    return replace(
        payload,
        **{
            section: Patch({name: of(section, name, value) for name, value in patch.values.items()})
            for section, patch in payload.sections.items()
        },
    )


def patched(value: S, patch: Patch[Any]) -> S:
    """`value` with the fields of the patch; a null is what holds where nobody said anything."""
    unsaid = type(value)()
    return evolve(
        value, **{name: getattr(unsaid, name) if one is None else one for name, one in patch.values.items()}
    )


@operation
class ChangeTermsOperation(Operation):
    name, label = "change_terms", "Change the terms"
    payload = ChangeTerms

    def allowed(self, payload: ChangeTerms) -> frozenset[str]:
        sections = payload.sections.keys()
        if sections <= {"references"}:
            return EDITABLE | FINAL
        return EDITABLE | {"expired"} if sections <= {"payment", "references"} else EDITABLE

    def needs_approval(self, state: ContractState, payload: ChangeTerms, at: datetime) -> str:
        """A draft is nobody's yet: who signs it agrees to it."""
        after = self.apply(state, payload, at)
        old, new = state.terms, after.terms
        if state.status == "draft":
            return ""
        if old.settlement != new.settlement:
            return "Another settlement divides the buyer's money otherwise."
        if old.tax != new.tax:
            return "Another tax changes what is owed to others."
        if any(getattr(new.payment, name) > getattr(old.payment, name) for name in _CREDIT):
            return "More days to pay are credit."
        if _raises_more(old.renewal.uplift, new.renewal.uplift):
            return "A higher uplift makes every renewal dearer."
        return ""

    def check(self, state: ContractState, payload: ChangeTerms, at: datetime) -> None:
        after = self.apply(state, payload, at)
        if faults := contradictions(after.terms, payload.sections.keys()):
            raise schema.invalid(faults)
        self.check_recorded(state, payload, at)
        if after.billing != state.billing and state.status in RUNNING:
            check_windows(state, at, "/billing")

    def check_recorded(self, state: ContractState, payload: ChangeTerms, at: datetime) -> None:
        """Whoever opts out says so in time: a date before the cutoff does not make it so."""
        before, after = state.terms.renewal, self.apply(state, payload, at).terms.renewal
        if not before.auto or after.auto or state.end_at is None:
            return
        last = state.end_at - timedelta(days=before.opt_out_days)
        # A term that is over and not renewed waits for its buyer, who was told of it too late.
        if state.status in RUNNING and last < at <= state.end_at:
            raise Conflict(
                f"The term ends at {state.end_at:%Y-%m-%d %H:%M} UTC and is renewed unless somebody opts out "
                f"{before.opt_out_days} days before, by {last:%Y-%m-%d %H:%M} UTC.",
                pointer="/renewal/auto",
                code="opt_out_too_late",
            )

    def apply(self, state: ContractState, payload: ChangeTerms, at: datetime) -> ContractState:
        sections = payload.sections
        if not state.exists:
            return state
        billing = patched(state.billing, sections.pop("billing", Patch()))
        changed = {name: patched(getattr(state.terms, name), patch) for name, patch in sections.items()}
        return evolve(state.billed_by(billing, at), terms=evolve(state.terms, **changed))

    def event(self, payload: ChangeTerms, before: ContractState) -> str:
        return "contract.terms_changed"

    def buyer_may(self, payload: ChangeTerms, state: ContractState) -> bool:
        sections = payload.sections.items()
        return all(
            name == "references" or patch.values.keys() <= _BUYERS.get(name, set())
            for name, patch in sections
        )


def _raises_more(old: Uplift, new: Uplift) -> bool:
    """Whether a renewal may come out dearer by the new uplift than by the old one."""
    if new.kind == "none":
        return False
    uncapped = old.cap is not None and (new.cap is None or new.cap > old.cap)
    return new.kind != old.kind or new.value > old.value or uncapped


def check_windows(state: ContractState, at: datetime, pointer: str) -> None:
    """Conflict (anchor_change_mid_commitment) where a commitment's window has begun: it is measured in the
    periods that it began with."""
    for commitment in state.commitments.values():
        _check_window(commitment, state, at, pointer)


def _check_window(commitment: Commitment, state: ContractState, at: datetime, pointer: str) -> None:
    if commitment.window == "term":
        start = max(commitment.since, state.term_start_at or commitment.since)
    elif commitment.window == "quarter":
        start = billing_period(state.billing.anchor_day, commitment.since, at, "P3M").start
    else:
        start = max(commitment.since, state.period(at).start)
    if start < at:
        raise Conflict(
            f"A commitment's {commitment.window} has run since {start:%Y-%m-%d %H:%M} UTC; the billing can "
            "change where one ends.",
            pointer=pointer,
            code="anchor_change_mid_commitment",
        )
