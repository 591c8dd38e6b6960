"""Real threads on one stock: the last unit is sold once, whoever comes, and nobody waits for ever."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError

from commerce.errors import CommerceError, Conflict
from contracts import services
from contracts.models import Contract, Offer, Reservation, Stock
from contracts.services.reservations import HOLD
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit
from tests.contracts.test_catalogue_offers import draft_on, live, offered
from tests.contracts.test_catalogue_units import findings, line_of, running, stock
from tests.contracts.test_concurrency import together

pytestmark = pytest.mark.django_db(transaction=True)

LATER = MARCH + timedelta(days=10)


@pytest.fixture
def offer(parties: Parties) -> Offer:
    return live(parties.seller)


def test_of_two_buyers_of_the_last_unit_one_gets_it(offer: Offer, payload: dict[str, Any]) -> None:
    draft_on(offer, payload, quantity=9)
    results = together(*[lambda: draft_on(offer, payload, quantity=1)] * 2)
    [refused] = [result for result in results if isinstance(result, CommerceError)]
    assert isinstance(refused, Conflict)
    assert (refused.code, refused.extra["free"]) == ("capacity_unavailable", 0)
    assert stock(offer) == (10, 0)
    assert Contract.objects.count() == 2
    assert not findings()


def test_many_buyers_get_as_many_units_as_there_are(offer: Offer, payload: dict[str, Any]) -> None:
    results = together(*[lambda: draft_on(offer, payload, quantity=3)] * 5)
    assert sum(isinstance(result, Contract) for result in results) == 3
    assert {result.code for result in results if isinstance(result, CommerceError)} == {
        "capacity_unavailable"
    }
    assert stock(offer) == (9, 0)
    assert sum(Reservation.objects.values_list("quantity", flat=True)) == 9


def test_lines_of_several_offers_are_taken_in_one_order(
    offer: Offer, parties: Parties, payload: dict[str, Any]
) -> None:
    other = live(parties.other_seller)

    def both(*offers: Offer) -> Any:
        lines = [{"line_id": str(UUID(int=i + 1)), "offer_id": str(o.pk)} for i, o in enumerate(offers)]
        return create({**payload, "lines": lines})

    for _ in range(5):
        results = together(lambda: both(offer, other), lambda: both(other, offer))
        assert not [result for result in results if isinstance(result, Exception)]
    assert stock(offer) == stock(other) == (10, 0)


def test_an_expiry_beside_the_edit_that_signs_loses_no_unit(offer: Offer, payload: dict[str, Any]) -> None:
    late = MARCH + HOLD
    expire = lambda: services.release_expired_holds(at=late)  # noqa: E731
    for _ in range(3):
        contract = edit(draft_on(offer, payload, quantity=3), "activate", {"stage": "submit"}).contract
        sign = lambda c=contract: edit(c, "activate", {"stage": "signed"}, at=late)  # noqa: E731
        together(sign, expire, expire)
        [row] = Reservation.objects.open().filter(contract=contract)
        assert (row.status, row.quantity) == ("committed", 3)
    assert stock(offer) == (0, 9)
    assert not findings()


def test_capacity_is_not_lowered_below_what_somebody_is_taking(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=5)
    body = {"line_id": str(line_of(contract)), "quantity": 10}
    results = together(
        lambda: edit(contract, "change_quantity", body, at=LATER),
        lambda: services.set_capacity(offer_id=offer.pk, capacity=5, actor=OPERATOR, at=LATER),
    )
    assert sum(isinstance(result, CommerceError) for result in results) == 1
    row = Stock.objects.get()
    assert (row.capacity, row.committed) in ((10, 10), (5, 5))


def test_of_two_revisions_at_once_one_is_the_next_version(offer: Offer) -> None:
    def revise(words: str) -> Any:
        return services.revise_offer(offer_id=offer.pk, changes={"terms": words}, actor=OPERATOR, at=LATER)

    results = together(lambda: revise("one"), lambda: revise("two"))
    assert sorted(isinstance(result, CommerceError) for result in results) == [False, True]
    assert Offer.objects.count() == 2


def test_one_version_is_live_whoever_publishes(offer: Offer) -> None:
    second = services.revise_offer(offer_id=offer.pk, changes={"terms": "x"}, actor=OPERATOR, at=LATER)
    publish = lambda: services.publish_offer(offer_id=second.pk, actor=OPERATOR, at=LATER)  # noqa: E731
    together(publish, publish)
    assert Offer.objects.get(status="live") == second


def test_of_two_sellers_keys_making_one_code_one_makes_it(parties: Parties) -> None:
    results = together(*[lambda: offered(parties.seller)] * 3)
    assert not [result for result in results if isinstance(result, DatabaseError)]
    assert [r.code for r in results if isinstance(r, CommerceError)] == ["offer_code_taken"] * 2
    assert (Offer.objects.count(), Stock.objects.count()) == (1, 1)
