"""Files of rows in CSV, XLSX and JSON lines: written one row at a time, safe to open in a spreadsheet.

A text that a spreadsheet could take for a formula stays a text: behind an apostrophe in CSV, as a
typed string in XLSX. Amounts are numbers everywhere, with the digits of their currency. A file ends
with the totals per currency; without that end it is not whole.
"""

import csv
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from xlsxwriter import Workbook

from commerce.money import Money, exponent

# currency -> column -> minor units; plain integers, for a sum may outgrow what one amount may be.
Totals = Mapping[str, Mapping[str, int]]
Row = Sequence[Any]
XLSX_ROWS, XLSX_TEXT = 1_048_576, 32_767
CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "jsonl": "application/x-ndjson",
}


@dataclass(frozen=True)
class Column:
    """A column's name in the field's terms. `total`: its amounts are summed per currency."""

    name: str
    total: bool = False

    @property
    def label(self) -> str:
        first, *others = ("ID" if word == "id" else word for word in self.name.split("_"))
        return " ".join([first[0].upper() + first[1:], *others])


class Text(Protocol):
    """Whatever takes text."""

    def write(self, text: str, /) -> Any: ...


class Writer(Protocol):
    """Takes rows in the order of the columns, then the totals."""

    def row(self, values: Row) -> None: ...

    def end(self, rows: int, totals: Totals) -> None: ...


def unformula(text: str) -> str:
    """`text` with an apostrophe in front if a spreadsheet could calculate it."""
    first = text.lstrip(" \u00a0\ufeff\u200b")[:1]
    if first and (first in "\t\r\n\0" or unicodedata.normalize("NFKC", first)[0] in "=+-@"):
        return f"'{text}"
    return text


def decimal(minor: int, currency: str) -> Decimal:
    return Decimal(minor).scaleb(-exponent(currency))


class CsvWriter:
    """RFC 4180 in UTF-8, with a byte order mark, without which Excel takes another encoding; texts quoted."""

    def __init__(self, columns: Sequence[Column], stream: Text) -> None:
        self._columns = columns
        stream.write("\ufeff")
        self._out = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        self._out.writerow([column.label for column in columns])

    def row(self, values: Row) -> None:
        self._out.writerow([_csv_cell(value) for value in values])

    def end(self, rows: int, totals: Totals) -> None:
        for currency, sums in sorted(totals.items()):
            shown: dict[str, Any] = {name: decimal(minor, currency) for name, minor in sums.items()}
            shown |= {self._columns[0].name: "Total", "currency": currency}
            self._out.writerow([shown.get(column.name, "") for column in self._columns])


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        return unformula(value)
    if isinstance(value, Money):
        return value.decimal
    if isinstance(value, int):
        return value
    return "" if value is None else _text(value)


class JsonlWriter:
    """One object a line, money as in the API; the last line is `{"rows": …, "totals": […]}`."""

    def __init__(self, columns: Sequence[Column], stream: Text) -> None:
        self._names = [column.name for column in columns]
        self._stream = stream

    def row(self, values: Row) -> None:
        self._line(dict(zip(self._names, map(_json_value, values), strict=True)))

    def end(self, rows: int, totals: Totals) -> None:
        sums = [
            {name: _json_money(minor, currency) for name, minor in sums.items()} | {"currency": currency}
            for currency, sums in sorted(totals.items())
        ]
        self._line({"rows": rows, "totals": sums})

    def _line(self, data: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    return _json_money(value.minor, value.currency) if isinstance(value, Money) else _text(value)


def _json_money(minor: int, currency: str) -> dict[str, Any]:
    return {"amount_minor": minor, "currency": currency}


class XlsxWriter:
    """Sheets of typed cells, continued on the next when one is full, and a last sheet with the totals."""

    def __init__(self, columns: Sequence[Column], book: Workbook) -> None:
        self._columns, self._book = columns, book
        self._bold = book.add_format({"bold": True})
        self._instant = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss.000"})
        self._amounts: dict[str, Any] = {}
        self._sheets, self._line = 0, XLSX_ROWS

    def row(self, values: Row) -> None:
        if self._line >= XLSX_ROWS:
            self._next_sheet()
        for number, value in enumerate(values):
            if value is not None:
                self._cell(self._line, number, value)
        self._line += 1

    def end(self, rows: int, totals: Totals) -> None:
        if not self._sheets:
            self._next_sheet()
        summed = [column for column in self._columns if column.total]
        self._sheet = self._book.add_worksheet("Totals")
        for number, label in enumerate(["Currency", *(column.label for column in summed), "Rows"]):
            self._sheet.write_string(0, number, label, self._bold)
        self._sheet.set_column(0, len(summed) + 1, 20)
        for line, (currency, sums) in enumerate(sorted(totals.items()), start=1):
            self._cell(line, 0, currency)
            for number, column in enumerate(summed, start=1):
                self._amount(line, number, sums[column.name], currency)
        self._cell(len(totals) + 1, len(summed) + 1, rows)

    def _next_sheet(self) -> None:
        self._sheets += 1
        self._sheet = self._book.add_worksheet("Rows" if self._sheets == 1 else f"Rows {self._sheets}")
        self._sheet.set_column(0, len(self._columns) - 1, 20)
        self._sheet.freeze_panes(1, 0)
        for number, column in enumerate(self._columns):
            utc = " (UTC)" if column.name.endswith("_at") else ""
            self._sheet.write_string(0, number, column.label + utc, self._bold)
        self._line = 1

    def _cell(self, line: int, number: int, value: Any) -> None:
        if isinstance(value, Money):
            self._amount(line, number, value.minor, value.currency)
        elif isinstance(value, int):
            self._sheet.write_number(line, number, value)
        elif isinstance(value, datetime):
            naive = value.astimezone(UTC).replace(tzinfo=None)
            self._sheet.write_datetime(line, number, naive, self._instant)
        else:
            text = _text(value)
            short = text if len(text) <= XLSX_TEXT else text[: XLSX_TEXT - 1] + "…"
            self._sheet.write_string(line, number, short)

    def _amount(self, line: int, number: int, minor: int, currency: str) -> None:
        style = self._amounts.get(currency)
        if style is None:
            digits = exponent(currency)
            style = self._book.add_format({"num_format": "#,##0" + ("." + "0" * digits if digits else "")})
            self._amounts[currency] = style
        self._sheet.write_number(line, number, decimal(minor, currency), style)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str | UUID):
        return str(value)
    raise TypeError(f"No cell is made of {type(value).__name__}.")


def stream_writer(format: str, columns: Sequence[Column], stream: Text) -> Writer:
    """A writer of one of the formats that are text."""
    return CsvWriter(columns, stream) if format == "csv" else JsonlWriter(columns, stream)


@contextmanager
def file_writer(format: str, columns: Sequence[Column], path: Path) -> Iterator[Writer]:
    """A writer to `path`, readable by us alone. A workbook spreads its parts beside it until it is whole."""
    path.touch(mode=0o600)
    if format == "xlsx":
        book = Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
        book.use_zip64()
        yield XlsxWriter(columns, book)
        with book:  # leaving it packs the file; a failure above leaves nothing to pack
            pass
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield stream_writer(format, columns, stream)
