"""Typed payloads: a frozen dataclass is the schema.

`parse` reads JSON into it and reports every fault at once, each with a JSON pointer; unknown fields
are refused. `dump` writes the canonical JSON that is stored and hashed, `load` reads it back, and
`describe` gives the JSON Schema. Fields marked `Server` are filled in by us, refused from clients.
"""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from commerce.errors import FieldError, InvalidInput
from commerce.money import MAX_MINOR

T = TypeVar("T")

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)?")
_DECIMAL = re.compile(r"-?\d{1,18}(?:\.(\d+))?")
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Between:
    """Bounds of a number, and the codes of what lies outside."""

    low: int = -MAX_MINOR
    high: int = MAX_MINOR
    below: str = "out_of_range"
    above: str = "out_of_range"


@dataclass(frozen=True)
class Length:
    """How many entries a list has at most: a log repeats what it holds in the state of every instant."""

    most: int


@dataclass(frozen=True)
class Pattern:
    regex: str
    hint: str


@dataclass(frozen=True)
class Server:
    """Marks a field that the server fills in."""


@dataclass(frozen=True)
class Patch(Generic[T]):
    """Fields of a `T` to change: one that is absent stays, one that is null goes back to its default.

    Null in the place of a patch stands for all fields null.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values)


Count = Annotated[int, Between(1, 1_000_000)]
Minor = Annotated[int, Between(0, MAX_MINOR, below="amount_negative", above="amount_overflow")]
Rate = Annotated[Decimal, Between(0, MAX_MINOR, below="amount_negative", above="amount_overflow")]
Share = Annotated[Decimal, Between(0, 1)]
Quantity = Annotated[Decimal, Between(0, MAX_MINOR, below="quantity_negative")]
NO_TEXT = "NUL and half a surrogate pair are no text."
Text = Annotated[str, Pattern(r"[^\x00-\x1f]{1,200}", "1 to 200 characters")]


def parse(schema: type[T], data: Any, *, pointer: str = "") -> T:
    """A client's `data` as `schema`. InvalidInput lists every fault; its code is theirs if they agree."""
    errors: list[FieldError] = []
    value = _read(schema, data, pointer, errors)
    if errors:
        raise invalid(errors)
    return value


def load(schema: type[T], data: Any) -> T:
    """What `dump` wrote as `schema` again: server fields included, bounds not applied a second time."""
    reader: Callable[[Any], T] = _loader(schema)  # type: ignore[arg-type]
    return reader(data)


