"""States in words: what differs between two of them, and single values, as an operator reads them.

Money in major units with its currency, shares in percent, instants as instants, organizations and
lines by name; no JSON pointer and no id reaches a page.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console.charts import facts, table
from commerce.console.format import NOTHING, badge, instant, money
from commerce.money import exponent
from commerce.parties.models import Organization
from contracts.rules import schema
from contracts.rules.state import ContractState, Price, changes

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_SHARES = frozenset(
    {"fee_rate", "partner_share", "percent", "cap", "value", "seller_share", "apr", "reserve_rate", "credit"}
    | {"reduced_to", "degraded_weight", "below", "penalty_rate", "discount_rate", "prepayment_penalty"}
    | {"price_rise_approval"}
)
# Keyed by an id; an entry that is new or gone is one change, in a few words.
_COLLECTIONS = {
    "lines": "Line",
    "discounts": "Discount",
    "commitments": "Commitment",
    "financings": "Financing",
}
_HIDDEN = frozenset(
    {"version", "line_id", "discount_id", "commitment_id", "financing_id", "charge_id", "currency"}
)
# Lists that only grow or shrink: what stays in them is not what changed.
_KEPT_LISTS = frozenset({"signatures", "transfers", "holds", "charges"})
_UNSAID: tuple[Any, ...] = (None, "", [], {}, False, 0, "0")
# Zero says something too: that somebody else bears all of it.
_ALWAYS_SAID = frozenset({"seller_share"})
_WORDS = {
    "P1M": "monthly",
    "P3M": "quarterly",
    "P1Y": "yearly",
    "all": "everything",
    "wallet_auto": "from the wallet",
    "card_auto": "by card",
    "bank_invoice": "by bank transfer",
    "openmeter": "OpenMeter",
    "modern_treasury": "Modern Treasury",
    "30_360": "30/360",
    "actual_365": "actual/365",
}
_NAMES = {
    "line_id": "line",
    "seller_id": "seller",
    "buyer_id": "buyer",
    "partner_id": "partner",
    "lender_id": "lender",
    "product_code": "product",
    "end_at": "ends",
    "start_at": "starts",
    "sla": "SLA",
    "po_number": "PO number",
    "needs_resign": "needs to be signed again",
    "old_id": "from",
    "new_id": "to",
    "apr": "APR",
    "true_up": "true-up",
    "term_no": "term number",
    "term_months": "months",
    "backdate_ops_days": "days an operator may go back",
    "backdate_finance_days": "days finance may go back",
    "max_ahead_days": "days an edit may lie ahead",
    "activation_timeout_days": "days to go live after the signature",
    "reinstate_days": "days to reinstate",
    "price_rise_approval": "rise of a price that two people agree to, above",
    "auto": "by itself",
    "method_ref": "way of paying",
    "end_policy": "at the end of the term",
}


@dataclass(frozen=True)
class Names:
    """How the ids on a contract are called."""

    organizations: Mapping[UUID, str] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)

    def of(self, id_: str) -> str:
        return self.lines.get(id_) or self.organizations.get(UUID(id_)) or f"…{id_[-8:]}"


@dataclass(frozen=True)
class Change:
    """One thing that differs: what, and how it was and is, as safe HTML; None where it was not there."""

    what: str
    before: Any
    after: Any


def names_of(*states: ContractState) -> Names:
    """The names of every organization and line of these states; one query."""
    mentioned = {UUID(id_) for state in states for id_ in _ids(state.to_json())}
    lines = {str(line.line_id): line.product_code for state in states for line in state.lines.values()}
    rows = Organization.objects.filter(pk__in=mentioned - {UUID(id_) for id_ in lines})
    return Names(dict(rows.values_list("pk", "name")), lines)


def changed(before: ContractState, after: ContractState, names: Names | None = None) -> list[Change]:
    """What differs between two states, collections first by their entries, then field by field."""
    names = names or names_of(before, after)
    currency = after.currency or before.currency
    old, new = before.to_json(), after.to_json()
    found: list[Change] = []
    for name, word in _COLLECTIONS.items():
        theirs, ours = old.pop(name, None) or {}, new.pop(name, None) or {}
        for id_ in {**theirs, **ours}:
            title = names.lines.get(id_, word) if name == "lines" else word
            found += _entry(title, theirs.get(id_), ours.get(id_), names, currency)
    return [*_fields("", old, new, names, currency), *found]


def shown_changes(found: Iterable[Change], *, empty: str = "Nothing differs.") -> SafeString:
    """Changes as a table: what, before, after."""
    rows = [
        (change.what, _or_none(change.before, "c-gone"), _or_none(change.after, "c-new")) for change in found
    ]
    return table(["What", "Before", "After"], rows, empty=empty)


def in_one_line(found: Iterable[Change]) -> SafeString:
    """The same, one under another without headings, for the narrow column of a list."""
    rows = ((change.what, _or_none(change.before), _or_none(change.after)) for change in found)
    return format_html_join("", '<div class="c-changed"><b>{}</b> <del>{}</del> → {}</div>', rows)


def rate(price: Price) -> str:
    """ "18,000.00 USD", with as many digits as the rate has and at least the currency's."""
    return _decimal(price.rate, price.currency)


