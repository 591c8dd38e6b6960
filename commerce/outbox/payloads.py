"""What a payload dataclass says: a check that names the first fault, fields for the docs, a JSON Schema.

Payloads are JSON, so a field declared `UUID` or `datetime` holds its text. `Public` marks a field that
parties outside the platform may read, `Withheld` one that only some of them may; what is not marked
stays inside. A string in `Annotated` says what a field means.
"""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

T = TypeVar("T")
Json = dict[str, Any]
Check = Callable[[Any], str]

_PUBLIC, _WITHHELD = object(), object()
Public = Annotated[T, _PUBLIC]
Withheld = Annotated[T, _PUBLIC, _WITHHELD]
Minor = Annotated[int, "minor units of `currency`"]
Currency = Annotated[str, "ISO 4217, or a stablecoin's code"]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Field:
    """One field of a payload, as a reader wants to know it."""

    name: str
    kind: Any
    meaning: str
    public: bool
    withheld: bool

    @property
    def type(self) -> str:
        return _named(self.kind)


@cache
def fields(payload: type) -> tuple[Field, ...]:
    found = []
    for name, hint in get_type_hints(payload, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        meaning = "; ".join(note for note in notes if isinstance(note, str))
        found.append(Field(name, kind, meaning, _PUBLIC in notes, _WITHHELD in notes))
    return tuple(found)


@cache
def check(kind: Any) -> Check:
    """A function from a value to its first fault, "" when there is none; built once per type.

    A fault begins with the pointer to its place: "/lines/0/quantity must be a whole number".
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return check(arguments[0])
    if origin in (Union, types.UnionType):
        return _optional(check(_present(kind)))
    if origin is tuple:
        return _list(check(arguments[0]))
    if origin is dict:
        return _map(check(arguments[1]))
    if dataclasses.is_dataclass(kind):
        return _object({field.name: check(field.kind) for field in fields(kind)})  # type: ignore[arg-type]
    return _SCALARS[kind].check


def json_schema(kind: Any, *, only: frozenset[str] | None = None) -> Json:
    """The JSON Schema (2020-12) of a kind; with `only`, of these fields of a payload.

    The whole payload has no other fields. A part says nothing of others, nor that all of it is there: its
    readers must not mind new ones.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        meaning = "; ".join(note for note in arguments[1:] if isinstance(note, str))
        return json_schema(arguments[0]) | ({"description": meaning} if meaning else {})
    if origin in (Union, types.UnionType):
        return {"anyOf": [json_schema(_present(kind)), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": json_schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": json_schema(arguments[1])}
    if dataclasses.is_dataclass(kind):
        properties = {
            field.name: json_schema(field.kind) | ({"description": field.meaning} if field.meaning else {})
            for field in fields(kind)  # type: ignore[arg-type]
            if only is None or field.name in only
        }
        whole = {"required": list(properties), "additionalProperties": False} if only is None else {}
        return {"type": "object", "properties": properties, **whole}
    return dict(_SCALARS[kind].schema)


@dataclass(frozen=True)
class _Scalar:
    name: str
    check: Check
    schema: Json


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else " must be a string"


def _whole(value: Any) -> str:
    return "" if type(value) is int else " must be a whole number"


def _truth(value: Any) -> str:
    return "" if type(value) is bool else " must be true or false"


def _uuid(value: Any) -> str:
    return "" if isinstance(value, str) and _UUID.fullmatch(value) else " must be the text of a UUID"


def _instant(value: Any) -> str:
    try:
        known = datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        known = False
    return "" if known else " must be an RFC 3339 instant with an offset"


def _day(value: Any) -> str:
    try:
        date.fromisoformat(value)
    except (TypeError, ValueError):
        return " must be a day such as 2027-03-01"
    return ""


_SCALARS: dict[Any, _Scalar] = {
    Any: _Scalar("JSON", lambda value: "", {}),
    str: _Scalar("string", _text, {"type": "string"}),
    int: _Scalar("integer", _whole, {"type": "integer"}),
    bool: _Scalar("boolean", _truth, {"type": "boolean"}),
    UUID: _Scalar("UUID", _uuid, {"type": "string", "format": "uuid"}),
    datetime: _Scalar("instant", _instant, {"type": "string", "format": "date-time"}),
    date: _Scalar("day", _day, {"type": "string", "format": "date"}),
}


def _optional(one: Check) -> Check:
    return lambda value: "" if value is None else one(value)


def _list(one: Check) -> Check:
    def faults(value: Any) -> str:
        if not isinstance(value, list):
            return " must be a list"
        return next((f"/{i}{fault}" for i, item in enumerate(value) if (fault := one(item))), "")

    return faults


def _map(one: Check) -> Check:
    def faults(value: Any) -> str:
        if not isinstance(value, dict):
            return " must be an object"
        return next((f"/{_escaped(k)}{fault}" for k, item in value.items() if (fault := one(item))), "")

    return faults


def _object(checks: Mapping[str, Check]) -> Check:
    def faults(value: Any) -> str:
        if not isinstance(value, dict):
            return " must be an object"
        if value.keys() != checks.keys():
            missing = [f"/{name} is missing" for name in checks if name not in value]
            return (
                missing or [f"/{_escaped(name)} is not declared" for name in value if name not in checks]
            )[0]
        for name, one in checks.items():
            if fault := one(value[name]):
                return f"/{name}{fault}"
        return ""

    return faults


def _present(kind: Any) -> Any:
    """The one kind that an optional holds when it holds something."""
    (present,) = (option for option in get_args(kind) if option is not types.NoneType)
    return present


def _named(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _named(arguments[0])
    if origin in (Union, types.UnionType):
        return f"{_named(_present(kind))} or null"
    if origin is tuple:
        return f"list of {_named(arguments[0])}"
    if origin is dict:
        return "object"
    if dataclasses.is_dataclass(kind):
        return "{" + ", ".join(f"{field.name}: {field.type}" for field in fields(kind)) + "}"  # type: ignore[arg-type]
    return _SCALARS[kind].name


def _escaped(name: Any) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
