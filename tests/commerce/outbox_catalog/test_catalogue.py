"""What the applications declare: every type that is written or handled, with an example that is one."""

import ast
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from jsonschema import Draft202012Validator, FormatChecker

from commerce.outbox import catalog, catalog_docs, payloads, registry
from commerce.outbox.catalog import EventType
from commerce.outbox.management.commands.events import PAGE
from commerce.outbox.models import OutboxEvent

SOURCES = [
    path
    for app in ("commerce", "contracts", "ledger", "billing", "payouts")
    for path in (Path(settings.BASE_DIR) / app).rglob("*.py")
    if path.name != "events.py" and "migrations" not in path.parts
]
# What a webhook says of the event itself, beside the payload.
ENVELOPE = {"id", "object", "object_id", "sequence", "truncated"}
SECRETS = ("reason", "fee", "legs", "maker", "checker", "provider_id", "author", "note", "evidence", "sha256")

every_type = pytest.mark.parametrize("type_", catalog.event_types(), ids=lambda type_: type_.name)


@every_type
def test_an_example_satisfies_its_payload_and_its_schema(type_: EventType) -> None:
    schema = catalog_docs.json_schema(type_)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    assert type_.check(type_.example) == ""
    assert list(validator.iter_errors(type_.example)) == []
    for name in type_.example:
        less = {key: value for key, value in type_.example.items() if key != name}
        assert type_.check(less) == f"/{name} is missing"
        assert not validator.is_valid(less)
    more = {**type_.example, "surprise": 1}
    assert type_.check(more) == "/surprise is not declared"
    assert not validator.is_valid(more)


@every_type
def test_what_leaves_the_platform_satisfies_its_schema_and_says_no_more(type_: EventType) -> None:
    outgoing = type_.outgoing(type_.example)
    schema = catalog_docs.webhook_schema(type_)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    body = catalog_docs.webhook_example(type_)
    assert validator.is_valid(body)
    assert set(outgoing) == set(type_.public)
    assert set(body["data"]) == set(schema["properties"]["data"]["properties"]) - {"truncated"}
    identity = {name: value for name, value in body["data"].items() if name in ENVELOPE}
    assert validator.is_valid({**body, "data": {**identity, "truncated": True}})
    assert validator.is_valid({**body, "data": identity}) == (not type_.audience)
    assert not validator.is_valid({**body, "type": "something.else"})
    assert not [name for name in outgoing if any(secret in name for secret in SECRETS)]
    assert not outgoing.keys() & ENVELOPE
    assert bool(outgoing) == bool(type_.audience), "a type without an audience stays inside"


@every_type
def test_whoever_is_told_is_an_organization_of_the_payload(type_: EventType) -> None:
    if not type_.audience:
        assert type_.readers(type_.example) == []
        return
    named = type_.example[type_.audience]
    assert type_.readers(type_.example) == ([named] if isinstance(named, str) else sorted(set(named)))
    (field,) = (f for f in payloads.fields(type_.payload) if f.name == type_.audience)
    assert "UUID" in field.type


def test_what_is_handled_is_in_the_catalogue() -> None:
    handled = {subscription.split(" ")[0] for subscription in registry.subscriptions()}
    assert handled
    assert handled <= {type_.name for type_ in catalog.event_types()}


def test_what_is_in_the_catalogue_is_written_somewhere() -> None:
    """A type that nobody writes is a promise that nobody keeps."""
    texts: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    hints = {type_.name for type_ in catalog.event_types() if type_.payload.__name__ == "Hint"}
    assert {type_.name for type_ in catalog.event_types()} - texts - hints == set()


def test_no_step_between_versions_is_missing() -> None:
    assert catalog.missing_upcasters() == []


def test_a_status_written_before_buyers_were_named_is_read_and_told_to_nobody() -> None:
    known = catalog.event_type("billing_account.status_changed")
    assert known
    before = {name: value for name, value in known.example.items() if name != "buyer_id"}
    read = catalog.current(OutboxEvent(type=known.name, version=1, payload=before))
    assert read.payload == {**before, "buyer_id": None}
    assert known.check(read.payload) == ""
    assert known.readers(read.payload) == []
    assert known.readers(known.example) == [known.example["buyer_id"]]


def test_the_page_is_what_the_catalogue_says() -> None:
    assert PAGE.read_text() == catalog_docs.as_markdown(), "manage.py events --write"


def test_the_command_prints_types_and_schemas_and_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_command("events", "invoice.paid")
    out = capsys.readouterr().out
    assert "invoice.paid" in out
    assert "invoice.issued" not in out
    call_command("events", "invoice.paid", "--json")
    assert '"schema"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        call_command("events", "invoice.eaten")
    assert refused.value.code == 6
    assert capsys.readouterr().out == ""
