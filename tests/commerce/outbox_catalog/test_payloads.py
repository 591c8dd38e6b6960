"""A payload is what its dataclass says, or the fault is named with its place."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from commerce.outbox import catalog, payloads
from tests.commerce.outbox_catalog.conftest import ID, THING, Thing

SCHEMA = Draft202012Validator(payloads.json_schema(Thing))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def test_what_it_says_is_accepted() -> None:
    assert payloads.check(Thing)(THING) == ""


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"thing_id": "1"}, "/thing_id must be the text of a UUID"),
        ({"thing_id": ID.upper()}, "/thing_id must be the text of a UUID"),
        ({"owners": ID}, "/owners must be a list"),
        ({"owners": [ID, None]}, "/owners/1 must be the text of a UUID"),
        ({"price_minor": 5.0}, "/price_minor must be a whole number"),
        ({"price_minor": True}, "/price_minor must be a whole number"),
        ({"price_minor": "5"}, "/price_minor must be a whole number"),
        ({"secret": None}, "/secret must be a string"),
        ({"live": 1}, "/live must be true or false"),
        ({"made_at": "2027-03-01T00:00:00"}, "/made_at must be an RFC 3339 instant with an offset"),
        ({"made_at": 3}, "/made_at must be an RFC 3339 instant with an offset"),
        ({"made_on": "1 March"}, "/made_on must be a day such as 2027-03-01"),
        ({"parts": [{"part_id": ID}]}, "/parts/0/weight is missing"),
        ({"parts": [{"part_id": ID, "weight": 1, "~/": 2}]}, "/parts/0/~0~1 is not declared"),
        ({"more": []}, "/more must be an object"),
    ],
)
def test_what_it_does_not_say_is_refused_by_name(wrong: dict[str, Any], fault: str) -> None:
    assert payloads.check(Thing)({**THING, **wrong}) == fault


@given(st.sampled_from(sorted(THING)), JSON)
def test_the_check_refuses_whatever_the_schema_refuses(name: str, value: Any) -> None:
    payload = {**THING, name: value}
    if payloads.check(Thing)(payload) == "":
        assert SCHEMA.is_valid(payload)
        assert json.loads(json.dumps(payload)) == payload


def test_only_what_is_marked_is_public() -> None:
    assert [field.name for field in payloads.fields(Thing) if field.public] == [
        "thing_id",
        "owners",
        "price_minor",
    ]


def test_a_part_of_a_payload_may_grow_and_the_whole_may_not() -> None:
    assert payloads.json_schema(Thing)["additionalProperties"] is False
    part = payloads.json_schema(Thing, only=frozenset({"thing_id"}))
    assert list(part["properties"]) == ["thing_id"]
    assert Draft202012Validator(part).is_valid({"thing_id": ID, "new": 1})
    assert not Draft202012Validator(part).is_valid({"thing_id": 1})


def test_checking_costs_an_append_next_to_nothing() -> None:
    """The widest payload of all, with a limit that only another order of magnitude would break."""
    widest = max(catalog.event_types(), key=lambda type_: len(json.dumps(type_.example)))
    rounds = 2000
    start = time.perf_counter()
    for _ in range(rounds):
        catalog.verify(widest.aggregate_type, widest.name, None, widest.example)
    assert (time.perf_counter() - start) / rounds < 0.0002
