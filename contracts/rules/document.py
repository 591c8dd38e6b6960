"""A contract as a document: what the parties agreed to, in sections of plain text, and its hash.

The hash covers what is agreed, with ids for names, and neither status nor signatures: it is the same
when the document goes out, while it is signed and afterwards, until something that was agreed changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from commerce.money import Money, exponent
from contracts.rules.state import ContractState, digest

Json = Mapping[str, Any]

_AGREED = (
    "buyer_id", "owner_epoch", "currency", "start_at", "end_at", "term_no", "term_start_at", "term_months",
    "end_policy", "billing", "terms", "trial", "lines", "discounts", "commitments", "financings",
)  # fmt: skip
_CADENCE = {"P1M": "month", "P3M": "quarter", "P1Y": "year"}
_COLLECTION = {"wallet_auto": "from the wallet", "card_auto": "by card", "bank_invoice": "by bank transfer"}


@dataclass(frozen=True)
class Section:
    """A heading over a table: with `columns` one row each, else names and values."""

    title: str
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Document:
    """`sha256` is of what was agreed; the two instants say as of when, and as known when."""

    number: str
    title: str
    status: str
    sections: Sequence[Section]
    sha256: str
    valid_at: datetime
    known_at: datetime | None
    version: int


def content_hash(state: ContractState) -> str:
    """SHA-256 of what the parties of this state have agreed to, in hexadecimal."""
    return hash_of(state.to_json())


def hash_of(body: Json) -> str:
    """The same of a state's JSON, whole or as far as somebody may see it."""
    return digest({name: body[name] for name in _AGREED if name in body})


def sections(body: Json, names: Mapping[UUID, str]) -> Iterator[Section]:
    """The document's sections of a state's JSON, whole or as far as somebody may see it."""
    currency = body["currency"]
    yield Section("Parties", [*_parties(body, names)])
    yield Section("Term", [*_term(body)])
    if lines := body.get("lines"):
        yield Section(
            "Services",
            [_line(line, names, currency) for line in lines.values() if line["live"]],
            ("Product", "Seller", "Quantity", "Price", "Billed from", "Until"),
        )
    labels = {id_: line["product_code"] for id_, line in (lines or {}).items()}
    if found := body.get("discounts"):
        yield _discounts(list(found.values()), labels, currency)
    if found := body.get("commitments"):
        rows = [_commitment(one, labels, currency) for one in found.values()]
        yield Section("Commitments", rows, ("Minimum", "On", "Each", "From", "Until"))
    if found := body.get("financings"):
        rows = [_financing(one, currency) for one in found.values()]
        yield Section("Financing", rows, ("Principal", "APR", "Months", "First due", "Method", "Paid down"))
    yield from _terms(body, names)


def _parties(body: Json, names: Mapping[UUID, str]) -> Iterator[tuple[str, str]]:
    if body.get("buyer_id"):
        yield "Buyer", _name(body["buyer_id"], names)
    sellers = dict.fromkeys(line["seller_id"] for line in body.get("lines", {}).values())
    for seller in sellers:
        yield "Seller", _name(seller, names)
    if partner := body["terms"].get("settlement", {}).get("partner_id"):
        yield "Partner", _name(partner, names)


def _term(body: Json) -> Iterator[tuple[str, str]]:
    yield "Begins", day(body["start_at"])
    months = body.get("term_months")
    yield "Runs until", day(body["end_at"]) if body.get("end_at") else "it is terminated"
    if months:
        yield "Term", f"{months} months" + (f", the {body['term_no']}. term" if body["term_no"] > 1 else "")
    if trial := body.get("trial"):
        ends = "billing begins" if trial["on_end"] == "convert" else "the contract ends"
        yield "Trial", f"until {day(trial['until'])}, then {ends}"
    billing = body["billing"]
    when = "in advance" if billing["when"] == "in_advance" else "in arrears"
    yield "Billed", f"each {_CADENCE[billing['cadence']]} from day {billing['anchor_day']}, {when}"


def _line(line: Json, names: Mapping[UUID, str], currency: str) -> tuple[str, ...]:
    quantity = "as used" if line["kind"] == "usage" else f"{line['quantity']:,}"
    since = "service" if line["bill_from"] == "in_service" else day(line.get("added_at"))
    return (
        line["product_code"],
        _name(line["seller_id"], names),
        quantity,
        f"{price(line['price'], currency)} / {line['unit'].replace('_', '-')}",
        since,
        day(line.get("end_at") or line.get("min_term_until")),
    )


def price(found: Json, currency: str) -> str:
    """A price in words: "18,000.00 USD, graduated, …"."""
    parts = [] if found.get("tiers") else [_rate(found["rate"], currency)]
    if found["model"] != "unit":
        parts.append(found["model"].replace("_", " "))
    for tier in found.get("tiers") or ():
        bound = f"up to {Decimal(tier['up_to']):,f}" if tier.get("up_to") else "above"
        once = f" and {_money(tier['flat_minor'], currency)} once" if tier.get("flat_minor") else ""
        parts.append(f"{bound}: {_rate(tier['rate'], currency)}{once}")
    if found.get("package_size"):
        parts.append(f"in packages of {Decimal(found['package_size']):,f}")
    if Decimal(found.get("included") or 0):
        parts.append(f"{Decimal(found['included']):,f} included")
    if found.get("min_minor") is not None:
        parts.append(f"at least {_money(found['min_minor'], currency)}")
    if found.get("max_minor") is not None:
        parts.append(f"at most {_money(found['max_minor'], currency)}")
    return ", ".join(parts)


