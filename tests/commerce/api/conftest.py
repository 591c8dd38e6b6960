"""Two organizations with keys, and a client that speaks JSON with them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.api.models import ApiKey
from commerce.api.services import issue_key
from commerce.parties.models import Organization

AT = datetime(2027, 3, 1, tzinfo=UTC)
SYSTEM = Actor.system("test")
THING = {"kind": "plain", "price": {"amount_minor": 100, "currency": "USD"}}


@pytest.fixture(autouse=True)
def _routes(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.commerce.api.urls"


class Api:
    """Calls as one key would; unsafe calls get a fresh Idempotency-Key unless told otherwise."""

    def __init__(self, plain: str) -> None:
        self.plain = plain
        self.client = Client(raise_request_exception=False)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=self._headers(headers))

    def post(self, path: str, body: Any = None, *, raw: bytes | str | None = None, **headers: str) -> Any:
        headers.setdefault("Idempotency-Key", str(uuid4()))
        content = raw if raw is not None else json.dumps(body)
        content_type = headers.pop("content_type", "application/json")
        return self.client.post(path, content, content_type=content_type, headers=self._headers(headers))

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.plain}", **{k: v for k, v in headers.items() if v}}


@pytest.fixture
def organization(db: None) -> Organization:
    return Organization.objects.create(name="Buyer", slug="buyer", roles=["buyer"])


@pytest.fixture
def issue(organization: Organization) -> Callable[..., tuple[ApiKey, str]]:
    def issue(
        owner: Organization = organization, scopes: tuple[str, ...] = ("contracts:read",), **more: Any
    ) -> Any:
        return issue_key(organization=owner, scopes=scopes, label="key", actor=SYSTEM, at=AT, **more)

    return issue


@pytest.fixture
def api(issue: Callable[..., tuple[ApiKey, str]]) -> Api:
    return Api(issue(scopes=("contracts:read", "contracts:write"))[1])


@pytest.fixture
def platform_api(issue: Callable[..., tuple[ApiKey, str]]) -> Api:
    scopes = ("contracts:read", "contracts:write", "payouts:approve")
    return Api(issue(Organization.objects.platform(), scopes)[1])
