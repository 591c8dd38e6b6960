"""Contracts as documents: as of any two instants, as data for pages and as PDF."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from xml.sax.saxutils import escape

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table

from commerce.errors import NotFound
from commerce.parties.models import Organization
from contracts.models import Contract
from contracts.rules import document, fold
from contracts.rules.document import Document, Section
from contracts.rules.state import ContractState
from contracts.rules.visibility import Viewer, last_instant, shown
from contracts.services.projection import load_edits

_INK, _QUIET, _LINE = colors.HexColor("#18212f"), colors.HexColor("#5b6675"), colors.HexColor("#d5dae1")
_TITLE = ParagraphStyle("title", fontName="Helvetica-Bold", fontSize=18, leading=23, textColor=_INK)
_HEADING = ParagraphStyle(
    "heading", fontName="Helvetica-Bold", fontSize=11, leading=15, spaceBefore=12, textColor=_INK
)
_CELL = ParagraphStyle("cell", fontName="Helvetica", fontSize=8.5, leading=11.5, textColor=_INK)
_HEAD = ParagraphStyle("head", parent=_CELL, fontName="Helvetica-Bold", textColor=_QUIET)
_WIDTH = A4[0] - 40 * mm


def contract_document(
    *,
    contract: Contract,
    valid_at: datetime | None = None,
    known_at: datetime | None = None,
    viewer: Viewer = "platform",
) -> Document:
    """The contract as it stood at `valid_at` (as it is shown, or as a party left it, when absent), as known
    at `known_at`.

    A party sees its own part and its hash: that of the whole would let it guess at the rest until the
    digests agree. NotFound when there was none then.
    """
    state = contract.current
    valid_at = valid_at or last_instant(state, viewer)
    if valid_at or known_at:
        valid_at = valid_at or contract.projected_at
        state = fold.fold(load_edits(contract.pk), valid_at=valid_at, known_at=known_at)
    body = shown(state, viewer) if state.exists else None
    if body is None:
        raise NotFound("The contract did not exist at that instant, or was not known.")
    return Document(
        number=contract.number,
        title=f"Contract {contract.number}",
        status=state.status,
        sections=list(document.sections(body, _names(state))),
        sha256=document.hash_of(body),
        valid_at=valid_at or contract.projected_at,
        known_at=known_at,
        version=state.version,
    )


def as_pdf(found: Document) -> bytes:
    """The document on A4 pages, its hash on each; the same document is the same file, byte for byte.

    The fonts that every reader has know Western scripts; what they lack is a question mark here, and
    right on the page in the console.
    """
    out = io.BytesIO()
    pages = SimpleDocTemplate(
        out, pagesize=A4, leftMargin=20 * mm, rightMargin=20 * mm, topMargin=20 * mm, bottomMargin=24 * mm,
        title=found.title, author="", subject=found.sha256, invariant=1,
    )  # fmt: skip

    def footer(canvas: object, page: SimpleDocTemplate) -> None:
        _footer(canvas, page, found)

    pages.build(list(_story(found)), onFirstPage=footer, onLaterPages=footer)
    return out.getvalue()


def _names(state: ContractState) -> dict[UUID, str]:
    parties = {state.buyer_id, *state.seller_ids}
    if partner := state.terms.settlement.partner_id:
        parties.add(partner)
    return dict(Organization.objects.filter(pk__in=parties).values_list("pk", "name"))


def _story(found: Document) -> Iterator[object]:
    yield Paragraph(_text(found.title), _TITLE)
    yield Paragraph(_text(f"Status: {found.status.replace('_', ' ')}. {as_of(found)}"), _CELL)
    for section in found.sections:
        yield KeepTogether([Paragraph(_text(section.title), _HEADING), Spacer(1, 2 * mm), _table(section)])
        if section.note:
            yield Paragraph(_text(section.note), _CELL)


def _table(section: Section) -> Table:
    rows = [[Paragraph(_text(cell), _CELL) for cell in row] for row in section.rows]
    if section.columns:
        rows.insert(0, [Paragraph(_text(name), _HEAD) for name in section.columns])
    widths = _widths(section) if section.columns else [_WIDTH * 0.3, _WIDTH * 0.7]
    style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE),
    ]
    return Table(
        rows or [[Paragraph("–", _CELL)]],
        colWidths=widths if rows else None,
        style=style,
        hAlign="LEFT",
        repeatRows=1 if section.columns else 0,
        splitInRow=1,
    )


def _widths(section: Section) -> list[float]:
    """Columns by their longest text, none so narrow or so wide that the others suffer."""
    longest = [max(map(len, column)) for column in zip(section.columns, *section.rows, strict=True)]
    weights = [min(max(count, 12), 36) for count in longest]
    return [_WIDTH * weight / sum(weights) for weight in weights]


def _footer(canvas: object, page: SimpleDocTemplate, found: Document) -> None:
    draw: Any = canvas
    draw.saveState()
    draw.setFont("Helvetica", 7)
    draw.setFillColor(_QUIET)
    draw.drawString(20 * mm, 14 * mm, f"SHA-256 of what is agreed: {found.sha256}")
    draw.drawString(20 * mm, 10 * mm, as_of(found))
    draw.drawRightString(A4[0] - 20 * mm, 10 * mm, f"{found.number}, page {page.page}")
    draw.restoreState()


def as_of(found: Document) -> str:
    """When it was so, and when it was known to be so."""
    known = f"as known {_moment(found.known_at)}" if found.known_at else "as known now"
    return f"Version {found.version}, as of {_moment(found.valid_at)}, {known}."


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(said: str) -> str:
    return escape(said.encode("cp1252", "replace").decode("cp1252"))
