"""A contract as a document: its hash is of what was agreed, and stays while it is signed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.urls import reverse

from contracts.models import Contract
from contracts.rules.document import content_hash
from contracts.services.documents import _widths, as_pdf, contract_document
from tests.contracts.conftest import MARCH, Parties, create, edit
from tests.contracts.console.conftest import act, preview

pytestmark = pytest.mark.django_db


def test_the_hash_stays_while_the_document_is_signed_and_changes_with_what_is_agreed(
    draft: Contract, servers: UUID
) -> None:
    hashes = [content_hash(draft.current)]
    for stage in ("submit", "signed", "live"):
        draft = edit(draft, "activate", {"stage": stage}).contract
        hashes.append(content_hash(draft.current))
    assert len(set(hashes)) == 1
    after = edit(draft, "suspend", {"reason": "maintenance"}).contract
    assert content_hash(after.current) == hashes[0]
    edit(draft, "resume", {"reason": "maintenance"}, at=MARCH + timedelta(days=1))
    changed = edit(draft, "change_quantity", {"line_id": str(servers), "quantity": 3}).contract
    assert content_hash(changed.current) != hashes[0]


def test_who_signs_in_the_console_signs_that_very_document(
    browser: Callable[[str], Client], draft: Contract, parties: Parties
) -> None:
    draft = edit(draft, "activate", {"stage": "submit"}).contract
    sha256 = content_hash(draft.current)
    first = {
        "signatures.0.party": str(parties.buyer.pk), "signatures.0.name": "A. Buyer",
        "signatures.0.at": "2027-03-01T00:00:00", "signatures.0.doc_sha256": sha256,
        "signatures.1.party": str(parties.seller.pk), "signatures.1.name": "N. Seller",
        "signatures.1.at": "2027-03-01T00:00:00", "signatures.1.doc_sha256": sha256,
    }  # fmt: skip
    operator = browser("operator")
    forged = preview(operator, draft, "signed", **first | {"signatures.1.doc_sha256": "0" * 64})
    assert forged.status_code == 422
    assert act(operator, draft, "signed", **first).status_code == 302
    draft.refresh_from_db()
    assert [one.doc_sha256 for one in draft.current.signatures] == [sha256, sha256]


def test_a_document_says_what_was_agreed_at_its_instants(active: Contract, servers: UUID) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 7}, at=MARCH + timedelta(days=3))
    active.refresh_from_db()
    now, then = contract_document(contract=active), contract_document(contract=active, valid_at=MARCH)
    rows = {section.title: section.rows for section in now.sections}
    assert ("Buyer", "Acme") in rows["Parties"]
    assert any(row[0] == "h100-server" and row[2] == "7" for row in rows["Services"])
    assert now.sha256 != then.sha256
    assert then.sha256 == contract_document(contract=active, valid_at=MARCH).sha256


def test_a_seller_reads_its_own_lines_under_a_hash_of_their_own(active: Contract, parties: Parties) -> None:
    whole = contract_document(contract=active)
    mine = contract_document(contract=active, viewer=parties.seller.pk)
    assert mine.sha256 != whole.sha256
    titles = [section.title for section in mine.sections]
    assert "Payment" not in titles
    assert "Bridge" not in str(mine.sections)


def test_the_pdf_is_the_same_file_twice_and_holds_its_hash(active: Contract) -> None:
    found = contract_document(contract=active)
    first = as_pdf(found)
    assert first == as_pdf(found)
    assert first.startswith(b"%PDF-")
    assert found.sha256.encode() in first


def test_a_price_of_many_tiers_runs_over_pages(payload: dict[str, Any]) -> None:
    tiers = [{"up_to": str(one), "rate": "1.5", "flat_minor": 100} for one in range(1, 100)]
    payload["lines"][1]["price"] = {"model": "graduated", "tiers": [*tiers, {"up_to": None, "rate": "1"}]}
    assert as_pdf(contract_document(contract=create(payload).contract)).count(b"/Type /Page\n") > 2


def test_page_and_pdf_are_for_whoever_may_see_the_contract(
    browser: Callable[[str], Client], active: Contract
) -> None:
    page, pdf = (
        reverse(f"admin:contracts_contract_{name}", args=[active.pk]) for name in ("document", "pdf")
    )
    viewer = browser("viewer")
    found = contract_document(contract=active)
    text = viewer.get(page).content.decode()
    assert found.sha256 in text
    assert "18,000.00 USD / server-month" in text
    file: Any = viewer.get(pdf)
    assert (file["Content-Type"], file.content[:5]) == ("application/pdf", b"%PDF-")
    assert found.sha256[:8] in file["Content-Disposition"]
    assert viewer.get(f"{page}?valid_at=2020-01-01T00:00").status_code == 404
    assert Client().get(pdf).status_code == 302
    assert browser("admin").get(pdf).status_code == 403


def test_a_long_price_gets_more_of_the_page_than_a_quantity(active: Contract) -> None:
    services = next(one for one in contract_document(contract=active).sections if one.title == "Services")
    row = [*services.rows[0]]
    row[3] = "graduated, up to 100: 2.50 USD, above: 2.00 USD, 10 included / device-hour"
    widths = dict(zip(services.columns, _widths(replace(services, rows=[row])), strict=True))
    assert widths["Price"] > 2 * widths["Quantity"]
    assert min(widths.values()) > 45, "wide enough for a date"
    assert sum(widths.values()) == pytest.approx(sum(_widths(services)))
