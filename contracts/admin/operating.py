"""Every operation in two steps: fill in, see what it would do, confirm exactly that.

The form is made from the operation's payload. The preview writes nothing; the confirmation carries
the contract's version and a hash of what was seen, and a contract that has changed is shown again.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import messages
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console.base import ConsoleAdmin
from commerce.console.format import admin_url
from commerce.errors import CommerceError, VersionConflict
from commerce.logs import request_id
from contracts import services
from contracts.admin.choices import Offered
from contracts.admin.instants import edits_of
from contracts.admin.outlook import Outlook, outlook
from contracts.admin.payload_form import InstantField, Json, PayloadForm, payload_form
from contracts.admin.titles import STAGES
from contracts.admin.words import named_in, names_of
from contracts.models import Contract
from contracts.rules import schema
from contracts.rules.fold import NOTHING
from contracts.rules.operations import NAMES, REGISTRY
from contracts.rules.operations.base import Operation
from contracts.rules.platform import open_to_all
from contracts.rules.state import ContractState
from contracts.services import OperationRequest, drafts

TEMPLATE = "contracts/operation.html"
DANGEROUS = frozenset({"terminate", "transfer_ownership"})
# The instant follows from what it is about, so nobody is asked.
WITHOUT_INSTANT = frozenset({"correct", "renew"})
STALE = "The contract or what this would do has changed since you looked. This is what it would do now."


@dataclass(frozen=True)
class Action:
    """One button: an operation, with what the button itself already says of its payload."""

    name: str
    label: str
    operation: str
    fixed: Json = field(default_factory=dict)
    says: str = ""

    @property
    def rule(self) -> Operation[Any]:
        return REGISTRY[self.operation]

    @property
    def permission(self) -> str:
        return self.rule.permission

    @property
    def danger(self) -> bool:
        return self.operation in DANGEROUS

    def available(self, contract: Contract) -> str:
        """ "" or why it cannot be done now; to plan it for later or to record it late is still possible."""
        state = contract.current
        if state.status not in self.rule.allowed(_blank(self.rule.payload, self.fixed)):
            return f"Not possible while {state.status.replace('_', ' ')}."
        needs = {item.name for item in dataclasses.fields(self.rule.payload)}
        if "line_id" in needs and self.operation != "add_product" and not state.live_lines:
            return "No line is live."
        if self.operation == "resume" and not state.holds:
            return "No hold is open."
        if self.fixed.get("stage") in ("submit", "live") and not state.live_lines:
            return "It has no lines."
        return ""


class Envelope(forms.Form):
    """What every operation is recorded with."""

    effective_at = InstantField(
        required=False,
        label="Takes effect",
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"}),
        help_text="UTC; now when left empty. A later instant waits until it comes.",
    )
    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="Kept with the edit for good.",
    )
    version = forms.IntegerField(widget=forms.HiddenInput, required=False)
    key = forms.UUIDField(widget=forms.HiddenInput, required=False)
    seen = forms.CharField(widget=forms.HiddenInput, required=False)


def do_url(contract: Contract, name: str) -> str:
    """The address of an operation's form."""
    return reverse("admin:contracts_contract_do", args=[contract.pk, name])


def actions() -> Iterator[Action]:
    """Every operation a contract knows, the four stages of activation by their own names."""
    for name in NAMES:
        if name == "activate":
            for stage, (label, says) in STAGES.items():
                yield Action(stage, label, "activate", {"stage": stage}, says)
        elif name != "create" and name in REGISTRY:
            yield Action(name.replace("_", "-"), REGISTRY[name].label, name)


def operation_view(page: ConsoleAdmin, request: HttpRequest, contract: Contract, name: str) -> HttpResponse:
    """GET: the form. POST: preview, back to the form, into the batch, or confirm."""
    action = next((one for one in actions() if one.name == name), None)
    if action is None:
        raise Http404
    if not request.user.has_perm(action.permission):
        raise PermissionDenied
    return _Operating(page, request, contract, action).answer()


