"""The events of contracts: an edit was recorded, or its instant came. One stream per contract."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from commerce.outbox.catalog import event
from commerce.outbox.payloads import Public, Withheld

EXAMPLE = {
    "contract_id": "01956f1c-3c00-7000-8000-00000000c001",
    "number": "C-2027-0001",
    "buyer_id": "01956f1c-3c00-7000-8000-0000000000b1",
    "effective_at": "2027-03-01T00:00:00Z",
    "changed_interval": ["2027-03-01T00:00:00Z", None],
    "before": {"/lines/01956f1c-3c00-7000-8000-00000000a001/quantity": 5},
    "after": {"/lines/01956f1c-3c00-7000-8000-00000000a001/quantity": 8},
    "status": {"before": "active", "after": "active"},
    "lines": [
        {
            "line_id": "01956f1c-3c00-7000-8000-00000000a001",
            "product": "gpu-server",
            "seller_id": "01956f1c-3c00-7000-8000-0000000000e1",
            "quantity": 8,
            "price_hash": "1f0f5f0a0a3a3f8e4b0cbd2d9d1d5b6f1f0f5f0a0a3a3f8e4b0cbd2d9d1d5b6f",
            "live": True,
        }
    ],
    "state_hash": "9a1c7e21c3f34de8b1a52f8d9bb4a0c79a1c7e21c3f34de8b1a52f8d9bb4a0c7",
    "from_version": 3,
    "to_version": 4,
    "operation": "change_quantity",
    "edits": [4],
}


@dataclass(frozen=True)
class StatusChange:
    """The contract's status around the change; the same twice when it did not move."""

    before: str
    after: str


@dataclass(frozen=True)
class ChangedLine:
    """A line as it is after the change."""

    line_id: UUID
    product: str
    seller_id: UUID
    quantity: int
    price_hash: Annotated[str, "SHA-256 of the whole price"]
    live: bool


@dataclass(frozen=True)
class ContractChange:
    """What changed, over which stretch of valid time. Sellers and the partner are told of what they see."""

    contract_id: Public[UUID]
    number: Public[str]
    buyer_id: Withheld[Annotated[UUID, "not in what partners are told"]]
    effective_at: Public[datetime]
    changed_interval: Annotated[tuple[datetime | None, ...], "first instant, and the last or null"]
    before: Annotated[dict[str, Any], "JSON pointer into the state → value"]
    after: Annotated[dict[str, Any], "JSON pointer into the state → value"]
    status: Public[StatusChange]
    lines: tuple[ChangedLine, ...]
    state_hash: Annotated[str, "SHA-256 of the state after it"]
    from_version: Public[int]
    to_version: Public[int]
    operation: Annotated[str, "of the last edit; empty for the end of the term"]
    edits: Annotated[tuple[int, ...], "numbers in the contract's log"]


@dataclass(frozen=True)
class ContractEdit(ContractChange):
    """An edit was recorded. Sellers and the partner are told of those that they see."""

    recorded_at: Public[datetime]
    retroactive: Public[Annotated[bool, "effective before it was recorded"]]
    pending: Public[Annotated[bool, "effective later: `contract.took_effect` follows"]]
    reason: str
    batch_id: Annotated[UUID | None, "of edits recorded together; null for a single one"]


@dataclass(frozen=True)
class RenewalAhead:
    """A term ends and another follows unless somebody opts out; nothing has changed yet."""

    contract_id: Public[UUID]
    number: Public[str]
    buyer_id: Withheld[Annotated[UUID, "not in what partners are told"]]
    version: Public[int]
    term_no: Public[Annotated[int, "of the term to come"]]
    term_ends_at: Public[datetime]
    opt_out_until: Public[datetime]
    uplift: Annotated[dict[str, Any], "what the terms of renewal do to unit prices"]
    edits: Annotated[tuple[int, ...], "none: the clock tells it"]


@dataclass(frozen=True)
class PlatformTermsChange:
    """Another version of what contracts get where they say nothing; those that exist keep theirs."""

    version: int
    effective_at: datetime
    before: Annotated[dict[str, Any], "JSON pointer into the sections → value"]
    after: Annotated[dict[str, Any], "JSON pointer into the sections → value"]
    hash: Annotated[str, "SHA-256 of the version and of the hash before it"]
    approval_id: UUID


