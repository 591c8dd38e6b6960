"""Batches, their preview, requests for a second person and the diff between two instants, over HTTP."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from commerce.console import approvals
from commerce.console.models import Approval
from contracts.models import Contract, ContractEdit
from contracts.rules.schema import instant
from tests.contracts.conftest import MARCH, Parties, edit
from tests.contracts.test_corrections import checker  # noqa: F401
from tests.contracts.test_doors import Api, platform  # noqa: F401

pytestmark = pytest.mark.django_db

LATER = MARCH + timedelta(days=10)


@pytest.fixture
def at_work(active: Contract, clock: Any) -> Contract:
    clock(LATER)
    return active


def send(api: Api, contract: Contract, path: str, body: Any, version: int | None = None) -> Any:
    headers = {"If-Match": f'"{version}"'} if version else {}
    return api.post(f"contracts/{contract.pk}/{path}/", body, **headers)


def more(line: UUID) -> dict[str, Any]:
    return {"operation": "change_quantity", "payload": {"line_id": str(line), "delta": 1}}


HOLD = {"operation": "suspend", "payload": {"reason": "buyer", "billing": "stop"}}
LIFT = {"operation": "resume", "payload": {"reason": "buyer"}}


def test_a_batch_is_recorded_whole_over_http(platform: Api, at_work: Contract, servers: UUID) -> None:  # noqa: F811
    answer = send(platform, at_work, "batches", {"operations": [more(servers), HOLD]}, version=4)
    assert answer.status_code == 201, answer.json()
    assert [row["seq"] for row in answer.json()["edits"]] == [5, 6]
    assert answer["ETag"] == '"6"'
    assert answer.json()["contract"]["status"] == "suspended"


def test_a_batch_with_one_fault_is_a_problem_that_points_at_it(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
) -> None:
    answer = send(platform, at_work, "batches", {"operations": [more(servers), LIFT]}, version=4)
    assert (answer.status_code, answer["Content-Type"]) == (409, "application/problem+json")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/operations/1/payload/reason"]
    assert ContractEdit.objects.filter(contract=at_work).count() == 4


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 400, "/operations"),
        ({"operations": []}, 400, "/operations"),
        ({"operations": "all"}, 400, "/operations"),
        ({"operations": [{"operation": "resume"}]}, 400, "/operations/0/payload"),
        ({"operations": [{"operation": "resume", "payload": 3}]}, 422, "/operations/0/payload"),
        ({"operations": [LIFT | {"when": "now"}]}, 400, "/operations/0/when"),
        ({"operations": [LIFT], "dry_run": True}, 400, "/dry_run"),
    ],
)
def test_a_malformed_batch_names_its_field(
    platform: Api,  # noqa: F811
    at_work: Contract,
    body: Any,
    status: int,
    pointer: str,
) -> None:
    answer = send(platform, at_work, "batches", body, version=4)
    assert (answer.status_code, [fault["pointer"] for fault in answer.json()["errors"]]) == (
        status,
        [pointer],
    )


def test_a_batch_needs_the_version_it_is_based_on(platform: Api, at_work: Contract, servers: UUID) -> None:  # noqa: F811
    assert send(platform, at_work, "batches", {"operations": [more(servers)]}).status_code == 428
    stale = send(platform, at_work, "batches", {"operations": [more(servers)]}, version=3)
    assert (stale.status_code, stale.json()["code"]) == (412, "version_conflict")


def test_a_preview_of_a_batch_shows_its_result_and_writes_nothing(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
) -> None:
    body = {"operations": [more(servers), HOLD]}
    seen = send(platform, at_work, "batches/preview", body).json()
    assert ContractEdit.objects.filter(contract=at_work).count() == 4
    done = send(platform, at_work, "batches", body, version=4).json()
    assert seen["contract"]["state_hash"] == done["contract"]["state_hash"]
    assert seen["after"][f"/lines/{servers}/quantity"] == 3
    assert seen["approval"] == []


def test_a_correction_waits_for_somebody_else(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
    checker: Any,  # noqa: F811
) -> None:
    edit(at_work, "change_quantity", {"line_id": str(servers), "quantity": 9}, at=LATER)
    void = {"operation": "correct", "payload": {"target_seq": 5, "mode": "void"}, "reason": "Never agreed"}
    seen = send(platform, at_work, "preview", void).json()
    assert seen["approval"] != []
    refused = send(platform, at_work, "operations", void, version=5)
    assert (refused.status_code, refused.json()["code"]) == (403, "approval_required")
    asked = send(platform, at_work, "approvals", {"operations": [void], "reason": "Never agreed"}, version=5)
    assert (asked.status_code, asked.json()["status"]) == (201, "pending")
    assert asked.json()["why"] == seen["approval"]
    assert Contract.objects.get(pk=at_work.pk).version == 5
    approval = Approval.objects.get(pk=asked.json()["approval_id"])
    approvals.approve(approval=approval, actor=checker, at=LATER)
    body = platform.get(f"contracts/{at_work.pk}/").json()
    assert (body["version"], body["lines"][0]["quantity"]) == (6, 2)


def test_the_reason_of_a_request_is_that_of_its_operations(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
    checker: Any,  # noqa: F811
) -> None:
    edit(at_work, "change_quantity", {"line_id": str(servers), "quantity": 9}, at=LATER)
    void = {"operation": "correct", "payload": {"target_seq": 5, "mode": "void"}}
    refused = send(platform, at_work, "operations", void, version=5)
    assert (refused.status_code, refused.json()["code"]) == (422, "reason_required")
    asked = send(platform, at_work, "approvals", {"operations": [void], "reason": "Never agreed"}, version=5)
    assert asked.status_code == 201, asked.json()
    approval = Approval.objects.get(pk=asked.json()["approval_id"])
    approvals.approve(approval=approval, actor=checker, at=LATER)
    assert ContractEdit.objects.get(contract=at_work, seq=6).reason == "Never agreed"


def test_the_diff_says_what_was_learned_between_two_instants(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
) -> None:
    before = ContractEdit.objects.get(contract=at_work, seq=4).recorded_at
    back = MARCH + timedelta(days=5)
    edit(
        at_work, "change_quantity", {"line_id": str(servers), "quantity": 3}, at=LATER,
        effective_at=back, reason="Forgotten",
    )  # fmt: skip
    pointer = f"/lines/{servers}/quantity"
    [item] = platform.get(f"contracts/{at_work.pk}/diff/?from={instant(before)}").json()["items"][:1]
    assert (item["start"], item["before"], item["after"]) == (instant(back), {pointer: 2}, {pointer: 3})
    by_version = platform.get(f"contracts/{at_work.pk}/diff/?from_version=4&to_version=5").json()
    assert by_version["items"][0]["start"] == instant(back)
    same = platform.get(f"contracts/{at_work.pk}/diff/?from_version=3&to_version=3").json()
    assert same == {"items": []}


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ("", 400, "from"),
        ("from=yesterday", 400, "from"),
        ("from_version=1&to=2027-03-01T00:00:00Z", 400, "from_version"),
        ("from_version=99", 404, "/from_version"),
        ("since=1", 400, "since"),
    ],
)
def test_a_diff_that_makes_no_sense_names_the_parameter(
    platform: Api,  # noqa: F811
    at_work: Contract,
    query: str,
    status: int,
    pointer: str,
) -> None:
    answer = platform.get(f"contracts/{at_work.pk}/diff/?{query}")
    assert answer.status_code == status, answer.json()
    assert pointer.strip("/") in answer.json()["errors"][0]["pointer"]


def test_a_seller_learns_of_no_line_that_is_not_its_own(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
    parties: Parties,
) -> None:
    edit(at_work, "change_quantity", {"line_id": str(servers), "quantity": 3}, at=LATER)
    stranger = Api(parties.other_seller)
    assert stranger.get(f"contracts/{at_work.pk}/diff/?from_version=4").status_code == 404
    seller = Api(parties.seller)
    items = seller.get(f"contracts/{at_work.pk}/diff/?from_version=4").json()["items"]
    assert f"/lines/{servers}/quantity" in items[0]["after"]
    assert not [pointer for item in items for pointer in item["after"] if "tax" in pointer]


def test_what_should_be_billed_is_read_over_http_and_a_preview_says_what_changes_of_it(
    platform: Api,  # noqa: F811
    at_work: Contract,
    servers: UUID,
    parties: Parties,
) -> None:
    query = "desired-lines/?start=2027-03-01T00:00:00Z&end=2027-04-01T00:00:00Z"
    body = platform.get(f"contracts/{at_work.pk}/{query}").json()
    assert body["net"] == {"amount_minor": 3_600_000, "currency": "USD"}
    assert body["tax"]["amount_minor"] == 297_000
    half = {"operation": "suspend", "payload": {"reason": "buyer", "billing": "stop"}}
    seen = send(platform, at_work, "preview", half).json()["bills"]
    first = seen[0]
    assert (first["line_id"], first["before"]["amount_minor"], first["after"]["amount_minor"]) == (
        str(servers),
        3_600_000,
        1_161_290,
    )  # 10 of 31 days
    seller = Api(parties.seller)
    assert seller.get(f"contracts/{at_work.pk}/{query}").json()["net"]["amount_minor"] == 3_600_000
    assert Api(parties.partner).get(f"contracts/{at_work.pk}/{query}").json()["items"] == []
    for wrong in ("start=2027-03-01T00:00:00Z", "start=2027-03-01T00:00:00Z&end=2027-03-01T00:00:00Z"):
        assert platform.get(f"contracts/{at_work.pk}/desired-lines/?{wrong}").status_code == 400