@dataclass
class _Operating:
    page: ConsoleAdmin
    request: HttpRequest
    contract: Contract
    action: Action
    seen: Outlook | None = None
    code: int = 200

    def answer(self) -> HttpResponse:
        self.actor = Actor.for_user(self.request.user, request_id.get())
        self.at = clock.now()
        self.state, self.pending = self._start()
        step = self.request.POST.get("step", "") if self.request.method == "POST" else ""
        asks_for_more = step == "rows" or (
            self._target() is not None and "replacing" not in self.request.POST
        )
        form = self._form(fresh=asks_for_more)
        if step in ("preview", "confirm", "batch") and not asks_for_more:
            if not form.is_valid():
                self.code = 422
            else:
                done = getattr(self, f"_{step}")(form, self._asked(form))
                if isinstance(done, HttpResponse):
                    return done
        return self._page(form)

    def _start(self) -> tuple[ContractState, int]:
        """The state that the form offers from: what the batch leaves, as far as it can be said."""
        drafted = drafts.operations_of(contract=self.contract, actor=self.actor)
        if not drafted or "batch" not in self.request.GET:
            return self.contract.current, len(drafted)
        try:
            found = services.preview_edits(
                contract_id=self.contract.pk,
                operations=drafted,
                actor=self.actor,
                at=self.at,
                expected_version=None,
            )
        except CommerceError:
            return self.contract.current, len(drafted)
        return found.planned[-1].after, len(drafted)

    def _form(self, *, fresh: bool = False) -> PayloadForm:
        """`fresh`: what was chosen so far leads to more fields, which begin with what they correct."""
        rule, target = self.action.rule, self._target()
        initial: Json = {}
        if target is not None:
            initial = {
                "target_seq": target.seq,
                "mode": "replace",
                "replacement": {
                    "payload": schema.dump(target.payload),
                    "effective_at": schema.instant(target.effective_at),
                },
            }
        offered = Offered(
            rule.name, self.contract, self.state, edits_of(self.contract), self.pending, target=target
        )
        posted = self.request.POST if self.request.method == "POST" else None
        form = payload_form(
            rule.payload, offered, initial=initial, fixed=self.action.fixed, base=Envelope,
            data=None if fresh else posted, entered=posted if fresh else None,
            more=self.request.POST.get("step") == "rows",
        )  # fmt: skip
        if self.action.operation in WITHOUT_INSTANT:
            del form.fields["effective_at"]
        form.initial.update(version=self.contract.version, key=uuid4())
        return form

    def _target(self) -> Any:
        """The edit that is to be replaced; only then are its own fields asked."""
        if self.action.operation != "correct" or self.request.POST.get("payload.mode") != "replace":
            return None
        chosen = self.request.POST.get("payload.target_seq", "")
        return next((edit for edit in edits_of(self.contract) if str(edit.seq) == chosen), None)

    def _asked(self, form: PayloadForm) -> OperationRequest:
        at = form.cleaned_data.get("effective_at")
        return OperationRequest(
            self.action.operation,
            form.payload(),
            datetime.fromisoformat(at) if at else None,
            form.cleaned_data["reason"],
        )

    def _preview(self, form: PayloadForm, asked: OperationRequest) -> None:
        try:
            self.seen = outlook(
                contract=self.contract,
                operations=[asked],
                actor=self.actor,
                at=self.at,
                expected_version=self.contract.version,
            )
        except (CommerceError, OperationalError) as caught:
            self._refused(form, caught)

    def _batch(self, form: PayloadForm, asked: OperationRequest) -> HttpResponse | None:
        try:
            schema.parse(self.action.rule.payload, asked.payload, pointer="/payload")
            drafts.add(contract=self.contract, request=asked, actor=self.actor)
        except CommerceError as error:
            self._refused(form, error)
            return None
        return HttpResponseRedirect(reverse("admin:contracts_contract_batch", args=[self.contract.pk]))

    def _confirm(self, form: PayloadForm, asked: OperationRequest) -> HttpResponse | None:
        try:
            told = confirm(
                contract=self.contract, operations=[asked], actor=self.actor, at=self.at,
                label=self.action.label, version=form.cleaned_data["version"],
                key=form.cleaned_data["key"], seen=form.cleaned_data["seen"],
            )  # fmt: skip
        except VersionConflict:
            self.contract.refresh_from_db()
            self._preview(form, asked)
            form.add_error(None, STALE)
            self.code = 409
            return None
        except (CommerceError, OperationalError) as caught:
            self._refused(form, caught)
            return None
        messages.success(self.request, told)
        return HttpResponseRedirect(admin_url(self.contract))

    def _refused(self, form: PayloadForm, caught: Exception) -> None:
        error, names = translate(caught), names_of(self.state)
        faults = [replace(fault, detail=named_in(fault.detail, names)) for fault in stripped(error.errors)]
        form.blame(faults, named_in(error.detail, names))
        self.code = error.status

    def _page(self, form: PayloadForm) -> HttpResponse:
        why_not = self.action.available(self.contract)
        again = _carried(self.request.POST, self.contract.version, self.seen) if self.seen else []
        context = {
            **self.page.admin_site.each_context(self.request),
            "title": self.action.label,
            "subtitle": str(self.contract),
            "opts": self.page.opts,
            "original": self.contract,
            "action": self.action,
            "why_not": why_not,
            "form": form,
            "outlook": self.seen,
            "carried": again,
            "replacing": self._target() is not None,
            "in_batch": "batch" in self.request.GET,
            "back": admin_url(self.contract),
        }
        return TemplateResponse(self.request, TEMPLATE, context, status=self.code)


