"""Offers: what may be offered, in versions that nobody rewrites, and what a line takes over from one."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from commerce.actor import Actor
from commerce.errors import CommerceError, Conflict, InvalidInput, NotFound, PermissionDenied, StateConflict
from commerce.ids import uuid7
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract, Offer, Product, Stock
from contracts.rules import schema
from contracts.rules.offers import price_faults
from contracts.rules.state import Price
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit

pytestmark = pytest.mark.django_db

LATER = MARCH + timedelta(days=10)


def offered(seller: Organization, **given: Any) -> Offer:
    """A draft of servers by the month."""
    payload = {
        "seller_id": str(seller.pk),
        "code": "h100-monthly",
        "product": "h100-server",
        "currency": "USD",
        "price": {"model": "unit", "rate": "18000.00"},
        "capacity": 10,
        **given,
    }
    payload = {name: value for name, value in payload.items() if value is not ...}
    return services.create_offer(payload=payload, actor=OPERATOR, at=MARCH)


def live(seller: Organization, **given: Any) -> Offer:
    return services.publish_offer(offer_id=offered(seller, **given).pk, actor=OPERATOR, at=MARCH)


def block(organization: Organization) -> None:
    for status in ("active", "suspended"):
        Organization.objects.filter(pk=organization.pk).update(onboarding_status=status)


def key_of(organization: Organization, *permissions: str) -> Actor:
    names = permissions or ("edit_offer", "publish_offer", "withdraw_offer", "edit_contract")
    return Actor(
        type="api_key",
        id=f"key-of-{organization.slug}",
        organization_id=organization.pk,
        permissions=frozenset(f"contracts.{name}" for name in names),
    )


def faults(error: CommerceError) -> dict[str, str]:
    return {fault.pointer: fault.code for fault in error.errors}


def events(type_: str) -> list[dict[str, Any]]:
    return [event.payload for event in OutboxEvent.objects.filter(type=type_).order_by("id")]


# Making, publishing, withdrawing


def test_an_offer_is_a_draft_until_it_is_published(parties: Parties) -> None:
    offer = offered(parties.seller)
    assert (offer.status, offer.version, offer.published_at, offer.stock.capacity) == ("draft", 1, None, 10)
    assert offer.valid_from == MARCH
    assert not events("offer.published")
    offer = services.publish_offer(offer_id=offer.pk, actor=OPERATOR, at=LATER)
    assert (offer.status, offer.published_at) == ("live", LATER)
    [event] = events("offer.published")
    assert (event["offer_id"], event["seller_id"]) == (str(offer.pk), str(parties.seller.pk))
    assert event["price"]["rate"] == "18000"


def test_a_withdrawn_offer_stays_withdrawn(parties: Parties) -> None:
    offer = live(parties.seller)
    services.withdraw_offer(offer_id=offer.pk, actor=OPERATOR, at=LATER, reason="Sold elsewhere")
    assert Offer.objects.get().status == "withdrawn"
    assert len(events("offer.withdrawn")) == 1
    with pytest.raises(StateConflict):
        services.publish_offer(offer_id=offer.pk, actor=OPERATOR, at=LATER)
    with pytest.raises(StateConflict):
        services.withdraw_offer(offer_id=offer.pk, actor=OPERATOR, at=LATER, reason="again")
    assert len(events("offer.withdrawn")) == 1


def test_all_faults_of_an_offer_are_named_at_once(parties: Parties) -> None:
    with pytest.raises(InvalidInput) as refused:
        offered(
            parties.buyer,
            product="nothing",
            currency="XXX",
            valid_from="2027-05-01T00:00:00Z",
            valid_to="2027-05-01T00:00:00Z",
            price={"model": "unit", "rate": "1", "currency": "EUR", "min_minor": 5, "max_minor": 4},
        )
    assert faults(refused.value) == {
        "/seller_id": "unknown_seller",
        "/product": "unknown_product",
        "/currency": "unknown_currency",
        "/price/currency": "currency_mismatch",
        "/price/max_minor": "bounds_invalid",
        "/valid_to": "validity_empty",
    }
    assert not Offer.objects.exists()
    assert not Stock.objects.exists()


@pytest.mark.parametrize(
    ("price", "at", "code"),
    [
        ({"model": "graduated"}, "/tiers", "tiers_invalid"),
        ({"model": "unit", "rate": "1", "tiers": [{"up_to": None, "rate": "1"}]}, "/tiers", "tiers_invalid"),
        ({"model": "volume", "tiers": [{"up_to": "10", "rate": "1"}]}, "/tiers/0/up_to", "tiers_invalid"),
        (
            {"model": "volume", "tiers": [{"up_to": None, "rate": "1"}, {"up_to": None, "rate": "2"}]},
            "/tiers/0/up_to",
            "tiers_invalid",
        ),
        (
            {
                "model": "graduated",
                "tiers": [
                    {"up_to": "5", "rate": "1"},
                    {"up_to": "5", "rate": "1"},
                    {"up_to": None, "rate": "2"},
                ],
            },
            "/tiers/1/up_to",
            "tiers_invalid",
        ),
        (
            {"model": "graduated", "tiers": [{"up_to": None, "rate": "-1"}]},
            "/tiers/0/rate",
            "amount_negative",
        ),
        (
            {"model": "graduated", "rate": "1", "tiers": [{"up_to": None, "rate": "1"}]},
            "/rate",
            "tiers_invalid",
        ),
        ({"model": "package", "rate": "1"}, "/package_size", "package_size_invalid"),
        ({"model": "unit", "rate": "1", "package_size": "5"}, "/package_size", "package_size_invalid"),
        ({"model": "one_off", "rate": "1"}, "/model", "price_model_unfit"),
        ({"model": "cost_plus", "rate": "1"}, "/model", "invalid_choice"),
        ({"model": "unit", "rate": "1.0000000000001"}, "/rate", "rate_scale"),
    ],
)
def test_a_price_that_does_not_hold_together_is_refused_at_its_place(
    parties: Parties, price: dict[str, Any], at: str, code: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        offered(parties.seller, price=price)
    assert faults(refused.value) == {f"/price{at}": code}
    assert not Offer.objects.exists()


def test_what_is_sold_once_has_a_price_for_once_and_what_is_metered_no_flat_one(parties: Parties) -> None:
    Product.objects.create(code="setup", name="Setup", kind="one_off", unit="each")
    assert offered(
        parties.seller, code="setup", product="setup", price={"model": "one_off", "rate": "500"}
    ).asked == Price("one_off", schema.load(Price, {"model": "unit", "rate": "500"}).rate, "USD")
    for product, model in (("setup", "unit"), ("h100-burst", "flat"), ("h100-burst", "one_off")):
        with pytest.raises(InvalidInput, match="cannot be priced"):
            offered(parties.seller, code="x", product=product, price={"model": model, "rate": "1"})


@given(bounds=st.lists(st.integers(0, 40), max_size=5), last_open=st.booleans())
def test_tiers_are_accepted_exactly_when_they_ascend_and_the_last_is_open(
    bounds: list[int], last_open: bool
) -> None:
    tiers = [{"up_to": str(bound), "rate": "1"} for bound in bounds]
    tiers += [{"up_to": None, "rate": "1"}] if last_open else []
    price = schema.parse(Price, {"model": "graduated", "tiers": tiers})
    found = {fault.code for fault in price_faults(price, "usage", pointer="")}
    ascending = all(a < b for a, b in zip([0, *bounds], bounds, strict=False))
    assert (found == set()) == (ascending and last_open)
    assert found <= {"tiers_invalid"}


def test_a_seller_offers_its_own_and_nobody_elses(parties: Parties) -> None:
    seller = key_of(parties.seller)
    given = {
        "code": "own",
        "product": "h100-server",
        "currency": "USD",
        "price": {"model": "unit", "rate": "1"},
    }
    own = services.create_offer(payload=given, actor=seller, at=MARCH)
    assert (own.seller, own.stock.capacity) == (parties.seller, None)
    with pytest.raises(PermissionDenied):
        services.create_offer(
            payload={**given, "seller_id": str(parties.other_seller.pk)}, actor=seller, at=MARCH
        )
    foreign = offered(parties.other_seller)
    for change in (
        lambda: services.publish_offer(offer_id=foreign.pk, actor=seller, at=MARCH),
        lambda: services.withdraw_offer(offer_id=foreign.pk, actor=seller, at=MARCH, reason="mine"),
        lambda: services.revise_offer(offer_id=foreign.pk, changes={"terms": "x"}, actor=seller, at=MARCH),
        lambda: services.set_capacity(offer_id=foreign.pk, capacity=1, actor=seller, at=MARCH),
    ):
        with pytest.raises(NotFound):
            change()
    services.publish_offer(offer_id=foreign.pk, actor=OPERATOR, at=MARCH)
    with pytest.raises(PermissionDenied):
        services.withdraw_offer(offer_id=foreign.pk, actor=seller, at=MARCH, reason="mine")
    with pytest.raises(InvalidInput, match="no such seller"):
        services.create_offer(payload=given, actor=key_of(parties.buyer), at=MARCH)
    with pytest.raises(PermissionDenied):
        services.create_offer(payload=given, actor=key_of(parties.seller, "view_offer"), at=MARCH)
    assert Offer.objects.count() == 2
    foreign.refresh_from_db()
    assert (foreign.status, foreign.stock.capacity) == ("live", 10)


def test_a_sellers_code_is_used_once_and_two_sellers_may_have_the_same(parties: Parties) -> None:
    offered(parties.seller)
    offered(parties.other_seller)
    with pytest.raises(Conflict) as refused:
        offered(parties.seller)
    assert faults(refused.value) == {"/code": "offer_code_taken"}
    assert (Offer.objects.count(), Stock.objects.count()) == (2, 2)


def test_a_blocked_seller_publishes_nothing(parties: Parties) -> None:
    offer = offered(parties.seller)
    block(parties.seller)
    with pytest.raises(InvalidInput) as refused:
        services.publish_offer(offer_id=offer.pk, actor=OPERATOR, at=MARCH)
    assert refused.value.code == "seller_blocked"
    assert Offer.objects.get().status == "draft"


# Versions


def test_another_price_is_another_version_and_takes_over_when_it_is_published(parties: Parties) -> None:
    first = live(parties.seller)
    changes = {"price": {"model": "unit", "rate": "17000"}}
    second = services.revise_offer(offer_id=first.pk, changes=changes, actor=OPERATOR, at=LATER)
    assert (second.version, second.supersedes, second.status) == (2, first, "draft")
    assert second.stock == first.stock
    first.refresh_from_db()
    assert (first.status, str(first.asked.rate)) == ("live", "18000")
    services.publish_offer(offer_id=second.pk, actor=OPERATOR, at=LATER)
    first.refresh_from_db()
    assert (first.status, first.withdrawn_at) == ("withdrawn", LATER)
    assert [event["version"] for event in events("offer.withdrawn")] == [1]
    assert [event["version"] for event in events("offer.published")] == [1, 2]


def test_only_the_latest_version_is_revised_and_only_by_a_change(parties: Parties) -> None:
    first = live(parties.seller)
    second = services.revise_offer(offer_id=first.pk, changes={"terms": "As is."}, actor=OPERATOR, at=LATER)
    with pytest.raises(StateConflict) as refused:
        services.revise_offer(offer_id=first.pk, changes={"terms": "No."}, actor=OPERATOR, at=LATER)
    assert refused.value.code == "offer_superseded"
    with pytest.raises(InvalidInput, match="Nothing would change"):
        same = {"terms": "As is.", "price": {"model": "unit", "rate": "18000.000"}}
        services.revise_offer(offer_id=second.pk, changes=same, actor=OPERATOR, at=LATER)
    with pytest.raises(InvalidInput) as refused:
        services.revise_offer(offer_id=second.pk, changes={"capacity": 3}, actor=OPERATOR, at=LATER)
    assert faults(refused.value) == {"/capacity": "unknown_field"}
    third = services.revise_offer(offer_id=second.pk, changes={"terms": "Now."}, actor=OPERATOR, at=LATER)
    second.refresh_from_db()
    assert (second.status, third.version) == ("withdrawn", 3)
    assert Offer.objects.filter(status="draft").get() == third


@pytest.mark.parametrize(
    "change",
    ["price = '{}'", "currency = 'EUR'", "terms = 'new'", "valid_to = now()", "code = 'x'", "version = 7"],
)
def test_the_database_rewrites_no_offer(parties: Parties, change: str) -> None:
    live(parties.seller)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE contracts_offer SET {change}")
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM contracts_offer")
    assert Offer.objects.get().price["rate"] == "18000"


# Lines


def draft_on(offer: Offer, payload: dict[str, Any], **line: Any) -> Contract:
    line = {"line_id": str(uuid7()), "offer_id": str(offer.pk), "quantity": 2, **line}
    return create({**payload, "lines": [line]}).contract


def test_a_line_takes_seller_product_and_price_from_its_offer(
    parties: Parties, payload: dict[str, Any]
) -> None:
    offer = live(parties.seller, price={"model": "volume", "tiers": [{"up_to": None, "rate": "17000"}]})
    contract = draft_on(offer, payload)
    [line] = contract.current.live_lines
    assert (line.seller_id, line.product_code, line.offer_id) == (parties.seller.pk, "h100-server", offer.pk)
    assert (line.price, line.kind, line.unit) == (offer.asked, "recurring", "server_month")
    body = {"line_id": str(uuid7()), "offer_id": str(offer.pk)}
    contract = edit(contract, "add_product", body).contract
    assert [line.price for line in contract.current.live_lines] == [offer.asked] * 2


def test_what_is_said_beside_an_offer_has_to_be_the_same(parties: Parties, payload: dict[str, Any]) -> None:
    offer = live(parties.seller)
    same = {
        "product": "h100-server",
        "seller_id": str(parties.seller.pk),
        "price": {"model": "unit", "rate": "18000"},
    }
    contract = draft_on(offer, payload, **same)
    other = {
        "product": "h100-burst",
        "seller_id": str(parties.other_seller.pk),
        "price": {"model": "unit", "rate": "17999.99"},
    }
    body = {"line_id": str(uuid7()), "offer_id": str(offer.pk), **other}
    with pytest.raises(InvalidInput) as refused:
        edit(contract, "add_product", body)
    assert faults(refused.value) == {
        "/payload/product": "offer_product_differs",
        "/payload/seller_id": "offer_seller_differs",
        "/payload/price": "offer_price_differs",
    }
    assert Contract.objects.get().version == 1


def test_a_line_without_an_offer_needs_product_seller_and_price(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        create({**payload, "lines": [{"line_id": str(uuid7())}]})
    assert faults(refused.value) == {
        f"/lines/0/{name}": "required" for name in ("product", "seller_id", "price")
    }


def test_a_lines_own_price_has_to_hold_together_too(payload: dict[str, Any]) -> None:
    line = {**payload["lines"][0], "price": {"model": "graduated", "tiers": []}}
    with pytest.raises(InvalidInput) as refused:
        create({**payload, "lines": [line]})
    assert faults(refused.value) == {"/lines/0/price/tiers": "tiers_invalid"}


def test_no_line_is_sold_on_an_offer_that_is_not_on_sale(parties: Parties, payload: dict[str, Any]) -> None:
    drafted = offered(parties.seller, code="drafted")
    withdrawn = live(parties.seller, code="withdrawn")
    services.withdraw_offer(offer_id=withdrawn.pk, actor=OPERATOR, at=MARCH, reason="No.")
    over = live(
        parties.seller, code="over", valid_from="2027-02-01T00:00:00Z", valid_to="2027-03-01T00:00:01Z"
    )
    ahead = live(parties.seller, code="ahead", valid_from="2027-06-01T00:00:00Z")
    euros = live(parties.seller, code="euros", currency="EUR")
    retired = live(parties.seller, code="retired", product="h100-burst")
    Product.objects.filter(code="h100-burst").update(active=False)
    blocked = live(parties.other_seller)
    block(parties.other_seller)
    expected = {
        uuid4(): "unknown_offer",
        drafted.pk: "unknown_offer",
        withdrawn.pk: "offer_withdrawn",
        over.pk: "offer_expired",
        ahead.pk: "offer_not_yet_valid",
        euros.pk: "currency_mismatch",
        retired.pk: "product_inactive",
        blocked.pk: "seller_blocked",
    }
    lines = [{"line_id": str(uuid7()), "offer_id": str(id_)} for id_ in expected]
    with pytest.raises(InvalidInput) as refused:
        create({**payload, "lines": lines}, at=LATER)
    assert faults(refused.value) == {f"/lines/{i}/offer_id": code for i, code in enumerate(expected.values())}
    assert not Contract.objects.exists()


def test_a_contract_is_not_opened_on_an_offer_that_it_could_not_be_extended_by(
    parties: Parties, payload: dict[str, Any]
) -> None:
    longer = live(parties.seller, code="longer", min_term_months=24)
    dear = live(parties.seller, code="dear", price={"model": "unit", "rate": "9000000000"}, capacity=None)
    contract = create(payload).contract
    for offer, quantity, field, code in (
        (longer, 1, "min_term_months", "min_term_beyond_contract_end"),
        (dear, 1_000_000, "price/rate", "amount_overflow"),
    ):
        line = {"line_id": str(uuid7()), "offer_id": str(offer.pk), "quantity": quantity}
        with pytest.raises(InvalidInput) as refused:
            create({**payload, "lines": [line]})
        assert faults(refused.value) == {f"/lines/0/{field}": code}
        with pytest.raises(InvalidInput) as refused:
            edit(contract, "add_product", line)
        assert faults(refused.value) == {f"/payload/{field}": code}
    assert Contract.objects.count() == 1


def test_a_line_keeps_what_it_was_sold_as(parties: Parties, payload: dict[str, Any]) -> None:
    offer = live(parties.seller)
    contract = draft_on(offer, payload)
    changes = {"price": {"model": "unit", "rate": "99000"}}
    second = services.revise_offer(offer_id=offer.pk, changes=changes, actor=OPERATOR, at=LATER)
    services.publish_offer(offer_id=second.pk, actor=OPERATOR, at=LATER)
    for stage in ("submit", "signed", "live"):
        contract = edit(contract, "activate", {"stage": stage}, at=LATER).contract
    [line] = contract.current.live_lines
    assert (line.offer_id, str(line.price.rate)) == (offer.pk, "18000")
