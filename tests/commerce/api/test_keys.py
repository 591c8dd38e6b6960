"""Keys: only a hash is kept; what is expired, revoked, of another mode or out of scope gets nothing."""

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from commerce.actor import Actor
from commerce.api.models import ApiKey
from commerce.api.scopes import OPERATE, PLATFORM_PERMISSIONS, PLATFORM_VERBS, SCOPES, permissions_of, verb_of
from commerce.api.services import issue_key, revoke_key
from commerce.errors import InvalidInput, PermissionDenied, StateConflict
from commerce.parties.models import Organization
from tests.commerce.api.conftest import AT, SYSTEM, THING, Api

THINGS = "/api/v1/things/"


def test_only_the_hash_of_a_key_is_stored(issue: Callable[..., tuple[ApiKey, str]]) -> None:
    key, plain = issue()
    secret = plain.rpartition("_")[2]
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(k)::text FROM api_apikey k WHERE id = %s", [key.pk])
        stored = cursor.fetchone()[0]
    assert len(secret) == 64
    assert secret not in stored
    assert key.prefix in plain
    assert secret not in str(key)


def test_a_request_without_a_usable_key_is_401(api: Api) -> None:
    for header in (
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic dTpw",
        f"Bearer {api.plain}x",
        "Bearer ck_test_a\x00_b",
    ):
        api_without = Api("")
        answer = api_without.client.get(THINGS, headers={"Authorization": header} if header else {})
        assert answer.status_code == 401, header
        assert answer["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"


def test_an_expired_or_revoked_key_is_refused(issue: Callable[..., tuple[ApiKey, str]]) -> None:
    key, plain = issue()
    assert Api(plain).get(THINGS).status_code == 200
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert Api(plain).get(THINGS).status_code == 401
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() + timedelta(days=1))
    revoke_key(key=key, actor=SYSTEM, at=AT, reason="leaked")
    assert Api(plain).get(THINGS).status_code == 401
    with pytest.raises(StateConflict):
        revoke_key(key=key, actor=SYSTEM, at=AT, reason="again")


def test_a_test_key_is_refused_in_production(api: Api, settings: Any) -> None:
    settings.PRODUCTION = True
    assert api.get(THINGS).status_code == 401


def test_a_key_needs_the_scope_of_the_method(issue: Callable[..., tuple[ApiKey, str]]) -> None:
    reader = Api(issue()[1])
    answer = reader.post(THINGS, THING)
    assert answer.status_code == 403
    assert answer.json()["scope"] == "contracts:write"
    assert reader.get(THINGS).json()["items"] == []
    assert Api(issue(scopes=("ledger:read",))[1]).get(THINGS).status_code == 403


def test_an_action_may_ask_for_another_scope(api: Api, platform_api: Api) -> None:
    assert api.post(f"{THINGS}approve/").status_code == 403
    assert platform_api.post(f"{THINGS}approve/").status_code == 200


def test_only_the_platform_may_hold_the_approval_scope(organization: Organization) -> None:
    with pytest.raises(InvalidInput):
        issue_key(organization=organization, scopes=["payouts:approve"], label="x", actor=SYSTEM, at=AT)
    assert not ApiKey.objects.exists()


def test_unknown_scopes_and_past_expiry_are_refused(organization: Organization) -> None:
    for wrong in ({"scopes": ["contracts:delete"]}, {"scopes": []}, {"expires_at": timezone.now()}):
        arguments: Any = {"organization": organization, "scopes": ["usage:read"], "label": "x", **wrong}
        with pytest.raises(InvalidInput):
            issue_key(**arguments, actor=SYSTEM, at=AT)
    assert not ApiKey.objects.exists()


def test_issuing_needs_its_permission(organization: Organization) -> None:
    nobody = Actor(type="api_key", id="1")
    with pytest.raises(PermissionDenied):
        issue_key(organization=organization, scopes=["usage:read"], label="x", actor=nobody, at=AT)


def test_another_organizations_rows_are_not_there(
    api: Api, platform_api: Api, issue: Callable[..., tuple[ApiKey, str]]
) -> None:
    other = Organization.objects.create(name="Seller", slug="seller", roles=["seller"])
    stranger = Api(issue(other, ("contracts:read", "contracts:write"))[1])
    id_ = api.post(THINGS, THING).json()["id"]
    assert api.get(f"{THINGS}{id_}/").status_code == 200
    assert stranger.get(f"{THINGS}{id_}/").status_code == 404
    assert stranger.post(f"{THINGS}{id_}/change/", {}).status_code == 404
    assert stranger.get(THINGS).json()["items"] == []
    assert platform_api.get(f"{THINGS}{id_}/").status_code == 200


def test_use_is_noted_at_most_once_a_minute(issue: Callable[..., tuple[ApiKey, str]]) -> None:
    key, plain = issue()
    Api(plain).get(THINGS)
    key.refresh_from_db()
    first = key.last_used_at
    assert first is not None
    Api(plain).get(THINGS)
    key.refresh_from_db()
    assert key.last_used_at == first


def test_a_scope_gives_the_permissions_of_its_verbs_on_its_apps_only() -> None:
    for scope in SCOPES:
        for permission in permissions_of([scope], platform=True):
            app, _, codename = permission.partition(".")
            assert codename.partition("_")[0] in SCOPES[scope]
            assert app not in ("auth", "api", "outbox")
            assert app != "console" or codename.endswith("_export")
    assert permissions_of(["organizations:read"], platform=False) >= {"parties.view_organization"}
    assert not {p for p in permissions_of(["payouts:write"], platform=True) if ".approve_" in p}
    assert "approve" not in OPERATE


def test_only_the_ledgers_scopes_reach_into_the_ledger() -> None:
    others = [scope for scope in SCOPES if not scope.startswith("ledger:")]
    assert not {p for p in permissions_of(others, platform=True) if p.startswith("ledger.")}
    assert "ledger.request_reversal" in permissions_of(["ledger:write"], platform=True)


def test_what_only_the_platform_decides_is_not_in_anybody_elses_key() -> None:
    ours, theirs = (permissions_of(SCOPES, platform=platform) for platform in (True, False))
    assert "ledger.hold_ledgerrelease" in ours
    assert "payouts.approve_payout" in ours
    assert not {p for p in theirs if verb_of(p) in PLATFORM_VERBS}
    assert ours >= PLATFORM_PERMISSIONS
    assert not theirs & PLATFORM_PERMISSIONS
    assert "payouts.request_payout" in theirs


def test_the_command_issues_lists_and_revokes(organization: Organization) -> None:
    out = StringIO()
    arguments = ("--organization", "buyer", "--scope", "usage:write", "--label", "meter")
    call_command("apikey", "--json", "issue", *arguments, stdout=out, stderr=StringIO())
    issued = json.loads(out.getvalue())
    assert issued["key"].startswith(f"ck_test_{issued['prefix']}_")
    call_command("apikey", "revoke", issued["prefix"], "--reason", "gone", stdout=StringIO())
    out = StringIO()
    call_command("apikey", "--json", "list", stdout=out)
    [row] = json.loads(out.getvalue())
    assert row["status"] == "revoked"
    assert issued["key"] not in out.getvalue()


def test_a_dry_run_issues_nothing(organization: Organization) -> None:
    arguments = ("--organization", "buyer", "--scope", "usage:write", "--label", "meter")
    call_command("apikey", "--dry-run", "issue", *arguments, stdout=StringIO(), stderr=StringIO())
    assert not ApiKey.objects.exists()