@cache
def _loader(kind: Any) -> Callable[[Any], Any]:
    """A function from stored JSON to `kind`, built once per type: logs are read on every request."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _loader(arguments[0])
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not types.NoneType]
        one = _loader(next((option for option in options if _plain(option) is tuple), options[0]))
        if len(options) > 1:
            return lambda data: one(data) if isinstance(data, list) else data
        return lambda data: None if data is None else one(data)
    if origin is Patch:
        of = {name: _loader(hint) for name, (hint, _) in _fields(arguments[0]).items()}
        return lambda data: Patch({n: None if one is None else of[n](one) for n, one in data.items()})
    if origin is tuple:
        item = _loader(arguments[0])
        return lambda data: tuple(item(one) for one in data)
    if origin is dict:
        key, value = map(_loader, arguments)
        return lambda data: {key(name): value(one) for name, one in data.items()}
    if dataclasses.is_dataclass(kind):
        loaders = {name: _loader(hint) for name, (hint, _) in _fields(kind).items()}  # type: ignore[arg-type]
        build: Any = kind
        return lambda data: build(**{name: loaders[name](one) for name, one in data.items()})
    return _SCALAR_LOADERS.get(kind, lambda data: data)


_SCALAR_LOADERS: dict[Any, Callable[[Any], Any]] = {
    UUID: UUID,
    Decimal: Decimal,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
}


class Malformed(InvalidInput):
    """Fields that do not exist: the request was meant for something else."""

    status = 400


def invalid(errors: Sequence[FieldError]) -> InvalidInput:
    """One error for several faults."""
    codes = {error.code for error in errors}
    kind = Malformed if "unknown_field" in codes else InvalidInput
    code = codes.pop() if len(codes) == 1 else "payload_invalid"
    detail = errors[0].detail if len(errors) == 1 else f"{len(errors)} fields are not valid."
    return kind(detail, code=code, errors=errors)


def dump(value: Any) -> Any:
    """Canonical JSON of a dataclass: absent optionals left out, decimals without trailing zeros.

    A class that is `sparse` leaves out whatever is as its default says.
    """
    if isinstance(value, Patch):
        return {name: dump(item) for name, item in value.values.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = _fields(type(value))
        fields = [(name, getattr(value, name)) for name in known]
        if getattr(value, "sparse", False):
            fields = [(name, item) for name, item in fields if item != known[name][1].default]
        return {
            name: dump(item)
            for name, item in fields
            if item is not None and (item or type(item) is not Patch)
        }
    if isinstance(value, Mapping):
        return {str(key): dump(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [dump(item) for item in value]
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def encodable(text: str) -> bool:
    """Whether the text can be stored: JSON admits NUL and half a surrogate pair, the database neither."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def instant(value: datetime) -> str:
    """RFC 3339 in UTC, e.g. 2027-03-01T00:00:00Z."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def describe(kind: Any) -> dict[str, Any]:
    """The JSON Schema of what `parse` accepts from clients."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        described = describe(arguments[0])
        for rule in arguments[1:]:
            described |= _described(rule, described.get("type", ""))
        return described
    if origin in (Union, types.UnionType):
        options = [describe(option) for option in arguments if option is not types.NoneType]
        chosen = options[0] if len(options) == 1 else {"oneOf": options}
        return {**chosen, "nullable": True} if types.NoneType in arguments else chosen
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is Patch:
        of = {name: {**describe(hint), "nullable": True} for name, (hint, _) in _fields(arguments[0]).items()}
        return {"type": "object", "properties": of, "additionalProperties": False, "nullable": True}
    if origin is tuple:
        return {"type": "array", "items": describe(arguments[0])}
    if origin is dict:
        return {"type": "object"}
    if dataclasses.is_dataclass(kind):
        fields = {
            name: (hint, field)
            for name, (hint, field) in _fields(kind).items()  # type: ignore[arg-type]
            if Server() not in get_args(hint)
        }
        required = [
            name
            for name, (_, field) in fields.items()
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        properties = {name: describe(hint) for name, (hint, _) in fields.items()}
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }
    return dict(_SCALARS[kind])


_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    UUID: {"type": "string", "format": "uuid"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    Decimal: {"type": "string", "pattern": r"^\d{1,18}(\.\d{1,12})?$", "example": "18000.00"},
}


def _described(rule: Any, type_: str) -> dict[str, Any]:
    if isinstance(rule, Length):
        return {"maxItems": rule.most}
    if isinstance(rule, Pattern):
        return {"pattern": f"^{rule.regex}$"}
    if isinstance(rule, Between) and type_ == "integer":
        return {"minimum": rule.low, "maximum": rule.high}
    if isinstance(rule, Between) and type_ == "string" and rule.low < 0:
        return {"pattern": r"^-?\d{1,18}(\.\d{1,12})?$"}
    return {}


def _plain(kind: Any) -> Any:
    """The origin of a type, whatever rules are on it."""
    return get_origin(get_args(kind)[0] if get_origin(kind) is Annotated else kind)


@cache
def _fields(schema: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    hints = get_type_hints(schema, include_extras=True)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(schema)}


def _read(kind: Any, data: Any, pointer: str, errors: list[FieldError]) -> Any:
    def fail(code: str, detail: str) -> None:
        errors.append(FieldError(pointer, code, detail))

    origin = get_origin(kind)
    if origin is Annotated:
        base, *rules = get_args(kind)
        before = len(errors)
        for rule in rules:
            if isinstance(rule, Length) and isinstance(data, list) and len(data) > rule.most:
                return fail("limit_exceeded", f"At most {rule.most} entries.")
        value = _read(base, data, pointer, errors)
        if len(errors) == before:
            for rule in rules:
                _judge(rule, value, fail)
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not types.NoneType]
        if data is None and len(options) < len(get_args(kind)):
            return None
        wanted = tuple if isinstance(data, list) else Literal
        chosen = next((option for option in options if _plain(option) is wanted), options[0])
        return _read(chosen, data, pointer, errors)
    if origin is Literal:
        choices = get_args(kind)
        if not isinstance(data, str) or data not in choices:
            fail("invalid_choice", f"Must be one of: {', '.join(choices)}.")
        return data
    if origin is dict:
        return data if isinstance(data, dict) else fail("invalid_type", "Must be an object.")
    if origin is tuple:
        if not isinstance(data, list):
            return fail("invalid_type", "Must be a list.")
        item = get_args(kind)[0]
        return tuple(_read(item, one, f"{pointer}/{i}", errors) for i, one in enumerate(data))
    if origin is Patch:
        return _read_patch(get_args(kind)[0], data, pointer, errors)
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, data, pointer, errors)
    return _read_scalar(kind, data, fail)


