"""The state of a contract at one instant, as the fold computes it: frozen values and their JSON."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from commerce.money import exponent
from contracts.rules import schema
from contracts.rules.schema import Between, Minor, Pattern, Rate, Share

Kind = Literal["recurring", "usage"]
HoldReason = Literal["buyer", "non_payment", "abuse", "seller_fault", "maintenance", "legal"]
Scope = Literal["all"] | tuple[UUID, ...]
Currency = Annotated[str, Pattern("[A-Z]{3}", "three capital letters")]

NOBODY = UUID(int=0)
FINAL = frozenset({"expired", "terminated", "cancelled"})


T = TypeVar("T")


def evolve(value: T, **changes: Any) -> T:
    """`dataclasses.replace` without running the constructor: the fold makes thousands of these."""
    changed = object.__new__(type(value))
    changed.__dict__.update(value.__dict__)
    changed.__dict__.update(changes)
    return changed


@dataclass(frozen=True)
class Amount:
    amount_minor: Minor
    currency: Currency


@dataclass(frozen=True)
class Price:
    """`rate` is in major units per unit of the product: per server-month or per device-hour."""

    model: Literal["unit"]
    rate: Rate
    currency: Currency = ""

    @property
    def minor_rate(self) -> Decimal:
        """The rate in minor units, unrounded."""
        return self.rate.scaleb(exponent(self.currency))


@dataclass(frozen=True)
class LineState:
    """One line; a removed line stays, no longer live, so that its history keeps its seller."""

    line_id: UUID
    product_code: str
    kind: Kind
    unit: str
    meter: str
    seller_id: UUID
    quantity: int
    price: Price
    live: bool = True


@dataclass(frozen=True)
class Hold:
    """One open suspension. Holds of different reasons nest; the scope is free when none is left."""

    reason: HoldReason
    scope: Scope
    billing: Literal["stop", "continue"]
    access: Literal["block", "keep"]
    since: datetime

    def covers(self, line_id: UUID) -> bool:
        return self.scope == "all" or line_id in self.scope


@dataclass(frozen=True)
class Billing:
    anchor_day: Annotated[int, Between(1, 31)] = 1
    cadence: Literal["P1M"] = "P1M"
    when: Literal["in_arrears"] = "in_arrears"


@dataclass(frozen=True)
class Payment:
    net_days: Annotated[int, Between(0, 120)] = 14
    grace_days: Annotated[int, Between(0, 90)] = 3
    collection: Literal["wallet_auto"] = "wallet_auto"
    invoice_source: Literal["openmeter"] = "openmeter"


@dataclass(frozen=True)
class Tax:
    rate: Share = Decimal(0)


@dataclass(frozen=True)
class SettlementTerms:
    """Fee of the net, the partner's share of that fee, days that seller money rests in holding."""

    fee_rate: Share = Decimal(0)
    partner_id: UUID | None = None
    partner_share: Share = Decimal(0)
    seasoning_days: Annotated[int, Between(0, 365)] | None = None


@dataclass(frozen=True)
class Commitment:
    downpayment: Amount | None = None


@dataclass(frozen=True)
class Terms:
    payment: Payment = field(default_factory=Payment)
    tax: Tax = field(default_factory=Tax)
    settlement: SettlementTerms = field(default_factory=SettlementTerms)
    commitment: Commitment = field(default_factory=Commitment)


@dataclass(frozen=True)
class Signature:
    party: UUID
    name: schema.Text
    at: datetime


@dataclass(frozen=True)
class ContractState:
    """Everything the edits say about one instant. `version` counts the edits known, later ones too."""

    status: str = "none"
    version: int = 0
    buyer_id: UUID = NOBODY
    currency: str = ""
    start_at: datetime | None = None
    end_at: datetime | None = None
    billing: Billing = field(default_factory=Billing)
    terms: Terms = field(default_factory=Terms)
    lines: dict[UUID, LineState] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    signatures: tuple[Signature, ...] = ()
    needs_resign: bool = False

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

    def bills(self, line: LineState) -> bool:
        """Whether this line earns now: live, contract running, no hold on it that stops billing."""
        if not line.live or self.status not in ("active", "suspended"):
            return False
        return not any(hold.billing == "stop" and hold.covers(line.line_id) for hold in self.holds)

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
    """SHA-256 of canonical JSON, in hexadecimal."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
