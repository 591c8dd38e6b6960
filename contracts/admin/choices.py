"""What a form can offer for one contract: its own lines, holds and edits, and what the catalogue has.

Names of fields decide, so that an operation gets the right selects by calling its fields what they
are. Labels and help in plain words stand here too, once for all operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from django.utils.html import strip_tags

from commerce.parties.models import Organization
from contracts.admin.words import Names, percent, phrase, rate
from contracts.models import Contract, Offer, Product
from contracts.rules.document import content_hash
from contracts.rules.fold import Edit
from contracts.rules.state import ContractState, LineState

Choices = list[tuple[str, str]]

PRODUCTS_SHOWN = OFFERS_SHOWN = 500
_LINES = frozenset({"line_id", "line_ids", "lines", "scope", "collateral", "depends_on"})
PARTIES = frozenset(
    {"buyer_id", "seller_id", "partner_id", "new_party_id", "old_party_id", "lender_id", "party_id", "id"}
)
# Operations that make something and give it its id.
_MAKES = {
    "add_product": frozenset({"line_id"}),
    "apply_discount": frozenset({"discount_id"}),
    "set_commitment": frozenset({"commitment_id"}),
    "attach_financing": frozenset({"financing_id"}),
}
_KEPT = {
    "discount_id": ("discounts", "a new discount"),
    "commitment_id": ("commitments", "a new commitment"),
    "financing_id": ("financings", "a new financing"),
}
HOLD_REASONS = {
    "buyer": "the buyer asked",
    "abuse": "abuse",
    "seller_fault": "the seller's fault",
    "maintenance": "maintenance",
    "legal": "legal",
    "non_payment": "non-payment",
}
LABELS = {
    "line_id": "Line",
    "scope": "Lines",
    "collateral": "Collateral",
    "seller_id": "Seller",
    "buyer_id": "Buyer",
    "new_party_id": "New party",
    "doc_sha256": "Document",
    "old_party_id": "Party that leaves",
    "offer_id": "Offer",
    "unit_ids": "Units",
    "min_term_months": "Minimum term (months)",
    "term_months": "Term (months)",
    "interest_only_months": "Months of interest only",
    "term_no": "Number of the term",
    "sla_policy": "SLA policy",
    "end_at": "Ends",
    "add_units": "Add units",
    "release_units": "Release units",
    "reason": "Held because of",
    "resume_at": "Resumes by itself",
    "end_old": "The old party's time ends",
    "unused": "What is paid and unused",
    "gap": "The time between the terms",
    "unpaid": "Unpaid invoices",
    "true_up": "True-up",
    "auto": "By itself",
    "method_ref": "Way of paying",
    "quote_ref": "Quote",
    "end_policy": "At the end of the term",
    "opt_out_days": "Days before the end to opt out",
    "start_at": "Starts",
    "expire": "it ends",
    "evergreen": "open-ended",
    "backdate_ops_days": "Days an operator may go back",
    "backdate_finance_days": "Days finance may go back",
    "max_ahead_days": "Days an edit may lie ahead",
    "activation_timeout_days": "Days to go live after the signature",
    "reinstate_days": "Days to reinstate",
    "price_rise_approval": "Rise of a price that two people agree to, above",
    "bill_from": "Billed from",
    "effective": "its instant",
    "in_service": "service",
    "target_seq": "Edit to correct",
    "sla": "SLA",
    "po_number": "PO number",
    "rate": "Rate",
    "up_to": "Up to (units)",
    "flat_minor": "Once per tier",
    "included": "Included units",
    "min_minor": "At least",
    "max_minor": "At most",
    "apr": "APR",
    "P1M": "monthly",
    "P3M": "quarterly",
    "P1Y": "yearly",
    "30_360": "30/360",
    "actual_365": "actual/365",
    "wallet_auto": "from the wallet",
    "card_auto": "by card",
    "bank_invoice": "by bank transfer",
    "openmeter": "OpenMeter",
    "modern_treasury": "Modern Treasury",
    "immediate": "now, or at the instant below",
    "date": "at the instant below",
    "end_of_period": "at the end of the billing period",
    "end_of_term": "at the end of the term",
    "end_of_min_term": "at the end of the line's minimum term",
    "non_payment": "non-payment",
}
HELP = {
    "doc_sha256": "What was signed, as its document says at the foot of each page.",
    "delta": "Changes by so many and carries through edits that come later; or give a quantity.",
    "rate": "Per unit and month, or per metered unit.",
    "anchor_day": "Day of the month on which a period begins.",
    "unit_ids": "Serial numbers, separated by commas.",
    "offer_id": "Gives product, seller, price and minimum term; leave those empty then.",
    "labels": "Separated by commas.",
    "stack_order": "Lower comes off first; what comes later is of what is left.",
    "overage_factor": "What is beyond it costs so many times the rate; 1 costs no more.",
    "rollover_units": "So many units that fall short, and are charged, stay open to the next window.",
    "prorate_bounds": "Whether tiers, included units and minimums shrink in a period that is cut short.",
}
ABOUT = {
    "price": "A rate, or tiers, each up to so many units and the last without end.",
    "replacement": "It counts instead of what was recorded, in the same place of the log.",
    "early_fee": "What leaving before the agreed time costs, or that it is waived.",
    "uplift": "What renewal does to unit prices.",
    "settlement": "How the seller's money is divided, and when it is released.",
    "sla": "What is credited when a service is down.",
    "references": "What the parties call it; nothing here changes money.",
    "funded_by": "Who bears what the buyer is spared.",
}


@dataclass(frozen=True)
class Offered:
    """One contract's choices for one operation."""

    operation: str
    contract: Contract | None
    state: ContractState
    edits: Sequence[Edit] = ()
    pending: int = 0
    target: Edit | None = None

    @property
    def currency(self) -> str:
        return self.state.currency

    @property
    def made(self) -> frozenset[str]:
        """Fields that hold the id of what the operation makes, when there is nothing else to choose."""
        made = _MAKES.get(self.target.operation if self.target else self.operation, frozenset())
        return frozenset(name for name in made if name not in _KEPT or not self._kept(name))

    @property
    def new_id(self) -> str:
        """The same while the contract and what is planned for it stay: a form may come back."""
        known = self.contract.pk if self.contract else UUID(int=0)
        return str(uuid5(known, f"{self.operation}:{self.state.version}:{self.pending}"))

    def choices(self, name: str) -> Choices | None:
        """What to choose from for a field of that name; None when it is entered freely."""
        if name == "product":
            return _products()
        if name == "offer_id":
            return _offers(self.currency)
        return self._own(name) if self.contract is not None else None

    def _own(self, name: str) -> Choices | None:
        """What the contract itself has to choose from."""
        if name in _LINES:
            lines = self.state.lines.values() if self.target else self.state.live_lines
            return [(str(line.line_id), line_label(line)) for line in lines]
        if name == "replaces":
            return self._kept("financing_id")
        if name in _KEPT:
            return [(self.new_id, _KEPT[name][1]), *self._kept(name)]
        if name == "reason" and self.operation == "resume":
            return [(hold.reason, HOLD_REASONS.get(hold.reason, hold.reason)) for hold in self.state.holds]
        if name == "target_seq":
            return [(str(edit.seq), _edit_label(edit)) for edit in reversed(self.edits) if _is_target(edit)]
        if name == "party" and self.operation == "activate":
            return _parties(self.state)
        if name == "doc_sha256":
            sha256 = content_hash(self.state)
            return [(sha256, f"the contract's document, {sha256[:12]}…")]
        return None

    def now(self, path: str) -> str:
        """What a term is at present, of the operation that changes terms."""
        if self.operation != "change_terms" or self.contract is None:
            return ""
        _, section, *rest = path.split(".")
        found: Any = self.state.to_json()
        found = found["billing"] if section == "billing" else found["terms"].get(section, {})
        for step in rest:
            found = found.get(step) if isinstance(found, dict) else None
        if found in (None, "", [], {}) or isinstance(found, list | dict):
            return ""
        unit = "" if section == "tax" else self.currency
        return f"Now {strip_tags(str(phrase(rest[-1], found, Names(), unit)))}."

    def _kept(self, name: str) -> Choices:
        found = getattr(self.state, _KEPT[name][0], {})
        return [(str(id_), _entry_label(entry)) for id_, entry in found.items()]


