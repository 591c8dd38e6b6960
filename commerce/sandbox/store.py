"""Tables of JSON objects in memory, behind a journal that survives kill -9.

A commit appends one line with every row it changed; opening replays the lines, drops a torn last one
and compacts. Rows are replaced, never edited in place, so that a rollback only puts old rows back.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

Row = dict[str, Any]


class Store:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "journal.jsonl"
        self._tables: dict[str, dict[str, Row]] = {}
        self._undo: dict[tuple[str, str], Row | None] = {}
        self._replay()
        self._journal: TextIO = self._compact()

    def get(self, table: str, key: str) -> Row | None:
        return self._tables.get(table, {}).get(key)

    def rows(self, table: str) -> list[Row]:
        """Every row, oldest first: a replaced row keeps its place."""
        return list(self._tables.get(table, {}).values())

    def table(self, name: str) -> dict[str, Row]:
        return self._tables.get(name, {})

    def put(self, table: str, row: Row, key: str = "") -> Row:
        key = key or row["id"]
        rows = self._tables.setdefault(table, {})
        self._undo.setdefault((table, key), rows.get(key))
        rows[key] = row
        return row

    def patch(self, table: str, key: str, **changes: Any) -> Row:
        return self.put(table, {**self._tables[table][key], **changes}, key)

    def remove(self, table: str, key: str) -> None:
        row = self._tables.get(table, {}).pop(key, None)
        if row is not None:
            self._undo.setdefault((table, key), row)

    def count(self, name: str) -> int:
        """The next number of a counter, from 1."""
        number = (self.get("counter", name) or {"value": 0})["value"] + 1
        self.put("counter", {"value": number}, name)
        return int(number)

    def commit(self) -> None:
        if not self._undo:
            return
        changes = [[table, key, self.get(table, key)] for table, key in self._undo]
        self._journal.write(json.dumps(changes, separators=(",", ":")) + "\n")
        self._journal.flush()
        self._undo.clear()

    def rollback(self) -> None:
        for (table, key), row in self._undo.items():
            if row is None:
                self._tables[table].pop(key, None)
            else:
                self._tables.setdefault(table, {})[key] = row
        self._undo.clear()

    def clear(self, keep: tuple[str, ...] = ()) -> None:
        self._undo.clear()
        self._tables = {name: rows for name, rows in self._tables.items() if name in keep}
        self._journal.close()
        self._journal = self._compact()

    def close(self) -> None:
        self._journal.close()

    def _replay(self) -> None:
        for changes in self._lines():
            for table, key, row in changes:
                if row is None:
                    self._tables.get(table, {}).pop(key, None)
                else:
                    self._tables.setdefault(table, {})[key] = row

    def _lines(self) -> Iterator[list[tuple[str, str, Row | None]]]:
        if not self.path.exists():
            return
        with self.path.open() as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)

    def _compact(self) -> TextIO:
        draft = self.path.with_suffix(".draft")
        with draft.open("w") as out:
            for table, rows in self._tables.items():
                for key, row in rows.items():
                    out.write(json.dumps([[table, key, row]], separators=(",", ":")) + "\n")
        os.replace(draft, self.path)
        return self.path.open("a")
