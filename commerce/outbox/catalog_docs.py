"""The catalogue written out: the JSON Schemas of events and of outgoing webhooks, and docs/events.md."""

import json
from itertools import groupby

from commerce.outbox import payloads
from commerce.outbox.catalog import EventType, event_types
from commerce.outbox.payloads import Field, Json

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_HEAD = """# Events

<!-- Written by `manage.py events --write` from the `events.py` of the applications. -->

What happened, as it is appended to the [outbox](architecture.md#the-outbox): in order for each aggregate,
in the transaction of the change. `manage.py events --json` prints all of this with the JSON Schema of every
payload and of what of it is sent in webhooks.

- **Versions.** A type's version counts the changes of its payload. Whoever changes one writes the function
  from the version before (`@upcast`); handlers and webhooks always read the present version, the row stays
  as it was written. An event of a version to come parks its stream: deploy the release that wrote it, then
  resume the stream.
- **Fields.** `append()` refuses a payload that lacks a field, has another, or has one of another type.
  UUIDs, instants (RFC 3339 with an offset) and days (ISO 8601) are strings. Amounts are whole minor units.
- **Webhooks.** A type that names a field under "sent to" is sent to the organization, or organizations, in
  that field: the fields marked ✓, and what says which event it is. Receivers must not mind fields and types
  that are new.
"""


def json_schema(type_: EventType) -> Json:
    """Of the whole payload, as handlers read it."""
    return _titled(type_, payloads.json_schema(type_.payload))


def webhook_schema(type_: EventType) -> Json:
    """Of what an outgoing webhook holds of the payload."""
    return _titled(type_, payloads.json_schema(type_.payload, only=frozenset(type_.public)))


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
                "example": type_.outgoing(type_.example),
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
    rows = "".join(_row(field, field.name in first.public) for field in payloads.fields(first.payload))
    text = (
        f"\n### {first.payload.__name__}\n\n{says}\n\n"
        f"| field | type | meaning | in webhooks |\n|---|---|---|---|\n{rows}"
        f"\nFor example `{first.name}`:\n\n{_code(first.example)}"
    )
    outgoing = first.outgoing(first.example)
    return text if outgoing in ({}, first.example) else f"{text}\nIn a webhook:\n\n{_code(outgoing)}"


def _row(field: Field, sent: bool) -> str:
    return f"| `{field.name}` | {field.type} | {field.meaning} | {'✓' if sent else ''} |\n"


def _code(example: Json) -> str:
    return f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```\n"


def _titled(type_: EventType, schema: Json) -> Json:
    return {
        "$schema": DIALECT,
        "title": f"{type_.name}, version {type_.version}",
        "description": type_.summary,
        **schema,
    }