def confirm(
    *,
    contract: Contract,
    operations: list[OperationRequest],
    actor: Actor,
    at: datetime,
    label: str,
    version: int | None,
    key: Any,
    seen: str,
) -> str:
    """Record what was seen, or ask a second person to agree; what happened, as a sentence.

    VersionConflict when the contract, or what this would do to it, is no longer what was seen.
    """
    with transaction.atomic():
        row = Contract.objects.select_for_update(of=("self",), no_key=True).get(pk=contract.pk)
        idempotency_key = f"console:{actor}:{key}"
        if row.edits.filter(idempotency_key=idempotency_key).exists():
            return f"{label}: recorded before."
        if version != row.version:
            raise VersionConflict(STALE)
        shown = outlook(contract=row, operations=operations, actor=actor, at=at, expected_version=row.version)
        if shown.seen != seen:
            raise VersionConflict(STALE)
        reason = next((asked.reason for asked in operations if asked.reason), "")
        if shown.approval:
            approval = services.request_edits(
                contract_id=row.pk, operations=operations, expected_version=row.version, actor=actor, at=at,
                reason=reason, key=f"console:{key}",
            )  # fmt: skip
            _noted(row, actor, f"{label}: asked for, {approval.pk}")
            return f"{label}: a second person has to agree; the request waits among the approvals."
        result = services.record_edits(
            contract_id=row.pk, operations=operations, actor=actor, at=at, idempotency_key=idempotency_key,
            expected_version=row.version,
        )  # fmt: skip
        _noted(row, actor, f"{label}: {reason}")
        seqs = [edit.seq for edit in result.edits]
        what = f"edit #{seqs[0]}" if len(seqs) == 1 else f"edits #{seqs[0]} to #{seqs[-1]}"
        return f"{label}: recorded as {what} of {row.number}."


def stripped(errors: Iterable[Any]) -> list[Any]:
    """Errors of a batch of one, pointing into the operation itself."""
    return [replace(error, pointer=error.pointer.removeprefix("/operations/0")) for error in errors]


def _noted(contract: Contract, actor: Actor, message: str, flag: int = CHANGE) -> None:
    LogEntry.objects.log_actions(
        user_id=actor.user.pk,
        queryset=[contract],
        action_flag=flag,
        change_message=message,
        single_object=True,
    )


def _carried(entered: QueryDict, version: int, seen: Outlook) -> list[tuple[str, str]]:
    """Everything that was entered, for the buttons under the preview to bring back."""
    fresh = {"step", "csrfmiddlewaretoken", "seen", "version"}
    kept = [(name, value) for name, values in entered.lists() if name not in fresh for value in values]
    return [*kept, ("version", str(version)), ("seen", seen.seen)]


def _blank(kind: Any, given: Json) -> Any:
    """A payload with what is given and its defaults: enough to ask in which statuses it is allowed."""
    values = {}
    for item in dataclasses.fields(kind):
        factory = item.default_factory
        default = factory() if factory is not dataclasses.MISSING else item.default
        values[item.name] = given.get(item.name, None if default is dataclasses.MISSING else default)
    return kind(**values)


def new_view(page: ConsoleAdmin, request: HttpRequest) -> HttpResponse:
    """A draft: parties, currency, term and terms; its lines are added on its own page."""
    rule = REGISTRY["create"]
    if not request.user.has_perm(rule.permission):
        raise PermissionDenied
    actor, at, status = Actor.for_user(request.user, request_id.get()), clock.now(), 200
    offered = Offered("create", None, NOTHING)
    form = payload_form(
        rule.payload, offered, data=request.POST if request.method == "POST" else None,
        initial={"terms": open_to_all(services.platform_terms(at))},
        without=frozenset({"lines"}), base=Envelope,
    )  # fmt: skip
    del form.fields["effective_at"]
    form.initial["key"] = uuid4()
    if request.method == "POST" and form.is_valid():
        try:
            with transaction.atomic():
                made = services.create_contract(
                    payload=form.payload(), actor=actor, at=at, reason=form.cleaned_data["reason"],
                    idempotency_key=f"console:{form.cleaned_data['key']}",
                )  # fmt: skip
                if not made.replayed:
                    _noted(made.contract, actor, "Created as a draft.", ADDITION)
        except (CommerceError, OperationalError) as caught:
            error = translate(caught)
            form.blame([replace(one, pointer=f"/payload{one.pointer}") for one in error.errors], error.detail)
            status = error.status
        else:
            messages.success(request, f"{made.contract.number} is a draft. Add its lines next.")
            return HttpResponseRedirect(admin_url(made.contract))
    elif request.method == "POST":
        status = 422
    context = {
        **page.admin_site.each_context(request),
        "title": "New contract",
        "opts": page.opts,
        "form": form,
        "back": reverse("admin:contracts_contract_changelist"),
        "creating": True,
    }
    return TemplateResponse(request, TEMPLATE, context, status=status)
