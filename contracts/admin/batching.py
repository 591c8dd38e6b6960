"""The batch editor: operations for one contract, put in order, seen together, recorded all or none."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console.base import ConsoleAdmin
from commerce.console.format import admin_url
from commerce.errors import CommerceError, VersionConflict
from commerce.logs import request_id
from contracts.admin.operating import STALE, actions, confirm, do_url
from contracts.admin.outlook import Outlook, outlook
from contracts.admin.titles import title_of
from contracts.admin.words import named_in, names_of, payload_in_words
from contracts.models import Contract
from contracts.rules import schema
from contracts.rules.operations import named
from contracts.services import OperationRequest, drafts

MOVES = {"up": -1, "down": 1}


@dataclass(frozen=True)
class Row:
    """One collected operation as the editor shows it."""

    place: int
    title: str
    says: Any
    asked: OperationRequest
    errors: list[str]
    is_last: bool


def batch_view(page: ConsoleAdmin, request: HttpRequest, contract: Contract) -> HttpResponse:
    """GET: the draft and what it would do. POST: reorder, remove, empty, or confirm what was seen."""
    if not request.user.has_perm("contracts.edit_contract"):
        raise PermissionDenied
    actor = Actor.for_user(request.user, request_id.get())
    status, problem = 200, ""
    if request.method == "POST":
        try:
            done = _changed(request, contract, actor)
        except VersionConflict:
            status, problem = 409, STALE
        except (CommerceError, OperationalError) as caught:
            error = translate(caught)
            status, problem = error.status, str(error)
        else:
            return done
    operations = drafts.operations_of(contract=contract, actor=actor)
    seen, refusal = _seen(contract, operations, actor)
    context = {
        **page.admin_site.each_context(request),
        "title": "Batch",
        "subtitle": str(contract),
        "opts": page.opts,
        "original": contract,
        "rows": _rows(contract, operations, refusal),
        "problem": problem,
        "refusal": named_in(str(refusal), names_of(contract.current)) if refusal else "",
        "outlook": seen,
        "key": uuid4(),
        "actions": [
            (action.label, f"{do_url(contract, action.name)}?batch=1")
            for action in actions()
            if request.user.has_perm(action.permission)
        ],
        "back": admin_url(contract),
    }
    return TemplateResponse(request, "contracts/batch.html", context, status=status)


def _changed(request: HttpRequest, contract: Contract, actor: Actor) -> HttpResponse:
    step, _, place = request.POST.get("step", "").partition("-")
    if step == "confirm":
        told = _confirmed(request, contract, actor)
        messages.success(request, told)
        return HttpResponseRedirect(admin_url(contract))
    if step in MOVES and (at := _number(place)) is not None:
        drafts.move(contract=contract, place=at, by=MOVES[step], actor=actor)
    elif step == "remove" and (at := _number(place)) is not None:
        drafts.remove(contract=contract, place=at, actor=actor)
    elif step == "empty":
        drafts.clear(contract=contract, actor=actor)
    return HttpResponseRedirect(request.path)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


@transaction.atomic
def _confirmed(request: HttpRequest, contract: Contract, actor: Actor) -> str:
    reason = request.POST.get("reason", "").strip()[:500]
    operations = [
        OperationRequest(asked.operation, asked.payload, asked.effective_at, asked.reason or reason)
        for asked in drafts.operations_of(contract=contract, actor=actor)
    ]
    told = confirm(
        contract=contract, operations=operations, actor=actor, at=clock.now(), label="Batch",
        version=_number(request.POST.get("version", "")), key=request.POST.get("key", ""),
        seen=request.POST.get("seen", ""),
    )  # fmt: skip
    drafts.clear(contract=contract, actor=actor)
    return told


def _seen(
    contract: Contract, operations: list[OperationRequest], actor: Actor
) -> tuple[Outlook | None, CommerceError | None]:
    if not operations:
        return None, None
    try:
        seen = outlook(
            contract=contract,
            operations=operations,
            actor=actor,
            at=clock.now(),
            expected_version=contract.version,
        )
    except (CommerceError, OperationalError) as caught:
        return None, translate(caught)
    return seen, None


def _rows(contract: Contract, operations: list[OperationRequest], refusal: CommerceError | None) -> list[Row]:
    names = names_of(contract.current)
    found = []
    for place, asked in enumerate(operations):
        mine = f"/operations/{place}/"
        errors = [
            named_in(error.detail, names)
            for error in (refusal.errors if refusal else [])
            if error.pointer.startswith(mine)
        ]
        found.append(
            Row(
                place,
                title_of(asked.operation, schema.parse(named(asked.operation).payload, asked.payload)),
                payload_in_words(dict(asked.payload), names, contract.currency),
                asked,
                errors,
                place == len(operations) - 1,
            )
        )
    return found
