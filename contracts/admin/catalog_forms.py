"""The catalogue's own forms: an offer, its next version, and a file with what it would change."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import OperationalError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldBooleanSwitchWidget

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import admin_url, badge
from commerce.errors import CommerceError, FieldError, InvalidInput, VersionConflict
from commerce.logs import request_id
from commerce.money import CURRENCIES
from contracts import services
from contracts.admin.choices import Offered
from contracts.admin.payload_form import PayloadForm, payload_form
from contracts.models import Offer
from contracts.rules.fold import NOTHING
from contracts.rules.offers import NewOffer, OfferTerms
from contracts.rules.state import digest, evolve
from contracts.services.catalog_files import COLUMNS, MAX_ROWS_IN_A_REQUEST, Format, Kind, read_rows
from contracts.services.catalog_import import Imported, import_catalogue, preview_import
from contracts.services.offers import as_json

EDIT = "contracts.edit_offer"
LARGEST_FILE = 600_000
ROWS_SHOWN = 500
_FIRST = ("seller_id", "code", "product", "currency", "capacity")
_EMPTIED = {"valid_to": None, "min_term_months": None, "sla_policy": "", "tax_code": "", "terms": ""}


@dataclass(frozen=True)
class Button:
    """What an object's page needs of an action whose page is its own."""

    name: str
    label: str
    permission: str
    available: Callable[[Any], str]
    danger: bool = False


def edit_view(
    page: ConsoleAdmin, request: HttpRequest, offer: Offer | None, why_not: str = ""
) -> HttpResponse:
    """The form of a new offer, or of an offer's next version; either is a draft."""
    more = request.POST.get("step") == "rows"
    form = _offer_form(request, offer, more)
    status = 200
    if request.method == "POST" and not more and not why_not:
        status = 422
        if form.is_valid():
            try:
                made = _save(request, offer, form.payload())
            except (CommerceError, OperationalError) as caught:
                error = translate(caught)
                form.blame(
                    [replace(fault, pointer=f"/payload{fault.pointer}") for fault in error.errors],
                    error.detail,
                )
                status = error.status
            else:
                messages.success(request, f"{made} is a draft: publish it when it is right.")
                return HttpResponseRedirect(admin_url(made))
    context = {
        **page.admin_site.each_context(request),
        "title": f"Revise {offer}" if offer else "New offer",
        "opts": page.opts,
        "original": offer,
        "why_not": why_not,
        "form": form,
        "submit": "Make the next version" if offer else "Make the offer",
        "about": "It is a draft until it is published. Lines that were sold keep their price.",
        "back": admin_url(offer) if offer else reverse("admin:contracts_offer_changelist"),
    }
    return TemplateResponse(request, "contracts/offer_form.html", context, status=status)


def _offer_form(request: HttpRequest, offer: Offer | None, more: bool) -> PayloadForm:
    posted = request.POST if request.method == "POST" else None
    currency = posted.get("payload.currency", "") if posted else offer.currency if offer else ""
    offered = Offered("offer", None, evolve(NOTHING, currency=currency if currency in CURRENCIES else ""))
    form = payload_form(
        OfferTerms if offer else NewOffer,
        offered,
        initial=as_json(offer) if offer else None,
        data=None if more else posted,
        entered=posted if more else None,
        more=more,
    )
    children = form.tree.children
    for name in reversed([name for name in _FIRST if name in children]):
        first = {name: children.pop(name)}
        rest = dict(children)
        children.clear()
        children.update(first | rest)
    return form


def _save(request: HttpRequest, offer: Offer | None, payload: dict[str, Any]) -> Offer:
    actor, at = Actor.for_user(request.user, request_id.get()), clock.now()
    with transaction.atomic():
        if offer is None:
            made = services.create_offer(payload=payload, actor=actor, at=at)
        else:
            changes = _EMPTIED | payload
            made = services.revise_offer(offer_id=offer.pk, changes=changes, actor=actor, at=at)
        LogEntry.objects.log_actions(
            user_id=actor.user.pk,
            queryset=[made],
            action_flag=ADDITION,
            change_message=f"Version {made.version}",
            single_object=True,
        )
    return made


class FileForm(forms.Form):
    file = forms.FileField(
        widget=UnfoldAdminFileFieldWidget, help_text="CSV or JSON, by its name; at most 600 KB."
    )
    publish = forms.BooleanField(
        required=False, widget=UnfoldBooleanSwitchWidget, help_text="Publish new offers and new versions."
    )

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        if file.size > LARGEST_FILE:
            raise forms.ValidationError("The file is larger than 600 KB; the command takes larger ones.")
        if file.name.rpartition(".")[2].lower() not in ("csv", "json"):
            raise forms.ValidationError("The file's name ends neither in .csv nor in .json.")
        return file


