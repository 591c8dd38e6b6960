"""JSON as strictly as RFC 8259 (I-JSON) asks: no NUL, no doubled names, no number that loses digits.

What passes here can be stored in PostgreSQL and read by any client without change.
"""

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from commerce.api.problems import Invalid
from commerce.errors import FieldError
from commerce.money import MAX_MINOR

DEEPEST = 20


class StrictJSONParser(JSONParser):
    """Malformed text is 400 `malformed_json`; a value nobody could store is 400 with its pointer."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            data = json.loads(
                stream.read().decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_doubles
            )
        except (ValueError, RecursionError) as error:
            raise ParseError(f"The body is not valid JSON: {error}", code="malformed_json") from error
        if faults := list(_faults(data, "", 0)):
            raise Invalid(faults)
        return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _faults(value: Any, pointer: str, depth: int) -> Iterator[FieldError]:
    if depth > DEEPEST:
        yield FieldError(pointer, "too_deep", f"Nested deeper than {DEEPEST} levels.")
    elif isinstance(value, dict):
        for name, item in value.items():
            if not _is_text(name):  # no pointer can name it
                yield FieldError(pointer, "invalid_text", "NUL and lone surrogates are not text.")
                continue
            inner = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from _faults(item, inner, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, f"{pointer}/{index}", depth + 1)
    elif isinstance(value, str):
        if not _is_text(value):
            yield FieldError(pointer, "invalid_text", "NUL and lone surrogates are not text.")
    elif isinstance(value, int | float) and not -MAX_MINOR <= value <= MAX_MINOR:
        yield FieldError(pointer, "number_too_large", "Numbers beyond 2^53 - 1 lose digits in JSON.")


def _is_text(value: str) -> bool:
    return "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
