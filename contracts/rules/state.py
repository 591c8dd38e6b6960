"""The state of a contract at one instant, as the fold computes it: frozen values and their JSON."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from commerce.money import exponent
from contracts.rules import schema
from contracts.rules.periods import Cadence, Period, billing_period
from contracts.rules.schema import Between, Length, Minor, Pattern, Quantity, Rate, Share
from contracts.rules.terms import Amount, Billing, Currency, Terms

__all__ = ["Amount", "Billing", "Currency", "Terms"]

Kind = Literal["recurring", "usage", "one_off"]
BillFrom = Literal["effective", "in_service"]
HoldReason = Literal["buyer", "non_payment", "abuse", "seller_fault", "maintenance", "legal"]
MAX_LINES = 200
SomeLines = Annotated[tuple[UUID, ...], Length(MAX_LINES)]
Scope = Literal["all"] | SomeLines

NOBODY = UUID(int=0)
FINAL = frozenset({"expired", "terminated", "cancelled"})


Percent = Annotated[Decimal, Between(0, 1, below="percent_out_of_range", above="percent_out_of_range")]

T = TypeVar("T")


def evolve(value: T, **changes: Any) -> T:
    """`dataclasses.replace` without running the constructor: the fold makes thousands of these."""
    changed = object.__new__(type(value))
    changed.__dict__.update(value.__dict__)
    changed.__dict__.update(changes)
    return changed


@dataclass(frozen=True)
class Tier:
    """Units up to and including `up_to` (None: without end) cost `rate` each and `flat_minor` once."""

    up_to: Quantity | None = None
    rate: Rate = Decimal(0)
    flat_minor: Minor = 0


@dataclass(frozen=True)
class Price:
    """What a line costs in a billing month, `rate` in major units.

    flat: `rate` however many; unit: per unit; graduated, volume: by `tiers`; package: per started
    `package_size`; one_off: once, per unit. `included` units are free in each period; the period's
    charge is at least `min_minor` and at most `max_minor`. Bounds are prorated in a stub only if said.
    """

    sparse: ClassVar[bool] = True

    model: Literal["flat", "unit", "graduated", "volume", "package", "one_off"]
    rate: Rate = Decimal(0)
    currency: Currency = ""
    tiers: Annotated[tuple[Tier, ...], Length(100)] = ()
    package_size: Quantity | None = None
    included: Quantity = Decimal(0)
    min_minor: Minor | None = None
    max_minor: Minor | None = None
    prorate_bounds: bool = False

    @property
    def minor_rate(self) -> Decimal:
        """The rate in minor units, unrounded."""
        return self.rate.scaleb(exponent(self.currency))


@dataclass(frozen=True)
class LineSettlement:
    """Where a line's seller has agreed to other terms than the contract's."""

    fee_rate: Share | None = None
    seasoning_days: Annotated[int, Between(0, 365)] | None = None


@dataclass(frozen=True)
class Forfeited:
    """What was unused of a line when it was removed, billed on as it was then: to whom, at which share."""

    until: datetime
    buyer_id: UUID
    owner_epoch: int
    share: Share = Decimal(1)


@dataclass(frozen=True)
class LineState:
    """One line; a removed line stays, no longer live, so that its history keeps its seller.

    `forfeited`: removed, yet still billed. `renewed_price_at`: when a price took effect that was agreed for
    a new term, which an uplift then leaves alone. `billed_quantity` stands in for the quantity until
    `billed_until`.
    """

    line_id: UUID
    product_code: str
    kind: Kind
    unit: str
    meter: str
    seller_id: UUID
    quantity: int
    price: Price
    live: bool = True
    offer_id: UUID | None = None
    unit_ids: tuple[str, ...] = ()
    bill_from: BillFrom = "effective"
    added_at: datetime | None = None
    end_at: datetime | None = None
    min_term_until: datetime | None = None
    forfeited: Forfeited | None = None
    renewed_price_at: datetime | None = None
    billed_quantity: int | None = None
    billed_until: datetime | None = None
    sla_policy: str = ""
    tax_code: str = ""
    settlement: LineSettlement | None = None

    @property
    def billable(self) -> int:
        """The units that are billed: those of before for the rest of a period that was not prorated."""
        return self.quantity if self.billed_quantity is None else self.billed_quantity


@dataclass(frozen=True)
class Hold:
    """One open suspension. Holds of different reasons nest; the scope is free when none is left.

    `billing` reduced charges `reduced_to` of the price. `extends_term`: what the hold lasted is added to
    the term when it is lifted.
    """

    reason: HoldReason
    scope: Scope
    billing: Literal["stop", "continue", "reduced"]
    access: Literal["block", "keep"]
    since: datetime
    reduced_to: Share = Decimal(0)
    extends_term: bool = False
    resume_at: datetime | None = None

    def covers(self, line_id: UUID) -> bool:
        return self.scope == "all" or line_id in self.scope

    @property
    def share(self) -> Decimal:
        """The part of the price that is still charged."""
        return {"stop": Decimal(0), "continue": Decimal(1), "reduced": self.reduced_to}[self.billing]


@dataclass(frozen=True)
class Trial:
    """Nothing is billed before `until`; then it converts to billing, or the contract ends.

    One of `days` stands for `until` as long as the contract is not live. `card_required`: it does not go
    live without a method of payment.
    """

    until: datetime | None = None
    days: int | None = None
    on_end: Literal["convert", "expire"] = "convert"
    card_required: bool = False


@dataclass(frozen=True)
class RampStep:
    """From this month of the discount on (1 is the first), this share off."""

    from_month: Annotated[int, Between(1, 120)]
    percent: Percent


@dataclass(frozen=True)
class Discount:
    """In force from `since` until `ends_at` (None: for good). `percent` is a share (0.1 is ten off).

    `seller_share` of it is borne by the seller, the rest by the platform.
    """

    discount_id: UUID
    scope: Scope
    kind: Literal["percent", "fixed_per_period", "free_units", "ramp"]
    since: datetime
    percent: Share = Decimal(0)
    amount_minor: Minor = 0
    units: Quantity = Decimal(0)
    ramp: tuple[RampStep, ...] = ()
    stack_order: int = 0
    seller_share: Share = Decimal(1)
    coupon_code: str = ""
    ends_at: datetime | None = None

    def covers(self, line_id: UUID) -> bool:
        return self.scope == "all" or line_id in self.scope


@dataclass(frozen=True)
class Commitment:
    """A minimum of money or of units over each window of its scope, from `since` until `ends_at`.

    What falls short is charged as true-up; units beyond it cost `overage_factor` times the rate.
    """

    commitment_id: UUID
    kind: Literal["minimum_spend", "minimum_quantity"]
    scope: Scope
    since: datetime
    amount_minor: Minor = 0
    units: Quantity = Decimal(0)
    window: Literal["period", "quarter", "term"] = "period"
    true_up: Literal["window", "term_end", "none"] = "window"
    overage_factor: Decimal = Decimal(1)
    rollover_units: Quantity = Decimal(0)
    on_termination: Literal["prorate", "full", "waive"] = "prorate"
    ends_at: datetime | None = None

    def covers(self, line_id: UUID) -> bool:
        return self.scope == "all" or line_id in self.scope


@dataclass(frozen=True)
class Lender:
    kind: Literal["platform", "seller", "third_party"] = "platform"
    id: UUID | None = None


@dataclass(frozen=True)
class Financing:
    """A loan to the buyer, repaid in level instalments; the schedule follows from these values alone.

    `closed_at` None while it runs; then `closed_by` says how, and `payoff_minor` what was left to pay.
    """

    financing_id: UUID
    principal_minor: Minor
    apr: Share
    term_months: int
    first_due_on: date
    since: datetime
    downpayment_minor: Minor = 0
    day_count: Literal["30_360", "actual_365"] = "30_360"
    method: Literal["level", "interest_only_then_level"] = "level"
    interest_only_months: int = 0
    fee_minor: Minor = 0
    lender: Lender = field(default_factory=Lender)
    collateral: tuple[UUID, ...] = ()
    prepayment_penalty: Share = Decimal(0)
    late_fee_minor: Minor = 0
    on_terminate: Literal["accelerate", "continue", "payoff"] = "accelerate"
    closed_at: datetime | None = None
    closed_by: str = ""
    payoff_minor: Minor = 0


@dataclass(frozen=True)
class Charge:
    """An amount owed once, at an instant, that an operation brought about: such as an early fee."""

    charge_id: str
    kind: Literal["early_fee", "financing_payoff", "financing_fee"]
    at: datetime
    amount_minor: Minor
    line_id: UUID | None = None
    seller_id: UUID | None = None


@dataclass(frozen=True)
class Ending:
    """How a contract was terminated, as far as money depends on it."""

    at: datetime
    cause: str
    unused: Literal["credit", "refund", "forfeit"] = "credit"
    final_usage: Literal["bill", "skip"] = "bill"
    commitment: Literal["full", "prorate", "waive"] | None = None


@dataclass(frozen=True)
class Transfer:
    """One party has taken another's place; what belongs to the one that left stays, or goes, as said."""

    party: Literal["buyer", "seller"]
    old_id: UUID
    new_id: UUID
    at: datetime
    unpaid: Literal["stays", "assumed"] = "stays"
    credits: Literal["stays", "moves"] = "stays"
    prepaid: Literal["stays", "moves"] = "stays"
    financing: Literal["novate", "payoff"] = "novate"