class ConfirmForm(forms.Form):
    """The file as it was looked at, and the digest of what was shown of it."""

    content = forms.CharField(widget=forms.HiddenInput)
    format = forms.ChoiceField(choices=[("csv", "csv"), ("json", "json")], widget=forms.HiddenInput)
    publish = forms.BooleanField(required=False, widget=forms.HiddenInput)
    seen = forms.CharField(widget=forms.HiddenInput)


def import_view(page: ConsoleAdmin, request: HttpRequest, kind: str) -> HttpResponse:
    """The file, then what it would change, then the import of just that: three steps under one address."""
    back = reverse(f"admin:contracts_{page.opts.model_name}_changelist")
    context: dict[str, Any] = {
        **page.admin_site.each_context(request),
        "title": f"Import {kind}",
        "opts": page.opts,
        "columns": ", ".join(COLUMNS[kind]),
        "back": back,
        "form": _file_form(kind),
    }
    status = 200
    try:
        if request.POST.get("step") == "confirm":
            counts = _confirmed(page, request, cast(Kind, kind))
            messages.success(request, f"Imported: {counts}.")
            return HttpResponseRedirect(back)
        if request.method == "POST":
            context["form"] = form = _file_form(kind, request)
            status = 422
            if form.is_valid():
                context |= _previewed(request, cast(Kind, kind), form)
                status = 200
    except (CommerceError, OperationalError) as caught:
        error = translate(caught)
        context |= {"refused": error.detail, "faults": _faults(error.errors)}
        status = error.status
    return TemplateResponse(request, "contracts/catalogue_import.html", context, status=status)


def _file_form(kind: str, request: HttpRequest | None = None) -> FileForm:
    form = FileForm(request.POST, request.FILES) if request else FileForm()
    if kind != "offers":
        del form.fields["publish"]
    return form


def _previewed(request: HttpRequest, kind: Kind, form: FileForm) -> dict[str, Any]:
    file, publish = form.cleaned_data["file"], form.cleaned_data.get("publish", False)
    format_: Format = file.name.rpartition(".")[2].lower()
    content = file.read()
    found = preview_import(**_asked(request, kind, content, format_, publish))
    carried = {
        "content": base64.b64encode(content).decode(),
        "format": format_,
        "publish": publish,
        "seen": digest(found.to_json()),
    }
    return {
        "preview": _shown(found),
        "counts": _in_words(found),
        "nothing": found.counts["unchanged"] == len(found.changes),
        "confirm": ConfirmForm(initial=carried),
        "file": file.name,
    }


def _confirmed(page: ConsoleAdmin, request: HttpRequest, kind: Kind) -> str:
    form = ConfirmForm(request.POST)
    if not form.is_valid():
        raise InvalidInput("Choose the file again.", code="file_unreadable")
    data = form.cleaned_data
    try:
        content = base64.b64decode(data["content"], validate=True)
    except binascii.Error as error:
        raise InvalidInput("Choose the file again.", code="file_unreadable") from error
    asked = _asked(request, kind, content, data["format"], data["publish"])
    with transaction.atomic():
        done = import_catalogue(**asked)
        if digest(done.to_json()) != data["seen"]:
            raise VersionConflict("The catalogue changed while you were looking. Look at the file again.")
        LogEntry.objects.create(
            user_id=asked["actor"].user.pk,
            content_type=ContentType.objects.get_for_model(page.model),
            object_repr=f"Import of {kind}",
            action_flag=CHANGE,
            change_message=_in_words(done),
        )
    return _in_words(done)


def _asked(request: HttpRequest, kind: Kind, content: bytes, format: Format, publish: bool) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("The file is not UTF-8 text.", code="file_unreadable") from error
    return {
        "kind": kind,
        "rows": read_rows(kind, text, format=format, most=MAX_ROWS_IN_A_REQUEST),
        "actor": Actor.for_user(request.user, request_id.get()),
        "at": clock.now(),
        "publish": publish,
    }


def _shown(found: Imported) -> SafeString:
    changes = [change for change in found.changes if change.what != "unchanged"]
    rows = [
        (
            change.row,
            f"{change.seller} {change.code}".strip(),
            badge(change.what, "good" if change.what == "added" else "warn"),
            ", ".join(name.replace("_", " ") for name in change.fields) or "—",
            f"version {change.version}{', published' if change.published else ''}" if change.version else "—",
        )
        for change in changes[:ROWS_SHOWN]
    ]
    return table([">Row", "What", "Is", "Changes", "Leads to"], rows, empty="Everything is so already.")


def _in_words(found: Imported) -> str:
    return ", ".join(f"{count} {what}" for what, count in found.counts.items())


def _faults(errors: list[FieldError]) -> SafeString:
    rows = []
    for fault in errors[:ROWS_SHOWN]:
        row, _, column = fault.pointer.lstrip("/").partition("/")
        rows.append((row, column or "—", fault.detail))
    return table([">Row", "Column", "Fault"], rows, empty="") if rows else SafeString()