def price_in_words(price: Price) -> SafeString:
    """The whole price: rate or tiers, model, included units and bounds."""
    parts = _price(schema.dump(price), Names(), price.currency)
    return format_html_join(", ", "{}", ((part,) for part in parts))


def phrase(key: str, value: Any, names: Names, currency: str) -> Any:
    """One value of a state's JSON; `key` says what kind of value it is."""
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return _object(value, names, currency)
    if isinstance(value, list):
        if key == "tiers" and all("rate" in tier for tier in value):
            return format_html_join(", ", "{}", ((tier,) for tier in _tiers(value, currency)))
        between = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return format_html_join(between, "{}", ((phrase(key, one, names, currency),) for one in value))
    if key.endswith("_minor") and isinstance(value, int):
        return money(value, currency) if currency else f"{value:,} minor units"
    if key == "status":
        return badge(value)
    if not isinstance(value, str):
        return f"{value:,}" if isinstance(value, int) else value
    if _UUID.fullmatch(value):
        return names.of(value)
    if _INSTANT.match(value):
        return instant(datetime.fromisoformat(value))
    if _DAY.fullmatch(value):
        return f"{date.fromisoformat(value):%-d %b %Y}"
    if _NUMBER.fullmatch(value) and (key in _SHARES or (key == "rate" and not currency)):
        return percent(value)
    if key == "rate":
        return _decimal(Decimal(value), currency)
    return _WORDS.get(value) or value.replace("_", " ")


def payload_in_words(payload: Mapping[str, Any], names: Names, currency: str) -> Any:
    """What was entered for an operation, field by field."""
    return _object(
        payload, names, currency, hidden=frozenset({"discount_id", "commitment_id", "financing_id"})
    )


def fields_of(entry: Mapping[str, Any], names: Names, currency: str) -> SafeString:
    """The fields of a section or an agreement by name, those that say nothing left out."""
    found = {
        in_words(key): phrase(key, value, names, currency)
        for key, value in entry.items()
        if value not in (None, "", [], {}) and key not in _HIDDEN
    }
    return facts({key[:1].upper() + key[1:]: said for key, said in found.items()}) if found else SafeString()


def title_of_section(name: str) -> str:
    return _NAMES.get(name) or in_words(name).capitalize()


def percent(share: Any) -> str:
    return f"{(Decimal(share) * 100).normalize():f} %"


def _entry(
    title: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, names: Names, currency: str
) -> list[Change]:
    if old is None or new is None:
        whole = [None if side is None else _object(side, names, currency) for side in (old, new)]
        return [Change(title, *whole)]
    return _fields(title, old, new, names, currency)


def _fields(
    title: str, old: Mapping[str, Any], new: Mapping[str, Any], names: Names, currency: str
) -> list[Change]:
    before, after = changes(old, new)
    found = []
    for pointer in {**before, **after}:
        *path, key = pointer.strip("/").split("/")
        if key in _HIDDEN:
            continue
        unit = "" if path[-1:] == ["tax"] else currency
        if key in _KEPT_LISTS and pointer in before and pointer in after:
            before[pointer], after[pointer] = _apart(before[pointer], after[pointer])
        sides = [
            phrase(key, side[pointer], names, unit) if pointer in side else None for side in (before, after)
        ]
        words = [
            word
            for word in (title, *(in_words(step) for step in path if step != "terms"), in_words(key))
            if word
        ]
        said = " ".join(words)
        if key == "live":
            said, sides = (
                title,
                [badge("live", "good") if side == "yes" else badge("removed", "bad") for side in sides],
            )
        found.append(Change(said if title else said[:1].upper() + said[1:], *sides))
    return found


