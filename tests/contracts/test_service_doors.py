"""The doors of service status: HTTP, console, command, tick."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from commerce.api.services import issue_key
from commerce.console.demo_users import ensure_demo_users
from commerce.parties.models import Organization
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.tasks import take_effect
from tests.contracts.conftest import MARCH, OPERATOR, Parties
from tests.contracts.test_service import HOUR, MINUTE, record, report

pytestmark = pytest.mark.django_db

FIELDS = {
    "id": "e-1",
    "source": "dcim",
    "unit_id": "x-1",
    "state": "in_service",
    "at": "2027-03-01T00:00:00Z",
}


class Api:
    """Calls with the key of one organization."""

    def __init__(self, organization: Organization, *scopes: str) -> None:
        given = scopes or ("contracts:read", "service:write")
        _, self.plain = issue_key(
            organization=organization, scopes=given, label="test", actor=OPERATOR, at=MARCH
        )
        self.client = Client(raise_request_exception=False)

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {self.plain}"})

    def post(self, body: Any, **headers: str) -> Any:
        given = {"Idempotency-Key": str(uuid4()), "Authorization": f"Bearer {self.plain}", **headers}
        return self.client.post(
            "/api/v1/service-events/", json.dumps(body), "application/json", headers=given
        )


@pytest.fixture
def platform(parties: Parties, clock: Any) -> Api:
    return Api(Organization.objects.platform())


@pytest.fixture
def here(active: Contract, servers: UUID) -> dict[str, str]:
    return {"contract_id": str(active.pk), "line_id": str(servers)}


def batch(*events: dict[str, Any]) -> dict[str, Any]:
    return {"events": [{**FIELDS, **event} for event in events]}


# HTTP


def test_a_machine_reports_and_the_parties_see_their_lines(
    platform: Api, active: Contract, parties: Parties, here: dict[str, str]
) -> None:
    seller = Api(parties.seller)
    sent = seller.post(batch(here, {**here, "id": "e-2", "unit_id": "x-2", "state": "provisioning"}))
    assert sent.status_code == 201, sent.json()
    assert sent.json() == {"recorded": 2, "duplicates": [], "flagged": [0]}
    again = seller.post(batch(here))
    assert again.json() == {"recorded": 0, "duplicates": [0], "flagged": []}
    for api in (platform, seller, Api(parties.buyer)):
        body = api.get(f"contracts/{active.pk}/service/").json()
        assert (body["status"], body["counts"]) == ("provisioning", {"in_service": 1, "provisioning": 1})
        (line,) = body["lines"]
        assert line["line_id"] == here["line_id"]
        assert line["units"][0] == {"unit_id": "x-1", "state": "in_service", "since": FIELDS["at"]}
    partner = Api(parties.partner).get(f"contracts/{active.pk}/service/").json()
    assert (partner["status"], partner["lines"]) == (None, [])
    assert Api(parties.other_seller).get(f"contracts/{active.pk}/service/").status_code == 404


def test_service_is_read_at_two_instants(platform: Api, active: Contract, here: dict[str, str]) -> None:
    placed = {"contract_id": active.pk, "line_id": UUID(here["line_id"])}
    record(report("in_service", MARCH, "x-1", **placed))
    known = ServiceEvent.objects.latest("recorded_at").recorded_at.isoformat().replace("+00:00", "Z")
    record(report("down", MARCH + HOUR, "x-1"), at=MARCH + 2 * HOUR)

    def status(query: str) -> str:
        answer = platform.get(f"contracts/{active.pk}/service/?{query}")
        assert answer.status_code == 200, answer.json()
        return answer.json()["status"]

    assert status("") == "down"
    assert status("valid_at=2027-03-01T00:30:00Z") == "in_service"
    assert status("valid_at=2027-03-01T03:00:00Z") == "down"
    assert status(f"valid_at=2027-03-01T03:00:00Z&known_at={known}") == "in_service"
    assert platform.get(f"contracts/{active.pk}/service/?at=2027").status_code == 400


@pytest.mark.parametrize(
    ("event", "status", "pointer", "code"),
    [
        ({"state": "flying"}, 400, "/events/0/state", "invalid_choice"),
        ({"at": "2027-03-01T00:00:00"}, 400, "/events/0/at", "invalid_instant"),
        ({"at": "2027-03-02T00:00:00Z", "state": "down"}, 422, "/events/0/at", "at_out_of_range"),
        ({"unit_id": 7}, 400, "/events/0/unit_id", "invalid"),
        ({"unit_id": "x" * 121}, 400, "/events/0/unit_id", "max_length"),
        ({"id": ""}, 400, "/events/0/id", "blank"),
        ({"detail": "text"}, 400, "/events/0/detail", "not_a_dict"),
        ({"detail": {"log": "x" * 4001}}, 422, "/events/0/detail", "detail_too_large"),
        ({"colour": "red"}, 400, "/events/0/colour", "unknown_field"),
        ({"source": "contract"}, 422, "/events/0/source", "source_reserved"),
        ({"source": "console"}, 422, "/events/0/source", "source_reserved"),
        ({"state": "void"}, 422, "/events/0/corrects", "required"),
        ({"corrects": "e-0"}, 422, "/events/0/corrects", "corrected_not_found"),
        ({"line_id": None}, 400, "/events/0/line_id", "null"),
        ({"contract_id": str(uuid4())}, 422, "/events/0/contract_id", "contract_not_found"),
        ({"line_id": str(uuid4())}, 422, "/events/0/line_id", "line_not_found"),
    ],
)
def test_a_wrong_body_is_a_problem_that_names_its_place_and_records_nothing(
    platform: Api, here: dict[str, str], event: dict[str, Any], status: int, pointer: str, code: str
) -> None:
    answer = platform.post(batch({**here, **event}, {**here, "id": "e-2"}))
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.status_code == status, answer.json()
    found = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert found == [(pointer, code)]
    assert not ServiceEvent.objects.exists()


@pytest.mark.parametrize("body", [[], {}, {"events": []}, {"events": [{}] * 1001}, {"events": {}}])
def test_a_body_that_is_no_batch_is_refused(platform: Api, body: Any) -> None:
    assert platform.post(body).status_code in (400, 422)
    assert not ServiceEvent.objects.exists()


def test_reports_need_their_own_scope(parties: Parties, here: dict[str, str], clock: Any) -> None:
    for scopes in (("contracts:read", "contracts:write"), ("service:read",)):
        refused = Api(parties.seller, *scopes).post(batch(here))
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    only = Api(parties.seller, "service:write")
    assert only.get(f"contracts/{here['contract_id']}/service/").status_code == 403
    assert not ServiceEvent.objects.exists()
    assert only.post(batch(here)).status_code == 201


def test_the_same_key_has_one_effect_and_one_answer(platform: Api, here: dict[str, str]) -> None:
    first = platform.post(batch(here), **{"Idempotency-Key": "one"})
    again = platform.post(batch(here), **{"Idempotency-Key": "one"})
    assert (again.json(), again["Idempotent-Replay"]) == (first.json(), "true")
    other = platform.post(batch({**here, "state": "down"}), **{"Idempotency-Key": "two"})
    assert (other.status_code, other.json()["errors"][0]["code"]) == (422, "event_id_reused")


# Console


@pytest.fixture
def unit(active: Contract, here: dict[str, str]) -> UnitStatus:
    placed = {"contract_id": active.pk, "line_id": UUID(here["line_id"])}
    record(report("provisioning", MARCH, "x-1", **placed), report("in_service", MARCH + MINUTE, "x-1"))
    record(report("down", MARCH + HOUR, "x-1"))
    return UnitStatus.objects.get()


@pytest.fixture
def operator(clock: Any) -> Client:
    clock(MARCH + 2 * HOUR)
    return signed_in("operator")


def signed_in(name: str) -> Client:
    passwords = ensure_demo_users()
    client = Client()
    assert client.login(username=name, password=passwords[name])
    return client


def act(client: Client, unit: UnitStatus, name: str, **data: Any) -> Any:
    url = reverse("admin:contracts_unitstatus_do", args=[unit.pk, name])
    page = client.get(url)
    if page.status_code != 200:
        return page
    form = page.context["form"]
    given = {"fingerprint": form["fingerprint"].value(), "reason": "Seen on site", **data}
    return client.post(url, given)


def since(at: datetime) -> dict[str, str]:
    return {"since_0": f"{at:%Y-%m-%d}", "since_1": f"{at:%H:%M:%S}"}


def test_an_operator_reports_a_state_with_a_reason(operator: Client, unit: UnitStatus) -> None:
    silent = act(operator, unit, "report", state="in_service", reason="")
    assert silent.status_code == 422
    done = act(operator, unit, "report", state="in_service", **since(MARCH + HOUR + MINUTE))
    assert done.status_code == 302
    event = ServiceEvent.objects.get(source="console")
    assert (event.at, event.detail) == (MARCH + HOUR + MINUTE, {"reason": "Seen on site"})
    assert event.actor.startswith("user:")
    assert UnitStatus.objects.get().state == "in_service"


def test_an_operator_corrects_what_a_machine_reported(operator: Client, unit: UnitStatus) -> None:
    down = ServiceEvent.objects.get(state="down")
    assert act(operator, unit, "correct", event=str(down.pk), state="void").status_code == 302
    assert UnitStatus.objects.get().state == "in_service"
    correction = ServiceEvent.objects.get(corrects=down)
    assert (correction.source, correction.detail["reason"]) == ("console", "Seen on site")


def test_what_the_contract_says_is_not_offered_for_correction(operator: Client, unit: UnitStatus) -> None:
    fact = ServiceEvent.objects.get(source="contract")
    refused = act(operator, unit, "correct", event=str(fact.pk), state="void")
    assert refused.status_code == 422
    assert not ServiceEvent.objects.filter(corrects__isnull=False).exists()


def test_a_refusal_is_a_sentence_on_the_page(operator: Client, unit: UnitStatus) -> None:
    refused = act(operator, unit, "report", state="down", **since(MARCH + timedelta(days=9)))
    assert refused.status_code == 422
    assert "A report is of the past" in refused.content.decode()
    assert not ServiceEvent.objects.filter(source="console").exists()


def test_a_viewer_sees_units_and_changes_nothing(unit: UnitStatus, clock: Any) -> None:
    viewer = signed_in("viewer")
    page = viewer.get(reverse("admin:contracts_unitstatus_change", args=[unit.pk])).content.decode()
    assert "x-1" in page
    assert "Report a state" not in page
    for name in ("report", "correct"):
        assert act(viewer, unit, name, state="down").status_code == 403
    event = ServiceEvent.objects.get(state="down")
    assert viewer.get(reverse("admin:contracts_serviceevent_change", args=[event.pk])).status_code == 200
    assert ServiceEvent.objects.count() == 4


def test_the_contracts_page_shows_its_service_now_and_at_another_instant(
    operator: Client, unit: UnitStatus, active: Contract
) -> None:
    url = reverse("admin:contracts_contract_change", args=[active.pk]) + "?tab=service"
    now = operator.get(url).content.decode()
    assert "Uptime this period" in now
    assert "49.57 %" in now, "59 of 119 minutes"
    assert ">x-1<" in now
    then = operator.get(f"{url}&valid_at=2027-03-01T00:30").content.decode()
    assert "100.00 %" in then
    before = operator.get(f"{url}&known_at=2020-01-01T00:00").content.decode()
    assert "Nothing was reported by then." in before
    assert ">x-1<" not in before


# Command and tick


def test_the_command_rebuilds_what_differs(unit: UnitStatus, clock: Any, capsys: Any) -> None:
    UnitStatus.objects.update(irregular=9)
    for arguments, code, units in ((["--dry-run"], 3, ["x-1"]), ([], 3, ["x-1"]), ([], 0, [])):
        try:
            call_command("contracts_service", *arguments, "--json")
            ended = 0
        except SystemExit as stopped:
            ended = int(stopped.code or 0)
        said = json.loads(capsys.readouterr().out)
        assert (ended, said["checked"]) == (code, 1)
        assert [unit for row in said["differed"] for unit in row["units"]] == units
    assert UnitStatus.objects.get().irregular == 0


def test_the_tick_folds_what_the_clock_changes(unit: UnitStatus, clock: Any) -> None:
    later = MARCH + 13 * HOUR
    record(report("in_service", later - HOUR, "x-1"), report("degraded", later, "x-1"), at=later)
    clock(later)
    take_effect()
    assert UnitStatus.objects.get().state == "in_service"
    clock(later + 5 * MINUTE)
    take_effect()
    assert UnitStatus.objects.get().state == "degraded"