def _read_object(schema: Any, data: Any, pointer: str, errors: list[FieldError]) -> Any:
    if not isinstance(data, dict):
        errors.append(FieldError(pointer, "invalid_type", "Must be an object."))
        return None
    known = {name for name, (kind, _) in _fields(schema).items() if Server() not in get_args(kind)}
    for name in data:
        if name not in known:
            errors.append(FieldError(f"{pointer}/{_escape(name)}", "unknown_field", "Not a known field."))
    values = {}
    before = len(errors)
    for name, (kind, field) in _fields(schema).items():
        if name in known and name in data:
            values[name] = _read(kind, data[name], f"{pointer}/{name}", errors)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append(FieldError(f"{pointer}/{name}", "required", "This field is required."))
    return schema(**values) if len(errors) == before else None


def _read_patch(schema: type, data: Any, pointer: str, errors: list[FieldError]) -> Patch[Any]:
    known = _fields(schema)
    if data is None:
        return Patch(dict.fromkeys(known))
    if not isinstance(data, dict):
        errors.append(FieldError(pointer, "invalid_type", "Must be an object."))
        return Patch()
    values: dict[str, Any] = {}
    for name, one in data.items():
        at = f"{pointer}/{_escape(name)}"
        if name not in known:
            errors.append(FieldError(at, "unknown_field", "Not a known field."))
        else:
            values[name] = None if one is None else _read(known[name][0], one, at, errors)
    return Patch(values)


def _read_scalar(kind: Any, data: Any, fail: Any) -> Any:
    if kind is bool:
        return data if isinstance(data, bool) else fail("invalid_type", "Must be true or false.")
    if kind is int:
        if isinstance(data, int) and not isinstance(data, bool):
            return data
        return fail("invalid_type", "Must be a whole number.")
    if not isinstance(data, str):
        return fail("invalid_type", "Must be a string.")
    if not encodable(data):
        return fail("invalid_format", NO_TEXT)
    if kind is Decimal:
        match = _DECIMAL.fullmatch(data)
        if not match:
            return fail("invalid_decimal", 'Must be a decimal string such as "18000.00".')
        if len(match[1] or "") > 12:
            return fail("rate_scale", "At most 12 decimal places.")
        return Decimal(data)
    if kind is UUID:
        try:
            return UUID(data)
        except ValueError:
            return fail("invalid_uuid", "Must be a UUID.")
    if kind is datetime:
        return _read_instant(data, fail)
    if kind is date:
        return _read_date(data, fail)
    return data


def _read_date(data: str, fail: Any) -> date | None:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", data):
            raise ValueError
        value = date.fromisoformat(data)
    except ValueError:
        return fail("invalid_date", "Must be a date, e.g. 2027-03-01.")
    if not EARLIEST.date() <= value < LATEST.date():
        return fail("invalid_date", "The date must lie between 2000 and 2200.")
    return value


def _read_instant(data: str, fail: Any) -> datetime | None:
    try:
        if not _RFC3339.fullmatch(data):
            raise ValueError
        value = datetime.fromisoformat(data.upper())
        if value.tzinfo is None:
            return fail("invalid_instant", "The instant needs an offset, e.g. 2027-03-01T00:00:00Z.")
        value = value.astimezone(UTC)
    except (ValueError, OverflowError):
        return fail("invalid_instant", "Must be an RFC 3339 instant, e.g. 2027-03-01T00:00:00Z.")
    if not EARLIEST <= value < LATEST:
        return fail("invalid_instant", "The instant must lie between 2000 and 2200.")
    return value


def _judge(rule: Any, value: Any, fail: Any) -> None:
    if isinstance(rule, Pattern):
        if not re.fullmatch(rule.regex, value):
            fail("invalid_format", f"Must be {rule.hint}.")
    elif isinstance(rule, Between):
        if value < rule.low:
            fail(rule.below, f"Must be at least {rule.low}.")
        elif value > rule.high:
            fail(rule.above, f"Must be at most {rule.high}.")


def _escape(name: Any) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