def line_label(line: LineState) -> str:
    """ "2 × h100-server at 18,000.00 USD"; what is metered has no quantity, what is tiered no one rate."""
    what = line.product_code if line.kind == "usage" else f"{line.quantity:,} × {line.product_code}"
    return f"{what}, {line.price.model}" if line.price.tiers else f"{what} at {rate(line.price)}"


def _is_target(edit: Edit) -> bool:
    return edit.operation != "correct"


def _edit_label(edit: Edit) -> str:
    return f"#{edit.seq} {edit.operation.replace('_', ' ')}, from {edit.effective_at:%-d %b %Y}"


def _entry_label(entry: object) -> str:
    """A discount, commitment or financing by its kind and what it comes to."""
    kind = str(getattr(entry, "kind", "")).replace("_", " ")
    share = getattr(entry, "percent", None)
    since = getattr(entry, "since", None)
    words = [kind, percent(share) if share else "", f"since {since:%-d %b %Y}" if since else ""]
    return " ".join(word for word in words if word) or type(entry).__name__.lower()


def _products() -> Choices | None:
    """The catalogue as a select; when it is too long for one, a code is typed."""
    found = list(
        Product.objects.filter(active=True).order_by("name").values_list("code", "name")[: PRODUCTS_SHOWN + 1]
    )
    return found if len(found) <= PRODUCTS_SHOWN else None


def _offers(currency: str) -> Choices | None:
    """Live offers in the contract's currency; an id is typed where they are too many."""
    found = Offer.objects.filter(status=Offer.Status.LIVE).select_related("seller", "product", "stock")
    offers = list(
        (found.filter(currency=currency) if currency else found).order_by("-id")[: OFFERS_SHOWN + 1]
    )
    if len(offers) > OFFERS_SHOWN:
        return None
    return [
        (str(offer.pk), f"{offer.product.name}, {offer.seller.name} ({offer.code}), {_left(offer)}")
        for offer in offers
    ]


def _left(offer: Offer) -> str:
    return "any number" if offer.stock.free is None else f"{offer.stock.free:,} free"


def _parties(state: ContractState) -> Choices:
    found = Organization.objects.filter(pk__in=[state.buyer_id, *state.seller_ids]).order_by("name")
    return [(str(pk), name) for pk, name in found.values_list("pk", "name")]
