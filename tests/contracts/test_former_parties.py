"""Whose place another has taken keeps what was its own, up to the transfer, and reads nothing of the rest."""

import importlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from contracts.audience import readers
from contracts.models import Contract
from contracts.rules.visibility import last_instant
from contracts.services import rebuild_contract
from tests.contracts.conftest import MARCH, OPERATOR, Parties, edit
from tests.contracts.test_doors import Api, operate

pytestmark = pytest.mark.django_db

JUNE = datetime(2027, 6, 16, tzinfo=UTC)
LATER = JUNE + timedelta(days=30)
DAY = timedelta(days=1)
SECRET = "Rack 7 for Globex only"


@pytest.fixture
def globex() -> Organization:
    found = Organization.objects.create(name="Globex", slug="globex", roles=["buyer"])
    Organization.objects.filter(pk=found.pk).update(onboarding_status="active")
    return found


@pytest.fixture
def sold(active: Contract, parties: Parties, globex: Organization, servers: UUID, clock: Any) -> Contract:
    """A contract that Acme has passed on to Globex, which then orders seven more and names a rack."""
    consents = [
        {"party": str(party.pk), "name": party.name, "at": "2027-06-01T00:00:00Z"}
        for party in (parties.buyer, globex)
    ]
    transfer = {"party": "buyer", "new_party_id": str(globex.pk), "consents": consents}
    edit(active, "transfer_ownership", transfer, at=JUNE, reason="Acme sells its data centre.")
    edit(active, "change_quantity", {"line_id": str(servers), "delta": 7}, at=JUNE + DAY, reason=SECRET)
    edit(active, "change_terms", {"references": {"notes": SECRET}}, at=JUNE + DAY)
    edit(active, "suspend", {"reason": "legal"}, at=JUNE + 2 * DAY)
    clock(LATER)
    active.refresh_from_db()
    return active


def path(contract: Contract, rest: str = "") -> str:
    return f"contracts/{contract.pk}/{rest}"


def test_a_former_buyer_reads_the_contract_as_it_left_it(
    sold: Contract, parties: Parties, globex: Organization, servers: UUID
) -> None:
    acme = Api(parties.buyer)
    left = acme.get(path(sold)).json()
    assert left == {**acme.get(path(sold, "?valid_at=2027-06-15T00:00:00Z")).json()}
    assert (left["status"], left["buyer_id"]) == ("active", str(parties.buyer.pk))
    assert {line["line_id"]: line["quantity"] for line in left["lines"]}[str(servers)] == 2
    assert str(globex.pk) not in str(left)
    assert SECRET not in str(left)
    for after in ("2027-06-16T00:00:00Z", "2027-07-01T00:00:00Z"):
        assert acme.get(path(sold, f"?valid_at={after}")).status_code == 404
        assert acme.get(path(sold, f"document/?valid_at={after}")).status_code == 404


def test_its_log_timeline_and_differences_end_with_the_transfer(sold: Contract, parties: Parties) -> None:
    acme = Api(parties.buyer)
    edits = acme.get(path(sold, "edits/")).json()["items"]
    assert [one["operation"] for one in edits] == ["transfer_ownership", *["activate"] * 3, "create"]
    assert all(one["actor"] for one in edits[1:]), "in its own time it was the buyer"
    steps = acme.get(path(sold, "timeline/")).json()["items"]
    assert max(step["at"] for step in steps) < "2027-06-16"
    since = acme.get(path(sold, "diff/?from_version=4")).json()["items"]
    assert all(part["after"] == {} for part in since), "all that it learned is that its time ended"
    for said in (edits[1:], steps, since):
        assert SECRET not in str(said)


def test_it_reads_its_own_bills_and_nobody_elses(
    sold: Contract, parties: Parties, globex: Organization
) -> None:
    period = "desired-lines/?start=2027-06-01T00:00:00Z&end=2027-07-01T00:00:00Z"
    mine, theirs = (Api(party).get(path(sold, period)).json() for party in (parties.buyer, globex))
    assert {line["buyer_id"] for line in mine["items"]} == {str(parties.buyer.pk)}
    assert {line["buyer_id"] for line in theirs["items"]} == {str(globex.pk)}
    assert mine["net"]["amount_minor"] == int(Decimal("18000.00") * 100 * 2 * 15 / 30)
    assert max(line["end"] for line in mine["items"]) <= "2027-06-16T00:00:00Z"


def test_its_document_is_of_its_last_instant(sold: Contract, parties: Parties) -> None:
    acme = Api(parties.buyer)
    found = acme.get(path(sold, "document/")).json()
    assert found["valid_at"] == "2027-06-15T23:59:59.999999Z"
    rows = {section["title"]: section["rows"] for section in found["sections"]}
    assert ["Buyer", "Acme"] in rows["Parties"]
    assert not {"Globex", SECRET} & {cell for section in rows.values() for row in section for cell in row}
    assert acme.get(path(sold, "document/?format=pdf")).status_code == 200
    assert acme.get(path(sold, "service/")).status_code == 200
    assert acme.get(path(sold, "schedule/")).status_code == 404


def test_a_list_says_since_when_it_is_no_party_and_nothing_of_what_came_then(
    sold: Contract, parties: Parties, globex: Organization
) -> None:
    [row] = Api(parties.buyer).get("contracts/").json()["items"]
    assert (row["left_at"], row["status"], row["next_due_at"]) == ("2027-06-16T00:00:00Z", "active", None)
    assert row["buyer_id"] == str(parties.buyer.pk)
    [row] = Api(globex).get("contracts/").json()["items"]
    assert (row["left_at"], row["status"], row["buyer_id"]) == (None, "suspended", str(globex.pk))
    acme = Api(parties.buyer)
    for status in ("active", "suspended"):
        assert acme.get(f"contracts/?status={status}").json()["items"] == [], "a filter tells what is now"