@dataclass(frozen=True)
class Offer:
    """A version of an offer as it is after the change."""

    offer_id: Public[UUID]
    seller_id: Public[UUID]
    product: Public[str]
    code: Public[Annotated[str, "the seller's own name for it"]]
    version: Public[int]
    supersedes: Public[Annotated[UUID | None, "the version before"]]
    currency: Public[Annotated[str, "ISO 4217"]]
    price: Public[Annotated[dict[str, Any], "as in a line"]]
    valid_from: Public[datetime]
    valid_to: Public[datetime | None]
    status: Public[str]


@dataclass(frozen=True)
class OfferCapacity(Offer):
    """The offer, and how many units its seller has of it in all; null for no limit."""

    capacity_before: Public[int | None]
    capacity: Public[int | None]


@dataclass(frozen=True)
class Units:
    """Units of an offer that a contract's line took or gave back."""

    reservation_id: Public[UUID]
    offer_id: Public[UUID]
    seller_id: Public[UUID]
    contract_id: Public[UUID]
    line_id: Public[UUID]
    units: Public[Annotated[int, "taken or given back by this"]]
    reserved: Public[Annotated[int, "what the line has after it"]]
    reason: Annotated[str, "why they were given back"]


@dataclass(frozen=True)
class WorstState:
    """The worst state of some units around the change; null when there were none."""

    before: str | None
    after: str | None


@dataclass(frozen=True)
class LineService:
    """A line's worst state around the change, and after it how many units serve and are in which state."""

    line_id: UUID
    before: str | None
    after: str | None
    serving: int
    units: dict[str, Any]


@dataclass(frozen=True)
class ServiceChange:
    """What the units of a contract do, by the worst of them. Sellers report it, the buyer is told."""

    contract_id: Public[UUID]
    number: Public[str]
    buyer_id: Public[UUID]
    at: Public[Annotated[datetime, "when we learned of it; each unit has its own since"]]
    status: Public[WorstState]
    units: Public[Annotated[dict[str, Any], "state → how many units are in it"]]
    lines: Public[Annotated[tuple[LineService, ...], "those that changed"]]


edited = partial(
    event,
    payload=ContractEdit,
    aggregate="contract",
    audience="buyer_id",
    example={
        **EXAMPLE,
        "recorded_at": "2027-03-01T09:30:00.000123Z",
        "retroactive": True,
        "pending": False,
        "reason": "Three more servers for the launch.",
        "batch_id": None,
    },
)
arrived = partial(event, payload=ContractChange, aggregate="contract", audience="buyer_id", example=EXAMPLE)

edited("contract.created", summary="A draft was made.")
edited("contract.submitted", summary="Its lines are final; it went out for signature.")
edited("contract.withdrawn", summary="It is a draft again, and signatures are void.")
edited("contract.signed", summary="Every party has signed.")
edited("contract.activated", summary="It runs from `effective_at`.")
edited("contract.product_added", summary="A line was added.")
edited("contract.product_removed", summary="A line ends at `effective_at`.")
edited("contract.terms_changed", summary="Other terms hold from `effective_at`.")
edited("contract.quantity_changed", summary="A line has another quantity from `effective_at`.")
edited("contract.price_changed", summary="A line has another price from `effective_at`.")
edited("contract.discount_applied", summary="A discount is in force, or another in its place.")
edited("contract.discount_ended", summary="A discount is no longer in force.")
edited("contract.commitment_set", summary="The buyer commits to a minimum, or prepays.")
edited("contract.commitment_ended", summary="A commitment is no longer in force.")
edited("contract.financing_attached", summary="A loan is repaid with the contract; it may replace another.")
edited("contract.financing_closed", summary="A loan was paid off, or taken off the contract.")
edited("contract.suspended", summary="A hold was placed on the contract or on some of its lines.")
edited("contract.resumed", summary="A hold was lifted.")
edited("contract.terminated", summary="It ends at `effective_at`.")
edited("contract.transferred", summary="Another buyer or seller is in a party's place; both hear of it.")
edited("contract.corrected", summary="An earlier edit was voided, replaced or reinstated.")
edited("contract.cancelled", summary="It was given up before it started.")
edited("contract.renewed", summary="Another term follows, or the end of this one has moved.")
edited(
    "contract.renewal_blocked", summary="The term is not renewed: a rule refused it, or somebody declined."
)
ahead = partial(
    event,
    payload=RenewalAhead,
    aggregate="contract",
    audience="buyer_id",
    example={
        "contract_id": EXAMPLE["contract_id"],
        "number": EXAMPLE["number"],
        "buyer_id": EXAMPLE["buyer_id"],
        "version": 4,
        "term_no": 2,
        "term_ends_at": "2028-03-01T00:00:00Z",
        "opt_out_until": "2028-03-01T00:00:00Z",
        "uplift": {"kind": "percent", "value": "0.035", "cap": "0.05"},
        "edits": [],
    },
)
ahead("contract.renewal_due", summary="The term ends in `notice_days`, and is renewed.")
ahead("contract.opt_out_closed", summary="The last moment to opt out has passed.")
arrived("contract.took_effect", summary="The instant came at which edits recorded earlier are effective.")
arrived("contract.expired", summary="Its term ended.")
event(
    "platform_terms.changed",
    payload=PlatformTermsChange,
    aggregate="platform_terms",
    summary="Two people agreed to another version of the platform's terms.",
    example={
        "version": 2,
        "effective_at": "2027-03-01T00:00:00Z",
        "before": {"/payment/net_days": 14},
        "after": {"/payment/net_days": 30},
        "hash": "9a1c7e21c3f34de8b1a52f8d9bb4a0c79a1c7e21c3f34de8b1a52f8d9bb4a0c7",
        "approval_id": "01956f1c-3c00-7000-8000-00000000a501",
    },
)

