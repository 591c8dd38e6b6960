"""The OpenAPI document is generated without a warning, and the API answers as it says."""

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest
import schemathesis
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from commerce.money import STABLECOINS
from commerce.wsgi import application
from contracts.rules.operations import REGISTRY
from contracts.rules.schema import Server
from contracts.services.edits import MAX_BATCH
from tests.api.conftest import Api, Deal
from tests.api.test_tenancy import PLACES, routes

DOCUMENT: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
IDS = {f"{method} /api/v1/{path}": of for method, path, of, _ in PLACES}
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
]  # fmt: skip
schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.app = application
# Each value of each field would be thousands of requests; test_bad_input.py has the wrong ones by name.
schema.config.phases.coverage.enabled = False
bounded = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """The real WSGI door closes connections after a request; the test's transaction lives on this one."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def test_the_document_is_generated_without_a_warning() -> None:
    GENERATOR_STATS.reset()
    call_command("spectacular", "--fail-on-warn", "--validate", stdout=io.StringIO(), stderr=io.StringIO())


def test_every_address_is_documented_with_a_key_its_scope_and_its_problems() -> None:
    documented = {}
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            documented[f"{method.upper()} {path}"] = operation
    assert len(documented) == len(routes())
    for name, operation in documented.items():
        assert operation["security"] == [{"apiKey": []}], name
        assert operation["x-scope"], name
        assert operation["operationId"], name
        assert operation.get("description"), name
        needed = (
            {"400", "401", "403", "404"} if name.startswith("GET") else {"400", "401", "403", "409", "422"}
        )
        assert needed <= operation["responses"].keys(), name
        parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert ("Idempotency-Key" in parameters) != name.startswith("GET"), name
    assert len({operation["operationId"] for operation in documented.values()}) == len(documented)


def test_amounts_of_the_ledger_may_be_in_stablecoins_and_prices_may_not() -> None:
    def currencies(name: str, field: str) -> set[str]:
        amount = DOCUMENT["components"]["schemas"][name]["properties"][field]
        return set(amount["properties"]["currency"]["enum"])

    for name, field in (("Account", "posted"), ("Leg", "amount"), ("PartInputRequest", "amount")):
        assert currencies(name, field) >= STABLECOINS, name
    assert not currencies("InvoiceOutput", "net") & STABLECOINS


def bodies(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of what is posted there, and its examples."""
    content = DOCUMENT["paths"][f"/api/v1/contracts/{path}"]["post"]["requestBody"]["content"]
    return content["application/json"]["schema"], content["application/json"].get("examples", {})


def as_json_schema(part: Any) -> Any:
    """`nullable` is OpenAPI's own word."""
    if isinstance(part, list):
        return [as_json_schema(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: as_json_schema(one) for name, one in part.items() if name != "nullable"}
    return {"anyOf": [found, {"type": "null"}]} if part.get("nullable") is True else found


def test_every_operation_is_documented_with_the_fields_of_its_payload() -> None:
    single, batch = bodies("{id}/operations/")[0], bodies("{id}/batches/")[0]["properties"]["operations"]
    assert (batch["minItems"], batch["maxItems"], batch["items"]) == (1, MAX_BATCH, single)
    assert bodies("{id}/preview/")[0] == single
    assert bodies("{id}/batches/preview/")[0] == bodies("{id}/batches/")[0]
    assert bodies("{id}/approvals/")[0]["properties"]["operations"] == batch
    options = {one["title"]: one["properties"] for one in single["oneOf"]}
    assert options.keys() == REGISTRY.keys() - {"create"}
    for name, option in options.items():
        assert option["operation"]["enum"] == [name]
        hints = get_type_hints(REGISTRY[name].payload, include_extras=True)
        asked = {field for field, hint in hints.items() if Server() not in get_args(hint)}
        assert option["payload"]["properties"].keys() == asked, name
    fields = options["change_terms"]["payload"]["properties"]["payment"]
    assert fields["nullable"]
    assert all(field["nullable"] for field in fields["properties"].values())


@pytest.mark.parametrize(
    "path", ["", "{id}/operations/", "{id}/preview/", "{id}/batches/", "{id}/batches/preview/"]
)
def test_the_examples_are_as_the_document_says(path: str) -> None:
    body, examples = bodies(path)
    assert examples
    for example in examples.values():
        jsonschema.validate(example["value"], as_json_schema(body))
        broken = {**example["value"], "colour": "red"}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, as_json_schema(body))


@schema.parametrize()
@bounded
def test_what_is_sent_at_random_is_answered_as_documented(
    case: schemathesis.Case, platform: Api, ours: Deal
) -> None:
    case.headers["Authorization"] = f"Bearer {platform.plain}"
    known = IDS.get(f"{case.method} {re.sub('{.*?}', '{}', case.path)}")
    if known and zlib.crc32(str(case.body).encode()) % 4:  # else an unknown id
        case.path_parameters.update(zip(case.path_parameters, known(ours).split(), strict=True))
    case.call_and_validate(checks=CHECKS)
