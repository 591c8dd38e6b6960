"""The schedule in the console, over HTTP, by command, and what verify says of it."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from commerce.console.demo_users import ensure_demo_users
from commerce.parties.models import Organization
from commerce.states import transition
from contracts import invariants
from contracts.models import Contract, ScheduledCommand
from contracts.tasks import run_schedule
from tests.contracts.conftest import OPERATOR, Parties, edit
from tests.contracts.scheduling import day, renewing, rows, tick
from tests.contracts.test_doors import Api

NOTICE = {"notice_days": 10}


@pytest.fixture
def contract(payload: dict[str, Any], clock: Any) -> Contract:
    clock(day("2027-03-02"))
    return renewing(payload, "2027-03-01", renewal=NOTICE)


def test_a_buyer_reads_what_comes_next_and_a_seller_does_not(contract: Contract, parties: Parties) -> None:
    edit(
        contract, "suspend", {"reason": "buyer"}, at=day("2027-03-02"), effective_at=day("2027-03-10")
    )  # fmt: skip
    path = f"contracts/{contract.pk}/schedule/"

    for organization in (parties.buyer, Organization.objects.platform()):
        items = Api(organization).get(path).json()["items"]
        assert [(item["at"], item["kind"]) for item in items] == [
            ("2027-03-10T00:00:00Z", "edit"),
            ("2027-03-22T00:00:00Z", "notice"),
            ("2027-04-01T00:00:00Z", "opt_out"),
            ("2027-04-01T00:00:00Z", "renewal"),
        ]
        assert items[0]["edits"] == [5]
        assert items[3] | {"title": ""} == {
            "at": "2027-04-01T00:00:00Z", "kind": "renewal", "title": "", "operation": "renew", "edits": [],
            "key": f"renew:{contract.pk}:2", "status": "planned", "error": None,
        }  # fmt: skip
    assert Api(parties.seller).get(path).status_code == 404
    assert Api(parties.other_seller).get(path).status_code == 404


@pytest.fixture
def operator(db: None) -> Client:
    passwords = ensure_demo_users()
    client = Client()
    assert client.login(username="operator", password=passwords["operator"])
    return client


def test_the_contracts_page_says_what_comes_next(operator: Client, contract: Contract) -> None:
    page = reverse("admin:contracts_contract_change", args=[contract.pk])
    answer = operator.get(page, {"tab": "timeline"})
    text = answer.content.decode()
    assert "What comes next" in text
    assert "Renewal notice" in text
    assert reverse("admin:contracts_scheduledcommand_change", args=[_command("renewal").pk]) in text


def test_an_operator_skips_a_notice_with_a_reason_and_a_viewer_may_not(
    operator: Client, contract: Contract
) -> None:
    notice = _command("notice")
    listed = operator.get(
        reverse("admin:contracts_scheduledcommand_changelist"), {"status__exact": "planned"}
    )
    assert contract.number in listed.content.decode()
    url = reverse("admin:contracts_scheduledcommand_do", args=[notice.pk, "skip"])
    form = operator.get(url).context["form"]
    data = {"reason": "We told them on the phone.", "fingerprint": form.initial["fingerprint"]}

    viewer = Client()
    assert viewer.login(username="viewer", password=ensure_demo_users()["viewer"])
    assert viewer.post(url, data).status_code == 403
    assert operator.post(url, {**data, "reason": ""}).status_code == 422
    assert _command("notice").status == "planned"
    assert operator.post(url, data).status_code == 302

    assert _command("notice").status == "skipped"
    renewal = reverse("admin:contracts_scheduledcommand_do", args=[_command("renewal").pk, "skip"])
    assert "does not renew" in operator.get(renewal).content.decode()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    contract: Contract, clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clock(day("2027-03-22"))

    call_command("contracts_schedule", "run", "--dry-run", "--json")
    said = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["status"]) for row in said["commands"]] == [("notice", "done")]
    assert _command("notice").status == "planned"

    call_command("contracts_schedule", "run")
    assert _command("notice").status == "done"
    capsys.readouterr()
    call_command("contracts_schedule", "list", contract.number, "--status", "planned", "--json")
    assert [row["kind"] for row in json.loads(capsys.readouterr().out)["commands"]] == ["opt_out", "renewal"]


def test_the_tick_carries_out_what_is_due(contract: Contract, clock: Any) -> None:
    assert run_schedule() == 0
    clock(day("2027-03-22"))
    assert run_schedule() == 1
    assert run_schedule() == 0


def test_verify_names_what_is_overdue_forgotten_or_not_planned(contract: Contract, clock: Any) -> None:
    checks = (
        invariants.overdue_commands, invariants.forgotten_renewals, invariants.schedules_follow_logs
    )  # fmt: skip
    assert [list(check()) for check in checks] == [[], [], []]
    clock(day("2027-03-24"))
    [overdue] = invariants.overdue_commands()
    assert overdue.subject == f"scheduled_command:{_command('notice').pk}"

    ScheduledCommand.objects.filter(kind="renewal").update(due_at=day("2027-06-01"))
    [moved] = invariants.schedules_follow_logs()
    assert moved.data == {"keys": [f"renew:{contract.pk}:2"]}
    call_command("contracts_schedule", "plan")
    assert list(invariants.schedules_follow_logs()) == []
    assert rows(contract, kind="renewal") == [("renew:2", "2027-04-01", "planned")]

    clock(day("2027-04-03") + timedelta(hours=1))
    assert list(invariants.forgotten_renewals()) == []
    at = day("2027-04-03")
    transition(_command("renewal"), "skip", actor=OPERATOR, at=at, finished_at=at)
    [forgotten] = invariants.forgotten_renewals()
    assert forgotten.subject == f"contract:{contract.pk}"


def test_verify_names_a_contract_whose_renewal_and_its_lapse_were_voided(
    contract: Contract, clock: Any
) -> None:
    for date in ("2027-03-22", "2027-04-01"):
        clock(day(date))
        tick(day(date))
    void = {"target_seq": contract.edits.get(operation="renew").seq, "mode": "void"}
    edit(contract, "correct", void, at=day("2027-04-02"), reason="Opted out")
    clock(day("2027-04-03"))
    tick(day("2027-04-03"))
    assert list(invariants.forgotten_renewals()) == []

    void = {"target_seq": contract.edits.get(payload__mode="lapse").seq, "mode": "void"}
    edit(contract, "correct", void, at=day("2027-04-03"), reason="They did not")

    [forgotten] = invariants.forgotten_renewals()
    assert forgotten.subject == f"contract:{contract.pk}"


def _command(kind: str) -> ScheduledCommand:
    return ScheduledCommand.objects.get(kind=kind)