OFFER = {
    "offer_id": "01956f1c-3c00-7000-8000-00000000f001",
    "seller_id": "01956f1c-3c00-7000-8000-0000000000e1",
    "product": "gpu-server",
    "code": "h100-monthly",
    "version": 2,
    "supersedes": "01956f1c-3c00-7000-8000-00000000f000",
    "currency": "USD",
    "price": {"model": "unit", "rate": "18000", "currency": "USD"},
    "valid_from": "2027-03-01T00:00:00Z",
    "valid_to": None,
    "status": "live",
}
offer = partial(event, aggregate="offer", audience="seller_id")
offer("offer.published", Offer, summary="Lines may be sold on this version.", example=OFFER)
offer(
    "offer.withdrawn",
    Offer,
    summary="No new line may use this version; those sold on it go on.",
    example=OFFER | {"status": "withdrawn"},
)
offer(
    "offer.capacity_changed",
    OfferCapacity,
    summary="The seller has another number of units, for all versions together.",
    example=OFFER | {"capacity_before": 8, "capacity": 16},
)
units = partial(event, payload=Units, aggregate="reservation", audience="seller_id")
UNITS = {
    "reservation_id": "01956f1c-3c00-7000-8000-00000000d001",
    "offer_id": "01956f1c-3c00-7000-8000-00000000f001",
    "seller_id": "01956f1c-3c00-7000-8000-0000000000e1",
    "contract_id": "01956f1c-3c00-7000-8000-00000000c001",
    "line_id": "01956f1c-3c00-7000-8000-00000000a001",
    "units": 2,
    "reserved": 2,
    "reason": "",
}
units("units.reserved", summary="A contract's line took units of an offer.", example=UNITS)
units(
    "units.released",
    summary="A line gave units back, or its hold expired.",
    example=UNITS | {"reserved": 0, "reason": "The hold expired."},
)
event(
    "service.status_changed",
    payload=ServiceChange,
    aggregate="service",
    audience="buyer_id",
    summary="The worst state of a line's units, or how many of them serve, is another one.",
    example={
        "contract_id": "01956f1c-3c00-7000-8000-00000000c001",
        "number": "C-2027-0001",
        "buyer_id": "01956f1c-3c00-7000-8000-0000000000b1",
        "at": "2027-03-02T09:30:00Z",
        "status": {"before": "in_service", "after": "down"},
        "units": {"in_service": 7, "down": 1},
        "lines": [
            {
                "line_id": "01956f1c-3c00-7000-8000-00000000a001",
                "before": "in_service",
                "after": "down",
                "serving": 8,
                "units": {"in_service": 7, "down": 1},
            }
        ],
    },
)
