"""Cursor pages: every row once, newest first, also while rows arrive; and the API's own documents."""

import json

import pytest
from django.test import Client

from tests.commerce.api.conftest import THING, Api

THINGS = "/api/v1/things/"


def create(api: Api, count: int, name: str = "k") -> list[str]:
    return [api.post(THINGS, THING | {"kind": f"{name}{i}"}).json()["id"] for i in range(count)]


def test_walking_the_pages_meets_every_row_once(api: Api) -> None:
    ids = create(api, 7)
    seen, url = [], f"{THINGS}?page_size=3"
    while url:
        page = api.get(url).json()
        assert set(page) == {"items", "next", "previous"}
        seen += [item["id"] for item in page["items"]]
        if len(seen) == 3:
            create(api, 2, "late")
        url = page["next"]
    assert seen == ids[::-1]


def test_the_previous_page_leads_back(api: Api) -> None:
    create(api, 4)
    first = api.get(f"{THINGS}?page_size=2").json()
    second = api.get(first["next"]).json()
    assert first["previous"] is None
    assert api.get(second["previous"]).json()["items"] == first["items"]


@pytest.mark.parametrize("cursor", ["nonsense", "cD1ub3QtYS11dWlk", "cD0lMDA%3D", "bz0tNQ%3D%3D"])
def test_a_cursor_that_is_not_ours_is_400(api: Api, cursor: str) -> None:
    create(api, 1)
    answer = api.get(f"{THINGS}?cursor={cursor}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "?cursor"


def test_money_and_instants_are_written_one_way(api: Api) -> None:
    create(api, 1)
    [item] = api.get(THINGS).json()["items"]
    assert item["value"] == {"amount_minor": 100, "currency": "USD"}
    assert item["opened_at"].endswith("Z")


def test_the_schema_declares_keys_problems_and_idempotency(api: Api) -> None:
    document = json.loads(Client().get("/api/schema/", headers={"Accept": "application/json"}).content)
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    operation = document["paths"]["/api/v1/things/"]["post"]
    assert {"400", "401", "403", "404", "409", "422"} <= set(operation["responses"])
    assert "application/problem+json" in operation["responses"]["409"]["content"]
    assert operation["x-scope"] == "contracts:write"
    [header] = [p for p in operation["parameters"] if p["name"] == "Idempotency-Key"]
    assert header["required"]
    listing = document["paths"]["/api/v1/things/"]["get"]
    assert {p["name"] for p in listing["parameters"]} == {"cursor", "page_size", "kind"}
    assert "409" not in listing["responses"]


def test_the_documentation_needs_no_other_host_and_no_inline_script(api: Api) -> None:
    page = Client().get("/api/docs/")
    assert page.status_code == 200
    assert "unsafe-eval" not in page["Content-Security-Policy"]
    assert "script-src 'self';" in page["Content-Security-Policy"]
    assert "://" not in page.content.decode().replace("http://testserver", "")
    assert Client().get("/api/docs/?script=").status_code == 200
