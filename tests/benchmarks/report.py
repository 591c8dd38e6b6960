"""What a benchmark says: rows of ours beside a peer's, each judged by its target, as a table or JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound for `ours`, or for `ratio` = ours / peer; `lower` is better where time is measured."""

    bound: float
    of: str = "ratio"
    lower: bool = False

    def __str__(self) -> str:
        return f"{self.of} {'≤' if self.lower else '≥'} {self.bound:,g}"

    def met(self, value: float | None) -> bool:
        return value is not None and (value <= self.bound if self.lower else value >= self.bound)


@dataclass(frozen=True)
class Row:
    """Medians of the rounds. A row without a target is there to compare with."""

    name: str
    unit: str
    ours: float | None
    peer_name: str = ""
    peer: float | None = None
    target: Target | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def met(self) -> bool | None:
        return (
            self.target.met(self.ratio if self.target.of == "ratio" else self.ours) if self.target else None
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": _rounded(self.ours),
            "peer_name": self.peer_name,
            "peer": _rounded(self.peer),
            "ratio": _rounded(self.ratio),
            "target": str(self.target) if self.target else None,
            "met": self.met,
            **self.details,
        }


def compared(
    name: str,
    unit: str,
    ours: Sequence[float],
    peer_name: str,
    peer: Sequence[float],
    target: Target | None = None,
) -> Row:
    """A row from the figures of every round."""
    details = {"rounds": [_rounded(x) for x in ours], "peer_rounds": [_rounded(x) for x in peer]}
    return Row(name, unit, statistics.median(ours), peer_name, statistics.median(peer), target, details)


def table(rows: Sequence[Row]) -> str:
    heads = ("", "ours", "peer", "", "ratio", "target", "met")
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    right = {1, 2, 4}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{_text(row.ours)} {row.unit}",
        _text(row.peer) if row.peer_name else "",
        row.peer_name,
        f"{row.ratio:,.2f}" if row.ratio is not None else "",
        str(row.target) if row.target else "",
        {True: "yes", False: "NO", None: ""}[row.met],
    )


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
