"""Files of products and offers, read into rows; what a cell means is said here, what is right is not.

A cell that cannot be read as what its column holds stays text, for the schema to refuse with its place.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from commerce.errors import FieldError, InvalidInput

MAX_ROWS = 5_000
MAX_ROWS_IN_A_REQUEST = 500
PRICE = ("model", "rate", "tiers", "package_size", "included", "min_minor", "max_minor", "prorate_bounds")
COLUMNS: dict[str, tuple[str, ...]] = {
    "products": ("code", "name", "description", "kind", "unit", "meter", "active"),
    "offers": (
        *("seller", "code", "product", "currency", *PRICE, "capacity", "valid_from", "valid_to"),
        *("min_term_months", "sla_policy", "tax_code", "terms"),
    ),
}
TIERS_HINT = 'Tiers are written "10=2.00; 100=1.50+5000; *=1.20".'

Kind = Literal["products", "offers"]
Format = Literal["csv", "json"]
Json = dict[str, Any]

_NUMBERS = frozenset({"min_minor", "max_minor", "capacity", "min_term_months"})
_INSTANTS = frozenset({"valid_from", "valid_to"})
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TIER = re.compile(r"\s*(\*|[0-9.]+)\s*=\s*([0-9.]+)\s*(?:\+\s*([0-9]+))?\s*")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
# What an empty cell stands for, where that is not the empty text. None of a price's column: left out.
_EMPTY = {"active": True, **dict.fromkeys((*PRICE, *_NUMBERS, *_INSTANTS))}


@dataclass(frozen=True)
class Row:
    """One row of a file: its line, or its place in the list, from 1. In a `flat` one a price is columns."""

    number: int
    values: Json
    flat: bool = False

    def place(self, pointer: str) -> str:
        """A pointer into the row as one into the file, such as "/7/tiers"."""
        if self.flat and pointer.startswith("/price/"):
            pointer = "/" + pointer.split("/")[2]
        return f"/{self.number}{pointer.replace('/seller_id', '/seller') if self.flat else pointer}"


def read_rows(kind: Kind, content: str, *, format: Format, most: int = MAX_ROWS) -> list[Row]:
    """A file's rows. InvalidInput when it cannot be read, or names a column that there is not."""
    content = content.removeprefix("\ufeff")
    rows = list(_csv_rows(kind, content) if format == "csv" else _json_rows(kind, content))
    if not rows:
        raise InvalidInput("The file has no rows.", code="file_empty")
    if len(rows) > most:
        larger = "" if most == MAX_ROWS else f" here, and {MAX_ROWS:,} with the command contracts_import"
        raise InvalidInput(f"At most {most:,} rows at once{larger}.", code="limit_exceeded")
    return rows


def tiers_of(text: str) -> list[Json] | None:
    """ "10=2.00; *=1.20+500" as a price's tiers; None when it is not written so."""
    found = []
    for part in text.strip().rstrip(";").split(";"):
        match = _TIER.fullmatch(part)
        if match is None:
            return None
        up_to, rate, flat = match.groups()
        found.append({"up_to": None if up_to == "*" else up_to, "rate": rate, "flat_minor": int(flat or 0)})
    return found


def tiers_text(tiers: list[Json]) -> str:
    """A price's tiers as `tiers_of` reads them."""
    return "; ".join(
        f"{tier.get('up_to') or '*'}={tier['rate']}"
        + (f"+{tier['flat_minor']}" if tier.get("flat_minor") else "")
        for tier in tiers
    )


def cells(values: Mapping[str, str]) -> Json:
    """Texts by column as the values that they stand for."""
    return {name: _value(name, text.strip()) for name, text in values.items()}


def _csv_rows(kind: Kind, content: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True, restkey="", restval="")
    try:
        header = [name.strip() for name in reader.fieldnames or []]
        faults = [
            FieldError(f"/1/{name}", "unknown_column", f"Columns are {', '.join(COLUMNS[kind])}.")
            for name in header
            if name not in COLUMNS[kind]
        ]
        faults += [
            FieldError(f"/1/{name}", "column_repeated", "This column is there twice.")
            for name in sorted({name for name in header if header.count(name) > 1})
        ]
        if "code" not in header:
            faults.append(FieldError("/1/code", "column_missing", "Rows are known by their code."))
        if faults:
            raise InvalidInput(
                "The first line does not name the columns.", code="import_invalid", errors=faults
            )
        reader.fieldnames = header
        for row in reader:
            if row.pop("", None):
                fault = FieldError(f"/{reader.line_num}", "too_many_cells", "More cells than columns.")
                raise InvalidInput(fault.detail, code=fault.code, errors=[fault])
            if any(text.strip() for text in row.values()):
                yield Row(reader.line_num, cells(row), flat=True)
    except csv.Error as error:
        raise InvalidInput(f"Line {reader.line_num} is not CSV: {error}.", code="file_unreadable") from error


def _json_rows(kind: Kind, content: str) -> Iterator[Row]:
    try:
        data = json.loads(content)
        json.dumps(data, ensure_ascii=False).encode()  # refuses lone surrogates, which nothing can store
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The file is not JSON: {error}.", code="file_unreadable") from error
    rows = data.get(kind) if isinstance(data, dict) else data
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(f"A list of {kind} is expected.", code="file_unreadable")
    yield from (Row(number, row) for number, row in enumerate(rows, start=1))


def _value(name: str, text: str) -> Any:
    if not text:
        return _EMPTY.get(name, "")
    if name in _NUMBERS and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if name in ("active", "prorate_bounds"):
        return _TRUTHS.get(text.lower(), text)
    if name in _INSTANTS and _DATE.fullmatch(text):
        return f"{text}T00:00:00Z"
    return text
