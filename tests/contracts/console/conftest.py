"""An operator's hand on the contract's pages: fill in, preview, confirm."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from commerce.console.demo_users import ensure_demo_users
from contracts.models import Contract

HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)"(?: value="([^"]*)")?')


@pytest.fixture
def browser(db: None, clock: Any) -> Callable[[str], Client]:
    passwords = ensure_demo_users()

    def log_in(name: str) -> Client:
        client = Client()
        assert client.login(username=name, password=passwords[name])
        return client

    return log_in


def page(contract: Contract, query: str = "") -> str:
    return reverse("admin:contracts_contract_change", args=[contract.pk]) + query


def form_of(contract: Contract, name: str) -> str:
    return reverse("admin:contracts_contract_do", args=[contract.pk, name])


def hidden(answer: Any) -> dict[str, Any]:
    """The hidden inputs of a page's last form, those of the token aside."""
    text = answer.content.decode().rpartition("<form")[2]
    found: dict[str, list[str]] = {}
    for name, value in HIDDEN.findall(text):
        if name != "csrfmiddlewaretoken":
            found.setdefault(name, []).append(unescape(value))
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def preview(client: Client, contract: Contract, name: str, **data: Any) -> Any:
    """Fill in an operation's form and look; `data` by field, `line_id` being `payload.line_id`."""
    answer = client.get(form_of(contract, name))
    assert answer.status_code == 200, answer.content.decode()
    own = {"effective_at", "reason"}
    entered = {key if key in own else f"payload.{key}": value for key, value in data.items()}
    given = {**hidden(answer), "reason": "Agreed by phone", **entered, "step": "preview"}
    return client.post(form_of(contract, name), given)


def confirm(client: Client, contract: Contract, name: str, seen: Any, **changed: Any) -> Any:
    """Press the button under a preview."""
    return client.post(form_of(contract, name), {**hidden(seen), "step": "confirm", **changed})


def act(client: Client, contract: Contract, name: str, **data: Any) -> Any:
    """Both steps."""
    seen = preview(client, contract, name, **data)
    assert seen.status_code == 200, seen.content.decode()
    return confirm(client, contract, name, seen)
