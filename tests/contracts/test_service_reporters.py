"""Who may report on which units: ids, sources, blocks and corrections are their reporter's own."""

# ruff: noqa: F401, F811 (fixtures are arguments)

from uuid import UUID

import pytest

from commerce.actor import Actor
from commerce.errors import PermissionDenied
from commerce.parties.models import Organization
from contracts.models import Contract, ServiceEvent
from tests.contracts.conftest import MARCH, Parties
from tests.contracts.test_service import HOUR, NOON, faults, key_of, line, named, record, report, state_of

pytestmark = pytest.mark.django_db


def test_a_seller_reports_on_its_own_lines_and_a_stranger_learns_nothing(
    named: Contract, line: UUID, parties: Parties
) -> None:
    event = report("in_service", MARCH)
    placed = report("in_service", MARCH, contract_id=named.pk, line_id=line)
    for stranger in (parties.other_seller, parties.buyer, parties.partner):
        assert faults(event, actor=key_of(stranger)) == [("/events/0/unit_id", "unit_unknown")]
        assert faults(placed, actor=key_of(stranger)) == [("/events/0/contract_id", "contract_not_found")]
    record(event, actor=key_of(parties.seller))
    assert ServiceEvent.objects.get(source="dcim").reporter == parties.seller


def test_without_the_permission_nothing_is_recorded(named: Contract) -> None:
    with pytest.raises(PermissionDenied):
        record(report("down", NOON), actor=Actor("api_key", "k"))
    assert not ServiceEvent.objects.filter(source="dcim").exists()


def test_a_key_does_not_speak_as_the_console(named: Contract, parties: Parties) -> None:
    event = report("down", NOON, source="console")
    assert faults(event, actor=key_of(parties.seller)) == [("/events/0/source", "source_reserved")]
    assert record(event).events


def test_a_seller_does_not_correct_what_the_platform_reported(named: Contract, parties: Parties) -> None:
    record(report("in_service", MARCH), report("down", NOON, source_event_id="d"))
    void = report("void", NOON, corrects="d")
    assert faults(void, actor=key_of(parties.seller)) == [("/events/0/corrects", "not_the_reporter")]
    assert state_of() == "down"
    own = report("down", NOON, "u-2", source_event_id="own", source="s")
    record(own, actor=key_of(parties.seller))
    record(report("void", NOON, "u-2", corrects="own", source="s"), actor=key_of(parties.seller))
    assert state_of("u-2") == "not_started"


def test_a_seller_does_not_lift_what_the_platform_blocked(named: Contract, parties: Parties) -> None:
    """A source's name is its reporter's own: another may call its own so, and means somebody else by it."""
    record(report("in_service", MARCH))
    record(report("access_blocked", MARCH + HOUR, source="gate"))
    seller = key_of(parties.seller)
    for said in ("access_restored", "in_service"):
        record(report(said, MARCH + 2 * HOUR, source="gate"), actor=seller)
        assert state_of() == "access_blocked"
    record(report("access_restored", MARCH + 3 * HOUR, source="gate"))
    assert state_of() == "in_service"


def test_an_id_is_its_reporters_own(named: Contract, parties: Parties) -> None:
    seller = key_of(parties.seller)
    record(report("provisioning", MARCH, source_event_id="x"))
    assert record(report("in_service", MARCH + HOUR, source_event_id="x"), actor=seller).duplicates == []
    assert state_of() == "in_service"
    void = report("void", NOON, corrects="x")
    assert len(record(void, actor=seller).events) == 1
    assert state_of() == "provisioning"
    again = report("down", NOON, source_event_id="x")
    assert faults(again) == [("/events/0/id", "event_id_reused")]
    assert faults(again, actor=seller) == [("/events/0/id", "event_id_reused")]


def test_the_platforms_keys_and_people_are_one_reporter(named: Contract) -> None:
    one = report("in_service", MARCH)
    record(one, actor=key_of(Organization.objects.platform()))
    assert record(one).duplicates == [0]
    assert ServiceEvent.objects.get(source_event_id=one.source_event_id).reporter is None
