"""The catalogue written out: the JSON Schemas of events and of outgoing webhooks, and docs/events.md."""

import json
from collections.abc import Collection
from itertools import groupby

from commerce.outbox import payloads
from commerce.outbox.catalog import EventType, event_types
from commerce.outbox.payloads import Field, Json

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_IDENTITY: Json = {
    "id": {"type": "string", "format": "uuid", "description": "the event"},
    "object": {"type": "string", "description": "what it happened to"},
    "object_id": {"type": "string"},
    "sequence": {"type": "integer", "minimum": 0, "description": "number in the object's history"},
}
_EVENT, _OBJECT = "01956f1c-3c00-7000-8000-00000000e001", "01956f1c-3c00-7000-8000-000000000001"

_HEAD = """# Events

<!-- Written by `manage.py events --write` from the `events.py` of the applications. -->

What happened, as it is appended to the [outbox](architecture.md#the-outbox): in order for each aggregate,
in the transaction of the change. `manage.py events --json` prints all of this with the JSON Schema of every
payload and of the whole body of its webhooks.

- **Versions.** A type's version counts the changes of its payload. Whoever changes one writes the function
  from the version before (`@upcast`); handlers and webhooks always read the present version, the row stays
  as it was written. An event of a version to come parks its stream: deploy the release that wrote it, then
  resume the stream.
- **Fields.** `append()` refuses a payload that lacks a field, has another, or has one of another type.
  UUIDs, instants (RFC 3339 with an offset) and days (ISO 8601) are strings. Amounts are whole minor units.
- **Webhooks.** A type that names a field under "sent to" is sent to the organization, or organizations, in
  that field: the fields marked ✓, and what says which event it is. A contract's go also to its sellers and
  its partner, those that change what they see of it; a field marked (✓) is left out for some. Receivers must
  not mind fields and types that are new. A [`webhook.test`](webhooks.md) says which event it is and no more.
"""


def json_schema(type_: EventType) -> Json:
    """Of the whole payload, as handlers read it."""
    return _titled(type_, payloads.json_schema(type_.payload))


def webhook_schema(type_: EventType) -> Json:
    """Of the whole body of an outgoing webhook. One that would be too large has the identity alone."""
    told = [field for field in payloads.fields(type_.payload) if field.name in type_.public]
    part = payloads.json_schema(type_.payload, only=frozenset(type_.public))
    data = {
        "type": "object",
        "properties": {**_IDENTITY, **part["properties"], "truncated": {"const": True}},
        "required": list(_IDENTITY),
        "if": {"required": ["truncated"]},
        "else": {"required": [field.name for field in told if not field.withheld]},
    }
    body = {
        "type": {"const": type_.name},
        "timestamp": {"type": "string", "format": "date-time", "description": "when it happened"},
        "data": data,
    }
    return _titled(type_, {"type": "object", "properties": body, "required": list(body)})


def webhook_example(type_: EventType) -> Json:
    identity = {"id": _EVENT, "object": type_.aggregate_type, "object_id": _OBJECT, "sequence": 1}
    data = {**type_.outgoing(type_.example), **identity}
    return {"type": type_.name, "timestamp": "2027-03-01T00:00:00Z", "data": data}


def as_json() -> list[Json]:
    return [
        {
            "type": type_.name,
            "version": type_.version,
            "aggregate_type": type_.aggregate_type,
            "summary": type_.summary,
            "schema": json_schema(type_),
            "example": type_.example,
            "webhook": {
                "audience": type_.audience,
                "schema": webhook_schema(type_),
                "example": webhook_example(type_),
            }
            if type_.audience
            else None,
        }
        for type_ in event_types()
    ]


def as_markdown() -> str:
    """docs/events.md: a chapter for each module that declares events, a section for each payload."""

    def module(type_: EventType) -> str:
        return type_.payload.__module__

    types = sorted(event_types(), key=module)
    return _HEAD + "".join(_chapter(name, list(some)) for name, some in groupby(types, key=module))


def _chapter(module: str, types: list[EventType]) -> str:
    def payload(type_: EventType) -> str:
        return type_.payload.__name__

    title = module.removesuffix(".events").rpartition(".")[2].capitalize()
    rows = "".join(
        f"| `{type_.name}` | {type_.version} | `{type_.aggregate_type}` | {type_.summary} | "
        f"[{payload(type_)}](#{payload(type_).lower()}) | {type_.audience and f'`{type_.audience}`'} |\n"
        for type_ in types
    )
    sections = groupby(sorted(types, key=payload), key=payload)
    return (
        f"\n## {title}\n\n"
        "| type | version | happens to | when | payload | sent to |\n|---|---|---|---|---|---|\n"
        f"{rows}" + "".join(_section(list(alike)) for _, alike in sections)
    )


def _section(types: list[EventType]) -> str:
    first = next((type_ for type_ in types if type_.audience), types[0])
    says = " ".join((first.payload.__doc__ or "").split())
    rows = "".join(_row(field, first.public) for field in payloads.fields(first.payload))
    text = (
        f"\n### {first.payload.__name__}\n\n{says}\n\n"
        f"| field | type | meaning | in webhooks |\n|---|---|---|---|\n{rows}"
        f"\nFor example `{first.name}`:\n\n{_code(first.example)}"
    )
    outgoing = first.outgoing(first.example)
    return text if outgoing in ({}, first.example) else f"{text}\nIn a webhook:\n\n{_code(outgoing)}"


def _row(field: Field, public: Collection[str]) -> str:
    sent = ("(✓)" if field.withheld else "✓") if field.name in public else ""
    return f"| `{field.name}` | {field.type} | {field.meaning} | {sent} |\n"


def _code(example: Json) -> str:
    return f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```\n"


def _titled(type_: EventType, schema: Json) -> Json:
    return {
        "$schema": DIALECT,
        "title": f"{type_.name}, version {type_.version}",
        "description": type_.summary,
        **schema,
    }
