"""The platform's terms: versions, two people, and contracts that keep what they were made with."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console.approvals import approve, cancel, describe
from commerce.console.demo_users import ensure_demo_users
from commerce.console.models import Approval, ApprovalStatus
from commerce.errors import Conflict, InvalidInput, NotFound, PermissionDenied, StateConflict
from commerce.invariants import REGISTRY
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract, PlatformTerms
from contracts.rules.platform import PER_CONTRACT, Limits, PlatformDefaults, filled, open_to_all
from contracts.rules.terms import Terms
from contracts.services.terms import ensure_first_version, latest
from tests.contracts.conftest import MARCH, OPERATOR, create, edit

pytestmark = pytest.mark.django_db

APRIL = datetime(2027, 4, 1, tzinfo=UTC)
MONTH = {"payment": {"net_days": 30}}


@pytest.fixture
def people(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


@pytest.fixture
def change(people: dict[str, Actor]) -> Callable[..., PlatformTerms]:
    """Both people at once: the operator asks, the approver agrees."""

    def both(changes: dict[str, Any], *, at: datetime = MARCH, **more: Any) -> PlatformTerms:
        asked = request(changes, people["operator"], at=at, **more)
        approve(approval=asked, actor=people["approver"], at=at)
        return latest()

    return both


def request(changes: dict[str, Any], actor: Actor, *, at: datetime = MARCH, **more: Any) -> Approval:
    return services.request_platform_terms(changes=changes, actor=actor, at=at, reason="As agreed.", **more)


def terms_of(contract: Contract) -> Terms:
    return contract.current.terms


def silent(payload: dict[str, Any], terms: dict[str, Any] | None = None) -> dict[str, Any]:
    """The payload of a contract that says nothing of its terms, or only this."""
    return {**payload, "terms": terms} if terms else {k: v for k, v in payload.items() if k != "terms"}


# Versions


def test_the_first_version_is_made_of_the_settings(settings: Any) -> None:
    first = latest()
    assert (first.version, first.approved_by, first.prev_hash) == (1, "", "")
    assert first.sections["settlement"]["seasoning_days"] == settings.SEASONING_DAYS
    assert services.platform_terms(MARCH) == PlatformDefaults.from_json(first.sections)


@pytest.mark.django_db(transaction=True)
def test_an_emptied_database_has_its_first_version_again() -> None:
    assert latest().version == 1


def test_there_is_one_first_version_and_the_setting_changes_it_no_more(settings: Any) -> None:
    settings.SEASONING_DAYS = 90
    ensure_first_version()
    assert PlatformTerms.objects.count() == 1
    assert services.platform_terms(MARCH).settlement.seasoning_days == 7


def test_a_change_is_a_new_version_that_names_both_people_and_says_what_differs(
    change: Callable[..., PlatformTerms], people: dict[str, Actor]
) -> None:
    first, second = latest(), change(MONTH)
    assert (second.version, second.prev_hash, second.effective_at) == (2, first.hash, MARCH)
    assert (second.made_by, second.approved_by) == (str(people["operator"]), str(people["approver"]))
    assert services.platform_terms(MARCH).payment.net_days == 30
    assert services.platform_terms(MARCH - timedelta(seconds=1)).payment.net_days == 14
    event = OutboxEvent.objects.get(type="platform_terms.changed")
    assert (event.payload["before"], event.payload["after"]) == (
        {"/payment/net_days": 14},
        {"/payment/net_days": 30},
    )
    assert event.payload["hash"] == second.hash


def test_a_version_begins_when_it_says_and_not_before(change: Callable[..., PlatformTerms]) -> None:
    second = change(MONTH, effective_at=APRIL)
    assert second.effective_at == APRIL
    assert services.platform_terms(APRIL - timedelta(microseconds=1)).payment.net_days == 14
    assert services.platform_terms(APRIL).payment.net_days == 30


def test_a_version_agreed_to_after_its_instant_begins_then(people: dict[str, Actor]) -> None:
    asked = request(MONTH, people["operator"], effective_at=MARCH + timedelta(hours=1))
    later = MARCH + timedelta(days=1)
    approve(approval=asked, actor=people["approver"], at=later)
    assert latest().effective_at == later


def test_versions_begin_one_after_the_other(
    change: Callable[..., PlatformTerms], people: dict[str, Actor]
) -> None:
    change(MONTH, effective_at=APRIL)
    for begins in (None, APRIL, MARCH - timedelta(days=1)):
        with pytest.raises(InvalidInput) as refused:
            request({"payment": {"net_days": 45}}, people["operator"], effective_at=begins)
        assert refused.value.code == "out_of_order"
    assert Approval.objects.filter(status=ApprovalStatus.PENDING).count() == 0


def test_null_takes_a_value_back(change: Callable[..., PlatformTerms]) -> None:
    change({"renewal": {"term_months": 24}, "payment": {"net_days": 60}})
    change({"renewal": {"term_months": None}, "payment": {"net_days": None}}, at=APRIL)
    now = services.platform_terms(APRIL)
    assert (now.renewal.term_months, now.payment.net_days) == (None, 14)


# Two people


def test_nothing_changes_before_a_second_person_agrees(people: dict[str, Actor]) -> None:
    asked = request(MONTH, people["operator"])
    assert "payment net days 14 → 30" in describe(asked)
    assert PlatformTerms.objects.count() == 1
    assert not OutboxEvent.objects.filter(type="platform_terms.changed").exists()


def test_who_asks_does_not_agree_and_who_may_not_ask_does_not_ask(people: dict[str, Actor]) -> None:
    root = Actor.for_user(User.objects.create_superuser("root", password="root"))
    asked = request(MONTH, root)
    for actor, code in (
        (root, "own_approval"),
        (people["operator"], "permission_denied"),
        (Actor.system("x"), "own_approval"),
    ):
        with pytest.raises(PermissionDenied) as refused:
            approve(approval=asked, actor=actor, at=MARCH)
        assert refused.value.code == code
    for name in ("viewer", "approver", "admin"):
        with pytest.raises(PermissionDenied):
            request({"payment": {"net_days": 31}}, people[name])
    assert PlatformTerms.objects.count() == 1


def test_only_a_person_asks(people: dict[str, Actor]) -> None:
    with pytest.raises(PermissionDenied) as refused:
        request(MONTH, OPERATOR)
    assert refused.value.code == "needs_person"
    assert Approval.objects.count() == 0


def test_a_request_on_an_older_version_is_closed_instead_of_undoing_the_newer_one(
    change: Callable[..., PlatformTerms], people: dict[str, Actor]
) -> None:
    late = request({"payment": {"grace_days": 9}}, people["operator"])
    change(MONTH)
    closed = approve(approval=late, actor=people["approver"], at=MARCH + timedelta(hours=1))
    assert closed.status == ApprovalStatus.CANCELLED
    assert "came in between" in closed.decision
    assert services.platform_terms(APRIL).payment.grace_days == 3
    assert latest().version == 2


def test_whoever_saw_an_older_version_is_told(
    change: Callable[..., PlatformTerms], people: dict[str, Actor]
) -> None:
    change(MONTH)
    with pytest.raises(StateConflict) as refused:
        request({"payment": {"net_days": 45}}, people["operator"], at=APRIL, expected_version=1)
    assert refused.value.code == "version_conflict"


def test_a_withdrawn_request_makes_no_version(people: dict[str, Actor]) -> None:
    asked = request(MONTH, people["operator"])
    cancel(approval=asked, actor=people["operator"], at=MARCH)
    with pytest.raises(Conflict):
        approve(approval=asked, actor=people["approver"], at=MARCH)
    assert PlatformTerms.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"payment": {"net_days": 121}}, "/payment/net_days", "out_of_range"),
        ({"payment": {"net_days": "30"}}, "/payment/net_days", "invalid_type"),
        ({"payment": {"nett": 30}}, "/payment/nett", "unknown_field"),
        ({"postage": {"rate": 1}}, "/postage", "unknown_field"),
        ({"payment": 30}, "/payment", "invalid_type"),
        ({"tax": {"rate": "1.5"}}, "/tax/rate", "out_of_range"),
        (
            {"renewal": {"uplift": {"kind": "percent", "value": "0.1", "cap": "0.05"}}},
            "/renewal/uplift/value",
            "uplift_over_cap",
        ),
        ({"renewal": {"uplift": {"kind": "percent"}}}, "/renewal/uplift/value", "uplift_incomplete"),
        ({"sla": {"tiers": []}}, "/sla/tiers", "tiers_invalid"),
        (
            {"sla": {"tiers": [{"below": "0.9", "credit": "0.1"}, {"below": "0.99", "credit": "0.2"}]}},
            "/sla/tiers/1",
            "tiers_invalid",
        ),
        ({"settlement": {"seasoning_days": None}}, "/settlement/seasoning_days", "required"),
        ({"settlement": {"partner_id": str(uuid4())}}, "/settlement/partner_id", "per_contract"),
        ({"payment": {"method_ref": "card"}}, "/payment/method_ref", "per_contract"),
        ({"limits": {"backdate_ops_days": 365}}, "/limits/backdate_finance_days", "out_of_range"),
    ],
)  # fmt: skip
def test_what_cannot_hold_is_refused_by_field_and_rule(
    people: dict[str, Actor], changes: dict[str, Any], pointer: str, code: str
) -> None:
    if "limits" in changes:
        changes = {"limits": {**changes["limits"], "backdate_finance_days": 30}}
    with pytest.raises(InvalidInput) as refused:
        request(changes, people["operator"])
    assert (pointer, code) in {(error.pointer, error.code) for error in refused.value.errors}
    assert Approval.objects.count() == 0


def test_what_changes_nothing_is_refused(people: dict[str, Actor]) -> None:
    with pytest.raises(InvalidInput) as refused:
        request({"payment": {"net_days": 14}}, people["operator"])
    assert refused.value.code == "no_effect"


def test_a_preview_says_what_a_request_would_change_and_asks_nobody() -> None:
    before, after = services.preview_platform_terms(changes=MONTH, effective_at=None, at=MARCH)
    assert (before, after) == ({"/payment/net_days": 14}, {"/payment/net_days": 30})
    assert Approval.objects.count() == 0


# The database


def row(**given: Any) -> PlatformTerms:
    first = latest()
    values = {
        "version": 2, "effective_at": MARCH, "sections": {}, "reason": "x", "made_by": "user:1",
        "approved_by": "user:2", "prev_hash": first.hash, "hash": "h", **given,
    }  # fmt: skip
    return PlatformTerms(**values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 3},
        {"version": 1},
        {"prev_hash": "other"},
        {"effective_at": datetime(1999, 1, 1, tzinfo=UTC)},
        {},
        {"made_by": "user:2"},
    ],
)
def test_the_database_refuses_a_version_that_does_not_follow_or_that_one_person_made(
    wrong: dict[str, Any], people: dict[str, Actor]
) -> None:
    approval = request(MONTH, people["operator"]) if wrong else None
    with pytest.raises((DatabaseError, IntegrityError)), transaction.atomic():
        row(approval=approval, **wrong).save(force_insert=True)
    assert PlatformTerms.objects.count() == 1


def test_the_database_refuses_to_change_or_remove_a_version() -> None:
    for statement in (
        "UPDATE contracts_platformterms SET reason = 'y'",
        "DELETE FROM contracts_platformterms",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


def test_verify_finds_a_version_that_was_tampered_with_or_is_missing(
    change: Callable[..., PlatformTerms],
) -> None:
    check = next(one.check for one in REGISTRY if "platform's terms" in one.title)
    change(MONTH)
    change({"payment": {"net_days": 45}}, at=APRIL)
    assert list(check()) == []
    for statement, said in (
        (
            "UPDATE contracts_platformterms SET sections = '{}' WHERE version = 2",
            "Version 2 of the platform's terms was tampered with.",
        ),
        (
            "DELETE FROM contracts_platformterms WHERE version = 2",
            "Version 2 of the platform's terms is missing.",
        ),
    ):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ALTER TABLE contracts_platformterms DISABLE TRIGGER ALL")
            cursor.execute(statement)
            assert [finding.detail for finding in check()] == [said]
            transaction.set_rollback(True)


# Contracts


def test_a_contract_that_says_nothing_gets_the_platforms_terms(
    payload: dict[str, Any], change: Callable[..., PlatformTerms]
) -> None:
    change({**MONTH, "tax": {"rate": "0.2"}, "settlement": {"fee_rate": "0.1", "reserve_rate": "0.05"}})
    terms = terms_of(create(silent(payload)).contract)
    assert (terms.payment.net_days, terms.tax.rate) == (30, Decimal("0.2"))
    assert (terms.settlement.fee_rate, terms.settlement.reserve_rate) == (Decimal("0.1"), Decimal("0.05"))
    assert terms.settlement.seasoning_days == 7


def test_what_a_contract_says_is_its_own_and_the_rest_of_the_section_is_the_platforms(
    payload: dict[str, Any], change: Callable[..., PlatformTerms]
) -> None:
    change({"payment": {"net_days": 30, "grace_days": 9}})
    payment = terms_of(create(silent(payload, {"payment": {"net_days": 5}})).contract).payment
    assert (payment.net_days, payment.grace_days) == (5, 9)


def test_a_later_change_moves_no_contract_that_exists(
    payload: dict[str, Any], change: Callable[..., PlatformTerms]
) -> None:
    contract = create(silent(payload)).contract
    stored = contract.edits.get(seq=1).payload
    change(MONTH, at=APRIL)
    services.rebuild_contract(contract_id=contract.pk, actor=OPERATOR)
    contract.refresh_from_db()
    assert terms_of(contract).payment.net_days == 14
    assert stored["terms"]["payment"]["net_days"] == 14
    assert terms_of(create(silent(payload), at=APRIL).contract).payment.net_days == 30


def test_the_same_request_after_a_change_is_still_the_same_request(
    payload: dict[str, Any], change: Callable[..., PlatformTerms]
) -> None:
    first = create(silent(payload), idempotency_key="once")
    change(MONTH)
    again = create(silent(payload), idempotency_key="once")
    assert again.replayed
    assert again.contract == first.contract
    assert terms_of(again.contract).payment.net_days == 14


def test_the_platforms_partner_share_is_for_contracts_with_a_partner(
    payload: dict[str, Any], change: Callable[..., PlatformTerms]
) -> None:
    change({"settlement": {"partner_share": "0.03"}})
    partner = payload["terms"]["settlement"]["partner_id"]
    alone = terms_of(create(silent(payload)).contract).settlement
    shared = terms_of(create(silent(payload, {"settlement": {"partner_id": partner}})).contract).settlement
    assert (alone.partner_share, shared.partner_share) == (Decimal(0), Decimal("0.03"))


def test_terms_that_are_no_object_are_refused_at_their_place(payload: dict[str, Any]) -> None:
    for terms, pointer in (("none", "/terms"), ({"payment": []}, "/terms/payment")):
        with pytest.raises(InvalidInput) as refused:
            create({**payload, "terms": terms})
        assert [error.pointer for error in refused.value.errors] == [pointer]
    assert Contract.objects.count() == 0


def test_how_far_back_an_edit_goes_is_the_platforms_to_say(
    active: Contract, change: Callable[..., PlatformTerms], people: dict[str, Actor]
) -> None:
    hold = {"payload": {"reason": "legal"}, "actor": people["operator"], "reason": "Found late."}
    change({"limits": {"backdate_ops_days": 2, "backdate_finance_days": 2}})
    with pytest.raises(PermissionDenied) as refused:
        edit(active, "suspend", at=MARCH + timedelta(days=9), effective_at=MARCH + timedelta(days=6), **hold)
    assert refused.value.code == "backdate_limit"
    result = edit(
        active, "suspend", at=MARCH + timedelta(days=9), effective_at=MARCH + timedelta(days=7), **hold
    )
    assert result.edit.seq == 5


def test_every_value_of_the_platform_is_a_contracts_term_of_the_same_kind() -> None:
    """So that what is filled in is what a contract could have said."""
    values = open_to_all(PlatformDefaults())
    whole = filled({}, values)
    assert values.keys() == {"payment", "renewal", "sla", "tax", "settlement"}
    assert Limits() == PlatformDefaults().limits
    for section, names in PER_CONTRACT.items():
        assert not set(names) & whole[section].keys()


# HTTP and console


class Api:
    def __init__(self, organization: Organization) -> None:
        _, self.key = issue_key(
            organization=organization, scopes=["contracts:read"], label="t", actor=OPERATOR, at=MARCH
        )

    def get(self, path: str = "") -> Any:
        return Client().get(f"/api/v1/platform-terms/{path}", headers={"Authorization": f"Bearer {self.key}"})


def test_the_platform_reads_every_version_over_http(change: Callable[..., PlatformTerms], clock: Any) -> None:
    change(MONTH, effective_at=APRIL)
    api = Api(Organization.objects.platform())
    assert [row["version"] for row in api.get().json()["items"]] == [2, 1]
    assert api.get("2/").json()["sections"]["payment"]["net_days"] == 30
    assert api.get("current/").json()["version"] == 1
    assert api.get("current/?at=2027-04-01T00:00:00Z").json()["version"] == 2
    assert api.get("3/").status_code == 404
    assert api.get("current/?at=1999-01-01T00:00:00Z").status_code == 404


def test_no_party_reads_the_platforms_terms(parties: Any, clock: Any) -> None:
    api = Api(parties.seller)
    assert api.get().json()["items"] == []
    assert api.get("1/").status_code == api.get("current/").status_code == 404


@pytest.fixture
def browser(people: dict[str, Actor], clock: Any) -> Callable[[str], Client]:
    def log_in(name: str) -> Client:
        client = Client()
        client.force_login(User.objects.get(username=name))
        return client

    return log_in


def page(row: PlatformTerms, name: str = "change", **more: Any) -> str:
    return reverse(f"admin:contracts_platformterms_{name}", args=[row.pk], **more)


def form() -> str:
    return reverse("admin:contracts_platformterms_do", args=[latest().pk, "request-change"])


def fields_on(answer: Any) -> dict[str, str]:
    """What the form, or the buttons under its preview, would send back."""
    text = answer.content.decode()
    found = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', text))
    if bound := answer.context.get("form"):
        shown = {name: bound[name].value() for name in bound.fields}
        found = {name: str(value) for name, value in shown.items() if value not in (None, "")} | found
    return found


def test_an_operator_sees_what_differs_and_asks_and_an_approver_agrees(
    browser: Callable[[str], Client], people: dict[str, Actor]
) -> None:
    client = browser("operator")
    empty = client.get(form())
    assert empty.context["form"]["payload.payment.net_days"].value() == 14
    assert "payload.settlement.partner_id" not in empty.context["form"].fields
    entered = fields_on(empty) | {"payload.payment.net_days": "30", "reason": "Longer.", "step": "preview"}
    shown = client.post(form(), entered)
    assert shown.status_code == 200, shown.context["form"].errors
    assert "Payment net days" in shown.content.decode()
    assert Approval.objects.count() == 0
    unseen = client.post(form(), entered | {"step": "confirm"})
    assert unseen.status_code == 409
    assert Approval.objects.count() == 0
    confirmed = client.post(form(), entered | fields_on(shown) | {"step": "confirm"})
    assert confirmed.status_code == 302
    asked = Approval.objects.get()
    assert (asked.maker, asked.reason) == (str(people["operator"]), "Longer.")
    assert asked.arguments["sections"] == latest().sections | {
        "payment": latest().sections["payment"] | {"net_days": 30}
    }
    approve(approval=asked, actor=people["approver"], at=MARCH)
    assert services.platform_terms(MARCH).payment.net_days == 30


def test_the_form_of_a_new_contract_begins_with_the_platforms_terms(
    browser: Callable[[str], Client], change: Callable[..., PlatformTerms]
) -> None:
    change(MONTH)
    form = browser("operator").get(reverse("admin:contracts_contract_new")).context["form"]
    assert form["payload.terms.payment.net_days"].value() == 30


def test_a_refusal_comes_back_at_its_field(browser: Callable[[str], Client]) -> None:
    client = browser("operator")
    wrong = fields_on(client.get(form())) | {"payload.payment.net_days": "121", "reason": "x"}
    answer = client.post(form(), wrong | {"step": "preview"})
    assert answer.status_code == 422
    assert "payload.payment.net_days" in answer.context["form"].errors
    nothing = fields_on(client.get(form())) | {"reason": "x", "step": "preview"}
    assert "Nothing would change" in client.post(form(), nothing).content.decode()
    assert Approval.objects.count() == 0


def test_only_who_may_ask_and_only_on_the_last_version_gets_the_form(
    browser: Callable[[str], Client], change: Callable[..., PlatformTerms]
) -> None:
    first = latest()
    for name in ("viewer", "approver"):
        assert browser(name).get(form()).status_code == 403
    change(MONTH)
    old = reverse("admin:contracts_platformterms_do", args=[first.pk, "request-change"])
    assert "Version 2 is the last one" in browser("operator").get(old).content.decode()
    nothing_else = reverse("admin:contracts_platformterms_do", args=[first.pk, "delete"])
    assert browser("operator").get(nothing_else).status_code == 404


def test_the_console_lists_versions_and_compares_any_two(
    browser: Callable[[str], Client], change: Callable[..., PlatformTerms]
) -> None:
    change(MONTH, effective_at=APRIL)
    third = change({"tax": {"rate": "0.2"}}, effective_at=APRIL + timedelta(days=1))
    client = browser("viewer")
    listed = client.get(reverse("admin:contracts_platformterms_changelist")).content.decode()
    assert "payment net days 14 → 30" in listed
    assert "in force" in listed
    whole = client.get(page(third)).content.decode()
    assert "Tax rate" in whole
    assert "Payment net days" not in whole
    against = client.get(page(third) + "?against=1").content.decode()
    assert "Payment net days" in against
    assert client.get(page(third) + "?against=x").status_code == 200


def test_before_the_first_version_there_are_no_terms() -> None:
    with pytest.raises(NotFound):
        services.platform_terms(datetime(1999, 1, 1, tzinfo=UTC))
