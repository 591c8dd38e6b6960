"""Hypothesis strategies for payloads, read off the dataclasses that are their schema."""

import dataclasses
import types
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from hypothesis import strategies as st

from contracts.rules import schema
from contracts.rules.operations import NAMES, named

EPOCH = datetime(2027, 1, 1, tzinfo=UTC)
FEW_IDS = st.sampled_from([UUID(int=i) for i in range(1, 5)])
INSTANTS = st.integers(0, 800).map(lambda n: EPOCH + timedelta(days=n, hours=n % 3))
TEXTS = st.sampled_from(["a", "b", "USD"])


def payload_of(operation: str) -> st.SearchStrategy[Any]:
    """Any payload of that operation that `schema.parse` lets through, server fields included."""
    return _of(named(operation).payload)


def edits(names: tuple[str, ...] = NAMES) -> st.SearchStrategy[tuple[str, Any]]:
    """(operation, payload) of any of these operations."""
    return st.sampled_from(names).flatmap(lambda name: payload_of(name).map(lambda one: (name, one)))


def _of(kind: Any, rules: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _of(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if one is types.NoneType else _of(one) for one in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is schema.Patch:
        fields = {name: st.none() | _of(hint) for name, hint in _hints(arguments[0]).items()}
        return st.fixed_dictionaries({}, optional=fields).map(schema.Patch)
    if origin is tuple:
        return st.lists(_of(arguments[0]), max_size=3).map(tuple)
    if dataclasses.is_dataclass(kind):
        return st.builds(kind, **{name: _of(hint) for name, hint in _hints(kind).items()})
    bounds = next((rule for rule in rules if isinstance(rule, schema.Between)), schema.Between())
    pattern = next((rule for rule in rules if isinstance(rule, schema.Pattern)), None)
    if kind is str and pattern:
        return st.just("USD") if pattern.regex == "[A-Z]{3}" else st.from_regex(pattern.regex, fullmatch=True)
    if kind is Decimal:
        number = st.decimals(bounds.low, min(bounds.high, 10**9), places=4)
        return number | st.sampled_from([Decimal(bounds.low), Decimal(min(bounds.high, 10**9))])
    if kind is int:
        return st.integers(bounds.low, min(bounds.high, 10**9))
    return {
        str: TEXTS,
        bool: st.booleans(),
        UUID: FEW_IDS,
        datetime: INSTANTS,
        date: INSTANTS.map(datetime.date),
        dict: st.just({}),
    }[origin or kind]


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