def _discounts(found: Sequence[Json], labels: Mapping[str, str], currency: str) -> Section:
    """With who bears them where the reader may see that of any."""
    columns = ("Discount", "On", "From", "Until")
    rows = [
        (_taken_off(one, currency), _scope(one["scope"], labels), day(one["since"]), day(one.get("ends_at")))
        for one in found
    ]
    shares = [percent(one["seller_share"]) if "seller_share" in one else "–" for one in found]
    if set(shares) == {"–"}:
        return Section("Discounts", rows, columns)
    rows_with = [(*row, share) for row, share in zip(rows, shares, strict=True)]
    return Section("Discounts", rows_with, (*columns, "Borne by the seller"))


def _taken_off(one: Json, currency: str) -> str:
    """How much a discount takes off; of a sum over lines that the reader may not see, only what it is."""
    if one["kind"] == "percent":
        return percent(one["percent"])
    if one["kind"] == "ramp":
        steps = one["ramp"]
        return ", ".join(f"{percent(step['percent'])} from month {step['from_month']}" for step in steps)
    if one["kind"] == "fixed_per_period":
        minor = one.get("amount_minor")
        return "part of a fixed amount a period" if minor is None else f"{_money(minor, currency)} a period"
    return f"{Decimal(one['units']):,f} units free" if "units" in one else "part of some free units"


def _commitment(one: Json, labels: Mapping[str, str], currency: str) -> tuple[str, ...]:
    money = one["kind"] == "minimum_spend"
    minimum = _money(one["amount_minor"], currency) if money else f"{Decimal(one['units']):,f} units"
    return minimum, _scope(one["scope"], labels), one["window"], day(one["since"]), day(one.get("ends_at"))


def _financing(one: Json, currency: str) -> tuple[str, ...]:
    return (
        _money(one["principal_minor"], currency),
        percent(one["apr"]),
        str(one["term_months"]),
        one["first_due_on"],
        one["method"].replace("_", " "),
        _money(one["downpayment_minor"], currency),
    )


def _terms(body: Json, names: Mapping[UUID, str]) -> Iterator[Section]:
    """The sections of the terms that are there."""
    terms, currency = body["terms"], body["currency"]
    if payment := terms.get("payment"):
        due = f"{payment['net_days']} days net, {payment['grace_days']} days of grace"
        rows = [("Due", due), ("Collected", _COLLECTION[payment["collection"]])]
        if payment.get("late_fee_minor"):
            rows.append(("Late fee", _money(payment["late_fee_minor"], currency)))
        if down := terms.get("commitment", {}).get("downpayment"):
            rows.append(("Downpayment", _money(down["amount_minor"], down["currency"])))
        if tax := terms.get("tax"):
            rows.append(
                (
                    "Tax",
                    f"exempt, {tax['exempt_certificate']}"
                    if tax.get("exempt_certificate")
                    else percent(tax["rate"]),
                )
            )
        yield Section("Payment", rows)
    if renewal := terms.get("renewal"):
        uplift = renewal["uplift"]
        rises = {"none": "at the same prices", "percent": f"at prices raised by {percent(uplift['value'])}"}
        how = rises.get(uplift["kind"], "at the catalogue's prices")
        says = (
            f"by itself, {how}; notice {renewal['notice_days']} days"
            if renewal["auto"]
            else "only when agreed"
        )
        yield Section("Renewal", [("Renews", says)])
    if sla := terms.get("sla"):
        rows = [(f"below {percent(tier['below'])}", percent(tier["credit"])) for tier in sla["tiers"]]
        yield Section(
            "Service levels", rows, ("Uptime", "Credit of the monthly charge"), f"Policy {sla['policy']}."
        )
    if settlement := terms.get("settlement"):
        rows = [("Fee", percent(settlement["fee_rate"]))] if "fee_rate" in settlement else []
        if settlement.get("seasoning_days") is not None:
            rows.append(("Paid to sellers after", f"{settlement['seasoning_days']} days"))
        if settlement.get("partner_id"):
            rows.append(
                (
                    f"Share of the fee, {_name(settlement['partner_id'], names)}",
                    percent(settlement["partner_share"]),
                )
            )
        if rows:
            yield Section("Settlement", rows)
    references = {key: value for key, value in (terms.get("references") or {}).items() if value}
    if references:
        named = {"po_number": "PO number", "labels": "Labels", "notes": "Notes"}
        yield Section(
            "References", [(named.get(key, key), _joined(value)) for key, value in references.items()]
        )


def percent(share: Any) -> str:
    return f"{(Decimal(share) * 100).normalize():f} %"


def day(at: str | None) -> str:
    """ "1 Mar 2027", with the time of day where it is not midnight; UTC."""
    if not at:
        return "–"
    moment = datetime.fromisoformat(at)
    clock = "" if (moment.hour, moment.minute, moment.second) == (0, 0, 0) else f" {moment:%H:%M:%S}"
    return f"{moment.day} {moment:%b %Y}{clock}"


def _scope(scope: Any, labels: Mapping[str, str]) -> str:
    return "all services" if scope == "all" else ", ".join(labels.get(id_, "a service") for id_ in scope)


def _name(id_: str, names: Mapping[UUID, str]) -> str:
    return names.get(UUID(id_)) or f"organization …{id_[-8:]}"


def _money(minor: int, currency: str) -> str:
    return str(Money(minor, currency))


def _rate(rate: str, currency: str) -> str:
    value = Decimal(rate)
    digits = max(exponent(currency), -int(value.normalize().as_tuple().exponent))
    return f"{value:,.{digits}f} {currency}"


def _joined(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