def _apart(before: list[Any], after: list[Any]) -> tuple[list[Any], list[Any]]:
    """What only one of the two holds; both whole when they hold the same in another order."""
    gone = [one for one in before if one not in after]
    new = [one for one in after if one not in before]
    return (gone, new) if gone or new else (before, after)


def in_words(key: str) -> str:
    return _NAMES.get(key) or key.removesuffix("_minor").removesuffix("_at").replace("_", " ")


def _object(value: Mapping[str, Any], names: Names, currency: str, hidden: frozenset[str] = _HIDDEN) -> Any:
    """A line by quantity and price, an amount as money, anything else by those fields that say something."""
    currency = value.get("currency") or currency
    if value.keys() == {"amount_minor", "currency"}:
        return money(value["amount_minor"], currency)
    if "product_code" in value:
        price = phrase("price", value["price"], names, currency)
        return format_html("{} × {}, {}", f"{value['quantity']:,}", price, names.of(value["seller_id"]))
    if "model" in value and "rate" in value:
        return format_html_join(", ", "{}", ((part,) for part in _price(value, names, currency)))
    said = {
        key: phrase(key, inner, names, currency)
        for key, inner in value.items()
        if key not in hidden and (inner not in _UNSAID or key in _ALWAYS_SAID)
    }
    if value.get("kind") in said:  # "percent 10 %" says which kind it is
        del said["kind"]
    return format_html_join(", ", "{}", ((_with_its_name(key, inner),) for key, inner in said.items()))


def _with_its_name(key: str, said: Any) -> Any:
    return said if key == "kind" else format_html("{} {}", in_words(key), said)


def _price(price: Mapping[str, Any], names: Names, currency: str) -> Iterator[Any]:
    if not price.get("tiers"):
        yield _decimal(Decimal(price["rate"]), currency)
    if price["model"] != "unit":
        yield price["model"].replace("_", " ")
    yield from _tiers(price.get("tiers") or (), currency)
    for key, word in (("package_size", "packages of"), ("included", "included")):
        if price.get(key) and Decimal(price[key]):
            yield f"{word} {Decimal(price[key]):,f}"
    for key, word in (("min_minor", "at least"), ("max_minor", "at most")):
        if price.get(key):
            yield format_html("{} {}", word, money(price[key], currency))


def _tiers(tiers: Iterable[Mapping[str, Any]], currency: str) -> Iterator[SafeString]:
    """ "up to 100: 2.50 USD", "above: 2.00 USD" """
    for tier in tiers:
        bound = f"up to {Decimal(tier['up_to']):,f}" if tier.get("up_to") else "above"
        flat = (
            format_html(" and {} once", money(tier["flat_minor"], currency)) if tier.get("flat_minor") else ""
        )
        yield format_html("{}: {}{}", bound, _decimal(Decimal(tier["rate"]), currency), flat)


def named_in(said: str, names: Names) -> str:
    """A sentence of the rules with the names of the lines and organizations whose ids it says."""
    return _UUID.sub(lambda found: names.of(found[0]), said)


def _decimal(value: Decimal, currency: str) -> str:
    digits = max(exponent(currency) if currency else 0, -int(value.normalize().as_tuple().exponent))
    return f"{value:,.{digits}f} {currency}".strip()


def _or_none(side: Any, kind: str = "") -> Any:
    if side is None:
        return NOTHING
    return format_html('<span class="{}">{}</span>', kind, side) if kind else side


def _ids(data: Any) -> Iterator[str]:
    """Every id in a state's JSON, keys included."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _ids(key)
            yield from _ids(value)
    elif isinstance(data, list):
        for one in data:
            yield from _ids(one)
    elif isinstance(data, str) and _UUID.fullmatch(data):
        yield data
