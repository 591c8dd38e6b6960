"""The platform's terms: what a contract gets where it says nothing, and the limits of recording.

They come in versions. A contract keeps the values that were in force when it was created, so that a
new version moves no running contract.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

from commerce.errors import FieldError
from contracts.rules import schema
from contracts.rules.schema import Between, Share
from contracts.rules.terms import Days, Payment, Renewal, SettlementTerms, Sla, Tax, Terms, contradictions

Json = dict[str, Any]

# What only one contract can say: it names a party's own things, or an amount in its currency.
PER_CONTRACT = {
    "payment": ("method_ref", "late_fee_minor"),
    "tax": ("exempt_certificate", "place"),
    "settlement": ("partner_id",),
}


@dataclass(frozen=True)
class Limits:
    """How far edits reach in days, and the rise of a price (a share) above which two people are asked."""

    backdate_ops_days: Days = 31
    backdate_finance_days: Annotated[int, Between(0, 3660)] = 400
    max_ahead_days: Annotated[int, Between(1, 3653)] = 3653
    price_rise_approval: Share = Decimal("0.1")
    activation_timeout_days: Annotated[int, Between(1, 365)] = 60
    reinstate_days: Days = 30


@dataclass(frozen=True)
class PlatformDefaults:
    """One version's values: the sections of a contract's terms, and `limits`."""

    payment: Payment = field(default_factory=Payment)
    renewal: Renewal = field(default_factory=Renewal)
    sla: Sla = field(default_factory=Sla)
    tax: Tax = field(default_factory=Tax)
    settlement: SettlementTerms = field(default_factory=SettlementTerms)
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> Json:
        return dict(schema.dump(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PlatformDefaults":
        return schema.load(cls, data)


def changed(values: PlatformDefaults, changes: Mapping[str, Any]) -> PlatformDefaults:
    """`values` with the fields that `changes` names, by section. InvalidInput lists every fault.

    A field that is null goes back to what holds where nobody said anything.
    """
    merged = values.to_json()
    for section, fields in changes.items():
        if isinstance(fields, Mapping) and isinstance(merged.get(section), dict):
            kept = {**merged[section], **fields}
            merged[section] = {name: value for name, value in kept.items() if value is not None}
        else:
            merged[section] = fields
    found = schema.parse(PlatformDefaults, merged)
    if faults := list(_faults(found)):
        raise schema.invalid(faults)
    return found


def open_to_all(values: PlatformDefaults) -> Json:
    """What of these values a contract gets: section → field → value."""
    return {
        section: {name: value for name, value in fields.items() if name not in PER_CONTRACT.get(section, ())}
        for section, fields in values.to_json().items()
        if section != "limits"
    }


def filled(terms: Any, values: Json) -> Any:
    """The `terms` of a contract as JSON, with each field that they leave open as `values` has it.

    What is not an object stays as it is, for its fault to be found. Nobody has a partner's share without
    a partner.
    """
    if not isinstance(terms, Mapping):
        return terms
    whole = dict(terms)
    for section, fields in values.items():
        given = terms.get(section, {})
        if not isinstance(given, Mapping):
            continue
        whole[section] = {**fields, **given}
        if section == "settlement" and not whole[section].get("partner_id") and "partner_share" not in given:
            whole[section].pop("partner_share", None)
    return whole


def _faults(values: PlatformDefaults) -> Iterator[FieldError]:
    own = PlatformDefaults()
    for section, names in PER_CONTRACT.items():
        for name in names:
            if getattr(getattr(values, section), name) != getattr(getattr(own, section), name):
                yield FieldError(
                    f"/{section}/{name}", "per_contract", "Only a contract can say this, not the platform."
                )
    terms = Terms(payment=values.payment, renewal=values.renewal, sla=values.sla)
    yield from contradictions(terms, ("payment", "renewal", "sla"))
    if values.settlement.seasoning_days is None:
        yield FieldError("/settlement/seasoning_days", "required", "Somebody has to say how long.")
    limits = values.limits
    if limits.backdate_ops_days > limits.backdate_finance_days:
        yield FieldError(
            "/limits/backdate_finance_days",
            "out_of_range",
            f"Finance reaches back at least as far as operations, {limits.backdate_ops_days} days.",
        )