def test_it_changes_nothing_any_more(sold: Contract, parties: Parties, servers: UUID) -> None:
    acme, version = Api(parties.buyer), sold.version
    payload = {"line_id": str(servers), "delta": 1}
    for more in ({}, {"effective_at": "2027-06-01T00:00:00Z", "reason": "late"}):
        answer = operate(acme, sold, "change_quantity", payload, **more)
        assert (answer.status_code, SECRET in answer.content.decode()) == (403, False)
        body = {"operation": "change_quantity", "payload": payload, **more}
        assert acme.post(path(sold, "preview/"), body).status_code == 403
    assert Contract.objects.get(pk=sold.pk).version == version


def test_nobody_tells_it_of_what_follows(sold: Contract, parties: Parties) -> None:
    events = list(OutboxEvent.objects.filter(aggregate_id=str(sold.pk)).order_by("id"))
    heard = readers(events)
    told = [event.type for event in events if parties.buyer.pk in heard[event.event_id]]
    assert told[-1] == "contract.transferred"
    assert not {"contract.quantity_changed", "contract.terms_changed", "contract.suspended"} & set(told)


def test_a_former_seller_keeps_its_own_time_too(
    active: Contract, parties: Parties, servers: UUID, clock: Any
) -> None:
    new = parties.other_seller
    Organization.objects.filter(pk=new.pk).update(onboarding_status="active")
    consents = [
        {"party": str(party.pk), "name": party.name, "at": "2027-06-01T00:00:00Z"}
        for party in (parties.seller, new)
    ]
    transfer = {"party": "seller", "new_party_id": str(new.pk), "consents": consents}
    edit(active, "transfer_ownership", transfer, at=JUNE, reason="Sold.")
    edit(active, "change_quantity", {"line_id": str(servers), "delta": 7}, at=JUNE + DAY)
    clock(LATER)
    northwind = Api(parties.seller)
    quantities = {line["line_id"]: line["quantity"] for line in northwind.get(path(active)).json()["lines"]}
    assert quantities[str(servers)] == 2
    assert northwind.get(path(active, "?valid_at=2027-06-17T00:00:00Z")).status_code == 404
    assert [row["left_at"] for row in northwind.get("contracts/").json()["items"]] == ["2027-06-16T00:00:00Z"]


def test_who_comes_back_is_a_party_and_sees_nothing_of_the_time_between(
    sold: Contract, parties: Parties, globex: Organization
) -> None:
    edit(sold, "resume", {"reason": "legal"}, at=LATER)
    consents = [
        {"party": str(party.pk), "name": party.name, "at": "2027-07-10T00:00:00Z"}
        for party in (globex, parties.buyer)
    ]
    Organization.objects.filter(pk=parties.buyer.pk).update(onboarding_status="active")
    back = {"party": "buyer", "new_party_id": str(parties.buyer.pk), "consents": consents}
    edit(sold, "transfer_ownership", back, at=LATER, reason="Bought back.")
    sold.refresh_from_db()
    assert sold.former_party_ids == sorted([parties.buyer.pk, globex.pk])
    assert last_instant(sold.current, parties.buyer.pk) is None
    assert last_instant(sold.current, globex.pk) == LATER - timedelta(microseconds=1)
    acme = Api(parties.buyer)
    assert acme.get("contracts/").json()["items"][0]["left_at"] is None
    assert acme.get(path(sold, "?valid_at=2027-06-20T00:00:00Z")).status_code == 404
    assert acme.get(path(sold)).json()["status"] == "active"


def test_a_transfer_that_lies_ahead_makes_nobody_a_former_party(
    active: Contract, parties: Parties, globex: Organization, clock: Any
) -> None:
    clock(MARCH + DAY)
    consents = [
        {"party": str(party.pk), "name": party.name, "at": "2027-03-01T00:00:00Z"}
        for party in (parties.buyer, globex)
    ]
    transfer = {"party": "buyer", "new_party_id": str(globex.pk), "consents": consents}
    edit(active, "transfer_ownership", transfer, at=MARCH + DAY, effective_at=JUNE, reason="Sold.")
    active.refresh_from_db()
    assert (active.former_party_ids, active.buyer_id) == ([], parties.buyer.pk)
    [row] = Api(parties.buyer).get("contracts/").json()["items"]
    assert row["left_at"] is None
    assert Api(globex).get(path(active)).status_code == 404


def test_rows_of_before_are_filled_from_what_they_show(sold: Contract, parties: Parties) -> None:
    Contract.objects.filter(pk=sold.pk).update(former_party_ids=[])
    assert rebuild_contract(contract_id=sold.pk, actor=OPERATOR, dry_run=True).changed == ["former_party_ids"]
    assert Api(parties.buyer).get(path(sold)).status_code == 404
    migration = importlib.import_module("contracts.migrations.0017_former_parties").Migration
    with connection.cursor() as cursor:
        cursor.execute(migration.operations[-1].sql)
    assert Contract.objects.get(pk=sold.pk).former_party_ids == [parties.buyer.pk]
    assert rebuild_contract(contract_id=sold.pk, actor=OPERATOR, dry_run=True).changed == []
