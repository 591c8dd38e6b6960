"""Whatever a key may send has an end: every list and every text of every payload, so that no log and no
document outgrows the request that reads it."""

import dataclasses
import re
import time
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4

import pytest

from commerce.errors import InvalidInput
from contracts.models import Contract, ContractEdit
from contracts.rules import schema
from contracts.rules.offers import NewOffer
from contracts.rules.operations import NAMES, named
from contracts.rules.operations.products import MAX_UNITS
from contracts.rules.platform import PlatformDefaults
from contracts.rules.schema import Length, Pattern, Server
from contracts.rules.state import SomeLines
from contracts.rules.terms import References, Terms
from contracts.services.catalog_import import ProductRow
from contracts.services.documents import as_pdf, contract_document
from tests.contracts.conftest import Parties, create, edit
from tests.contracts.operating import ACTIVE, LINES, NOW, SERVERS, parsed, refusal

READ_FROM_CLIENTS = (*(named(name).payload for name in NAMES), NewOffer, PlatformDefaults, ProductRow)
# What takes the place of a payload is read by that operation's own schema.
READ_AGAIN = {"correct.replacement.payload"}


def places(kind: Any, path: str, rules: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(path, type, rules on it) of everything in a payload that holds text or entries."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from places(arguments[0], path, arguments[1:])
    elif origin in (Union, types.UnionType):
        for option in arguments:
            yield from places(option, path, rules)
    elif origin is schema.Patch:
        yield from places(arguments[0], path)
    elif origin is tuple:
        yield path, tuple, rules
        yield from places(arguments[0], f"{path}[]")
    elif dataclasses.is_dataclass(kind):
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if name not in getattr(kind, "__dataclass_fields__", {}):
                continue
            yield from places(hint, f"{path}.{name}")
    elif kind is str or (origin or kind) in (dict, list, set):
        yield path, origin or kind, rules


EVERY_PLACE = [
    place
    for kind in READ_FROM_CLIENTS
    for place in places(kind, next((name for name in NAMES if named(name).payload is kind), kind.__name__))
]


def has_an_end(kind: Any, rules: tuple[Any, ...]) -> bool:
    if kind is tuple:
        return any(isinstance(rule, Length) for rule in rules)
    patterns = [rule for rule in rules if isinstance(rule, Pattern)]
    endless = [character * 10_000 for character in "aA0-_. "]
    return Server() in rules or (
        bool(patterns) and not any(re.fullmatch(patterns[0].regex, text) for text in endless)
    )


def test_every_list_and_every_text_of_every_payload_has_an_end() -> None:
    without = [path for path, kind, rules in EVERY_PLACE if not has_an_end(kind, rules)]
    assert set(without) == READ_AGAIN
    found = {path for path, _, _ in EVERY_PLACE}
    assert {"create.terms.references.labels", "change_terms.references.labels[]", "suspend.scope"} <= found


def test_what_has_no_end_is_found() -> None:
    @dataclasses.dataclass
    class Endless:
        words: tuple[schema.Text, ...] = ()
        said: str = ""
        any_length: Annotated[str, Pattern("[a-z]+", "letters")] = ""
        one_of: Literal["all"] | tuple[UUID, ...] = "all"

    hints = get_type_hints(Endless, include_extras=True, localns=locals())
    found = [place for name, hint in hints.items() for place in places(hint, name)]
    assert [path for path, kind, rules in found if not has_an_end(kind, rules)] == [
        "words", "said", "any_length", "one_of"
    ]  # fmt: skip


def test_the_schema_says_how_many_entries_a_list_may_have() -> None:
    assert schema.describe(References)["properties"]["labels"]["maxItems"] == 50
    [_, lines] = schema.describe(named("suspend").payload)["properties"]["scope"]["oneOf"]
    assert lines["maxItems"] == 200


@pytest.mark.parametrize(
    ("operation", "payload", "pointer"),
    [
        ("change_terms", {"references": {"labels": ["x"] * 51}}, "/references/labels"),
        ("change_terms", {"sla": {"tiers": [{"below": "0.9", "credit": "0.1"}] * 101}}, "/sla/tiers"),
        ("suspend", {"reason": "legal", "scope": [str(UUID(int=1))] * 201}, "/scope"),
        ("transfer_ownership",
         {"party": "buyer", "new_party_id": str(UUID(int=5)), "consents": [{}] * 203}, "/consents"),
        ("change_quantity",
         {"line_id": str(SERVERS), "delta": 1, "add_units": ["x"] * (MAX_UNITS + 1)}, "/add_units"),
    ],
)  # fmt: skip
def test_a_list_that_is_too_long_is_refused_at_its_place_and_its_entries_are_not_read(
    operation: str, payload: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parsed(operation, payload)
    assert [(fault.pointer, fault.code) for fault in refused.value.errors] == [(pointer, "limit_exceeded")]


def test_a_list_of_the_most_entries_is_read() -> None:
    labels = [f"label {n}" for n in range(50)]
    patch = parsed("change_terms", {"references": {"labels": labels}}).references
    assert list(patch.values["labels"]) == labels
    assert schema.parse(SomeLines, [str(UUID(int=1))] * 200) == (UUID(int=1),) * 200  # type: ignore[arg-type]


def test_what_was_stored_before_there_was_a_limit_is_read_as_it_was() -> None:
    stored = {"references": {"labels": [f"label {n}" for n in range(400)]}}
    assert len(schema.load(Terms, stored).references.labels) == 400


def test_a_contract_names_so_many_units_over_all_its_lines_and_edits() -> None:
    full = dataclasses.replace(
        LINES[SERVERS], quantity=MAX_UNITS, unit_ids=tuple(f"unit-{n}" for n in range(MAX_UNITS))
    )
    state = dataclasses.replace(ACTIVE, lines={**LINES, SERVERS: full})
    more = {"line_id": str(SERVERS), "delta": 1, "add_units": ["one-more"]}
    assert refusal(state, "change_quantity", more) == ("limit_exceeded", "/add_units")
    fewer = {"line_id": str(SERVERS), "delta": -1, "release_units": ["unit-0"]}
    named("change_quantity").check(state, parsed("change_quantity", fewer), NOW)


@pytest.mark.django_db
def test_labels_without_end_are_refused_in_a_correction_too_and_nothing_is_recorded(draft: Contract) -> None:
    edit(draft, "change_terms", {"references": {"labels": ["rack 7"]}})
    many = {"references": {"labels": ["x" * 200] * 5000}}
    with pytest.raises(InvalidInput) as refused:
        edit(draft, "change_terms", many)
    assert refused.value.errors[0].pointer == "/payload/references/labels"
    instead = {"target_seq": 2, "mode": "replace", "replacement": {"payload": many}}
    with pytest.raises(InvalidInput) as refused:
        edit(draft, "correct", instead, reason="more labels")
    assert refused.value.errors[0].pointer == "/payload/replacement/payload/references/labels"
    assert ContractEdit.objects.filter(contract=draft).count() == 2


@pytest.mark.django_db
def test_long_prices_and_labels_are_printed_within_seconds(payload: dict[str, Any], parties: Parties) -> None:
    tiers = [
        {"up_to": str(one * 1000), "rate": "12345.678901", "flat_minor": 123456} for one in range(1, 100)
    ]
    price = {"model": "graduated", "tiers": [*tiers, {"up_to": None, "rate": "1"}]}
    line = payload["lines"][1]
    payload["lines"] = [{**line, "line_id": str(uuid4()), "price": price} for _ in range(40)]
    payload["terms"]["references"] = {
        "labels": [f"{n:03}" + "x" * 197 for n in range(50)],
        "notes": "n" * 200,
    }
    found = contract_document(contract=create(payload).contract)
    begun = time.process_time()
    pdf = as_pdf(found)
    assert time.process_time() - begun < 8  # one of these takes a second
    assert pdf.count(b"/Type /Page\n") > 50