@dataclass(frozen=True)
class Cycle:
    """An anchor day and a cadence, by which periods are counted from an instant on."""

    since: datetime
    anchor_day: int
    cadence: Cadence


@dataclass(frozen=True)
class Signature:
    """`doc_sha256`: of the document that was signed, as it was rendered at submission."""

    party: UUID
    name: schema.Text
    at: datetime
    doc_sha256: Annotated[str, Pattern("[0-9a-f]{64}", "64 hexadecimal digits")] | None = None


Signatures = Annotated[tuple[Signature, ...], Length(MAX_LINES + 2)]  # each line's seller, buyer and partner


@dataclass(frozen=True)
class ContractState:
    """Everything the edits say about one instant. `version` counts the edits known, later ones too.

    `term_no` counts the terms from 1; `owner_epoch` the buyers. `end_at` is the end of the term, or None
    for an evergreen contract, and `end_policy` what the clock makes of it when nobody has renewed.
    `cycles` are those of the billing in order, once it has changed after the start.
    """

    status: str = "none"
    version: int = 0
    buyer_id: UUID = NOBODY
    owner_epoch: int = 1
    currency: str = ""
    start_at: datetime | None = None
    end_at: datetime | None = None
    term_no: int = 1
    term_start_at: datetime | None = None
    term_months: int | None = None
    end_policy: Literal["expire", "evergreen"] = "expire"
    opted_out: bool = False
    live_at: datetime | None = None
    billing: Billing = field(default_factory=Billing)
    cycles: tuple[Cycle, ...] = ()
    terms: Terms = field(default_factory=Terms)
    trial: Trial | None = None
    lines: dict[UUID, LineState] = field(default_factory=dict)
    discounts: dict[UUID, Discount] = field(default_factory=dict)
    commitments: dict[UUID, Commitment] = field(default_factory=dict)
    financings: dict[UUID, Financing] = field(default_factory=dict)
    charges: tuple[Charge, ...] = ()
    holds: tuple[Hold, ...] = ()
    signatures: tuple[Signature, ...] = ()
    needs_resign: bool = False
    transfers: tuple[Transfer, ...] = ()
    ending: Ending | None = None

    @property
    def exists(self) -> bool:
        return self.status != "none"

    @property
    def live_lines(self) -> list[LineState]:
        return [line for line in self.lines.values() if line.live]

    @property
    def seller_ids(self) -> list[UUID]:
        """Every seller who is or was on the contract."""
        return sorted({line.seller_id for line in self.lines.values()})

    @property
    def former_party_ids(self) -> list[UUID]:
        """Those whose place another has taken."""
        return sorted({transfer.old_id for transfer in self.transfers})

    @property
    def renews(self) -> bool:
        """Whether the term's end brings another term: then the clock does not end the contract."""
        return self.terms.renewal.auto and not self.opted_out and self.end_at is not None

    @property
    def lapses_at(self) -> datetime | None:
        """When the clock ends the term: not while it is renewed, nor while a hold that extends it is open."""
        held = any(hold.extends_term for hold in self.holds)
        return None if self.renews or held else self.end_at

    def period(self, at: datetime) -> Period:
        """The billing period that contains `at`, before the start the first one.

        A change of the anchor or the cadence cuts the period that it falls into; a stub leads to the new
        anchor.
        """
        cycles = self.cycles or (self._cycle(self.start_at or at),)
        begun = max(1, sum(cycle.since <= at for cycle in cycles))
        cycle, later = cycles[begun - 1], cycles[begun:]
        period = billing_period(cycle.anchor_day, cycle.since, at, cycle.cadence)
        return replace(period, end=min(period.end, later[0].since)) if later else period

    def billed_by(self, billing: Billing, at: datetime) -> "ContractState":
        """The state with another billing from `at` on, from the start when that comes later."""
        if self.start_at is None or at <= self.start_at:
            return evolve(self, billing=billing)
        cycles = self.cycles or (self._cycle(self.start_at),)
        earlier = tuple(cycle for cycle in cycles if cycle.since < at)
        after = evolve(self, billing=billing)
        if (cycle := after._cycle(at)) != replace(earlier[-1], since=at):
            earlier += (cycle,)
        return evolve(after, cycles=earlier if len(earlier) > 1 else ())

    def _cycle(self, since: datetime) -> Cycle:
        return Cycle(since, self.billing.anchor_day, self.billing.cadence)

    def billing_share(self, line: LineState) -> Decimal:
        """The part of its price that a line earns now: 0 when it is not billed, less than 1 in some holds."""
        if line.forfeited is not None:
            return line.forfeited.share
        if not line.live or self.status not in ("active", "suspended") or self.trial is not None:
            return Decimal(0)
        return min((hold.share for hold in self.holds if hold.covers(line.line_id)), default=Decimal(1))

    def bills(self, line: LineState) -> bool:
        """Whether this line earns now."""
        return self.billing_share(line) > 0

    def with_line(self, line: LineState) -> "ContractState":
        return evolve(self, lines={**self.lines, line.line_id: line})

    def with_holds(self, holds: tuple[Hold, ...]) -> "ContractState":
        whole = any(hold.scope == "all" for hold in holds)
        return evolve(self, holds=holds, status="suspended" if whole else "active")

    def to_json(self) -> dict[str, Any]:
        return dict(schema.dump(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ContractState":
        return schema.load(cls, data)

    @property
    def hash(self) -> str:
        """SHA-256 of the state without its version: equal states hash equal."""
        return digest({**self.to_json(), "version": 0})


def digest(data: Any) -> str:
    """SHA-256 of canonical JSON, in hexadecimal; a request is hashed before its characters are judged."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def difference(before: ContractState, after: ContractState) -> tuple[dict[str, Any], dict[str, Any]]:
    """What changed, as two maps from JSON pointer to value; a pointer absent on one side is new or gone."""
    return changes(before.to_json(), after.to_json())


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`difference` between two states as JSON, whole ones or what somebody may see of them."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    for ignored in ("/version",):
        old.pop(ignored, None)
        new.pop(ignored, None)
    changed = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    return (
        {path: old[path] for path in changed if path in old},
        {path: new[path] for path in changed if path in new},
    )


def _leaves(data: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{pointer}/{key}")
    else:
        yield pointer, data
