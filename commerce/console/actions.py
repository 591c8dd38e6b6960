"""Object actions: the only way an operator changes anything.

GET shows what would happen, in words and numbers, and changes nothing. POST needs CSRF, the
permission, a reason, and the fingerprint of what the operator saw; it runs one service in one
transaction, and a failed rule comes back as a sentence on the same page.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.db.models import Model
from unfold.widgets import UnfoldAdminTextareaWidget

from commerce import clock
from commerce.actor import Actor
from commerce.errors import StateConflict, VersionConflict


class ShownOnce(str):
    """What an action returns for the operator's eyes: it goes into no cookie, as messages do, and no log."""


@dataclass(frozen=True)
class ObjectAction:
    """A button on an object's page.

    `run(*, obj, actor, at, reason, **form_data)` calls the service; a string it returns is shown, a
    `ShownOnce` in the answer itself.
    `available(obj)` is "" or why not; `consequences(obj)` says what will happen, numbers included.
    """

    name: str
    label: str
    permission: str
    run: Callable[..., Any]
    form: type[forms.Form] | None = None
    available: Callable[[Any], str] = lambda obj: ""
    consequences: Callable[[Any], str] = lambda obj: ""
    danger: bool = False
    reason_required: bool = True

    def build_form(self, data: Any = None, *, obj: Model | None = None) -> forms.Form:
        """The action's own fields, then the reason and the hidden fingerprint."""
        base = self.form or forms.Form
        kind = type(f"{self.name.title()}ActionForm", (ConfirmationFields, base), {})
        form = kind(data, initial={"fingerprint": fingerprint(obj)} if obj else None)
        form.fields["reason"].required = self.reason_required
        form.order_fields([*base.base_fields, "reason", "fingerprint"])
        return form

    def execute(self, obj: Model, *, actor: Actor, form: forms.Form) -> Any:
        """Lock, compare with what was seen, run, log; all or nothing. Raises CommerceError."""
        data = dict(form.cleaned_data)
        seen, reason = data.pop("fingerprint"), data.pop("reason")
        actor.require(self.permission)
        with transaction.atomic():
            rows = type(obj)._default_manager.select_for_update(of=("self",), no_key=True)
            row = rows.get(pk=obj.pk)
            if fingerprint(row) != seen:
                raise VersionConflict("This changed while you were looking. Check it again, then confirm.")
            if why_not := self.available(row):
                raise StateConflict(why_not)
            result = self.run(obj=row, actor=actor, at=clock.now(), reason=reason, **data)
            LogEntry.objects.log_actions(
                user_id=actor.user.pk,
                queryset=[row],
                action_flag=CHANGE,
                change_message=f"{self.label}: {reason}",
                single_object=True,
            )
            return result


class ConfirmationFields(forms.Form):
    """What every action asks: why, and proof of what was on the screen."""

    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="Kept in the audit log.",
    )
    fingerprint = forms.CharField(widget=forms.HiddenInput)


def fingerprint(obj: Model | None) -> str:
    """A hash over every column of the row."""
    if obj is None:
        return ""
    columns = {field.attname: field.value_to_string(obj) for field in obj._meta.concrete_fields}
    return hashlib.sha256(json.dumps(columns, sort_keys=True, cls=DjangoJSONEncoder).encode()).hexdigest()
