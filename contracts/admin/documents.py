"""A contract's document in the console: a page to print, and the same as PDF."""

from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from commerce.console.as_of import asked_instants
from commerce.console.base import ConsoleAdmin
from commerce.console.format import admin_url
from commerce.errors import NotFound
from contracts.models import Contract
from contracts.rules.document import Document
from contracts.services import documents


def links_of(request: HttpRequest, contract: Contract) -> list[dict[str, str]]:
    """The page and the PDF, as of the instants that are shown."""
    return [
        {"title": title, "url": _url(request, name, contract)}
        for title, name in (("Document", "document"), ("PDF", "pdf"))
    ]


def document_view(page: ConsoleAdmin, request: HttpRequest, contract: Contract) -> HttpResponse:
    found = _document(request, contract)
    context: dict[str, Any] = {
        **page.admin_site.each_context(request),
        "title": "Document",
        "subtitle": str(contract),
        "opts": page.opts,
        "original": contract,
        "document": found,
        "as_of": documents.as_of(found),
        "pdf": _url(request, "pdf", contract),
        "back": admin_url(contract),
        "asked": asked_instants(request),
    }
    return TemplateResponse(request, "contracts/document.html", context)


def pdf_view(request: HttpRequest, contract: Contract) -> HttpResponse:
    found = _document(request, contract)
    name = f"{found.number}-{found.sha256[:8]}.pdf"
    return HttpResponse(
        documents.as_pdf(found),
        content_type="application/pdf",
        headers={"Content-Disposition": f'inline; filename="{name}"', "X-Content-SHA256": found.sha256},
    )


def _document(request: HttpRequest, contract: Contract) -> Document:
    asked = asked_instants(request)
    try:
        return documents.contract_document(
            contract=contract, valid_at=asked.get("valid_at"), known_at=asked.get("known_at")
        )
    except NotFound as error:
        raise Http404(str(error)) from error


def _url(request: HttpRequest, name: str, contract: Contract) -> str:
    asked = {key: at.isoformat() for key, at in asked_instants(request).items()}
    query = f"?{urlencode(asked)}" if asked else ""
    return reverse(f"admin:contracts_contract_{name}", args=[contract.pk]) + query
