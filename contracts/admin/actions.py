"""Every operation as an action with its form; what is not possible now says why."""

from collections.abc import Callable
from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from commerce.console.actions import ObjectAction
from commerce.ids import uuid7
from commerce.money import Money
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract, Product
from contracts.rules import pricing, schema
from contracts.rules.operations import REGISTRY
from contracts.rules.state import ContractState, LineState

STAGES = {
    "submit": ("Submit", "The lines are final and go out for signature."),
    "withdraw": ("Withdraw", "Back to a draft; signatures are void and the lines may change again."),
    "signed": (
        "Signed",
        "All parties have signed. The wallet sets the downpayment and the first period aside.",
    ),
    "live": ("Go live", "Service and billing begin."),
}
HOLD_REASONS = [
    ("buyer", "the buyer asked"), ("abuse", "abuse"), ("seller_fault", "the seller's fault"),
    ("maintenance", "maintenance"), ("legal", "legal"), ("non_payment", "non-payment"),
]  # fmt: skip
CAUSES = [
    ("convenience", "convenience"), ("mutual", "mutual agreement"), ("breach_buyer", "breach by the buyer"),
    ("breach_seller", "breach by the seller"), ("non_payment", "non-payment"), ("duplicate", "duplicate"),
]  # fmt: skip


def _effective_at() -> forms.SplitDateTimeField:
    return forms.SplitDateTimeField(
        required=False,
        widget=UnfoldAdminSplitDateTimeWidget,
        help_text="UTC; now when left empty. A later instant waits until it comes.",
    )


class StageForm(forms.Form):
    effective_at = _effective_at()


class AddProductForm(forms.Form):
    product = forms.ModelChoiceField(
        Product.objects.filter(active=True).order_by("name"),
        to_field_name="code",
        widget=UnfoldAdminSelectWidget,
    )
    seller = forms.ModelChoiceField(
        Organization.objects.filter(roles__contains=["seller"]),
        to_field_name="slug",
        widget=UnfoldAdminTextInputWidget,
        help_text="The seller's short name, as in its address.",
    )
    quantity = forms.IntegerField(min_value=1, initial=1, widget=UnfoldAdminIntegerFieldWidget)
    rate = forms.DecimalField(
        min_value=0,
        max_digits=20,
        decimal_places=12,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="Price per unit, in the contract's currency.",
    )
    effective_at = _effective_at()


class TerminateForm(forms.Form):
    when = forms.ChoiceField(
        choices=[("immediate", "now"), ("end_of_period", "at the end of the billing period")],
        widget=UnfoldAdminSelectWidget,
    )
    cause = forms.ChoiceField(choices=CAUSES, widget=UnfoldAdminSelectWidget)


class SuspendForm(forms.Form):
    hold = forms.ChoiceField(label="Because of", choices=HOLD_REASONS, widget=UnfoldAdminSelectWidget)
    billing = forms.ChoiceField(
        choices=[("continue", "goes on"), ("stop", "stops until it is resumed")],
        widget=UnfoldAdminSelectWidget,
    )
    effective_at = _effective_at()


def title_of(operation: str, payload: Any) -> str:
    """What an edit did, in a word or two; `payload` is the operation's dataclass."""
    return STAGES[payload.stage][0] if operation == "activate" else REGISTRY[operation].label


def actions_of(contract: Contract) -> list[ObjectAction]:
    """The actions of one contract: forms offer its own lines and holds."""
    return [
        *(_activate(stage, label, says) for stage, (label, says) in STAGES.items()),
        _action(
            "add-product", "Add product", "add_product", _add_product, form=AddProductForm,
            consequences=lambda obj: f"A new line from the instant you choose. {_expected(obj)}",
        ),
        _action(
            "change-quantity", "Change quantity", "change_quantity", _change_quantity,
            form=_line_form(
                contract, "recurring",
                quantity=forms.IntegerField(min_value=0, widget=UnfoldAdminIntegerFieldWidget),
            ),
            blocked=lambda state: "" if _lines(state, "recurring") else "No line with a quantity.",
            consequences=lambda obj: f"The period is billed by the days of each quantity. {_expected(obj)}",
        ),
        _action(
            "remove-product", "Remove product", "remove_product", _remove_product,
            form=_line_form(
                contract,
                when=forms.ChoiceField(
                    choices=[("immediate", "now"), ("end_of_period", "at the end of the billing period")],
                    widget=UnfoldAdminSelectWidget,
                ),
            ),
            blocked=lambda state: "" if state.live_lines else "No line is live.",
            consequences=lambda obj: f"The line ends; what it earned until then is billed. {_expected(obj)}",
        ),
        _action(
            "suspend", "Suspend", "suspend", _suspend, form=SuspendForm,
            consequences=lambda obj: (
                "Access is blocked. Term, commitment and invoices run on; holds for other reasons nest."
            ),
        ),
        _action(
            "resume", "Resume", "resume", _resume, form=_resume_form(contract),
            blocked=lambda state: "" if state.holds else "No hold is open.",
            consequences=_resume_consequences,
        ),
        _action(
            "terminate", "Terminate", "terminate", _terminate, form=TerminateForm, danger=True,
            consequences=lambda obj: (
                "The contract ends for good. What was used is billed; money already set aside returns."
            ),
        ),
    ]  # fmt: skip


def _action(
    name: str,
    label: str,
    operation: str,
    payload: Callable[..., dict[str, Any]],
    *,
    blocked: Callable[[ContractState], str] = lambda state: "",
    **more: Any,
) -> ObjectAction:
    op = REGISTRY[operation]
    probe = more.pop("probe", None)

    def run(*, obj: Contract, actor: Any, at: Any, reason: str, **data: Any) -> str:
        effective_at = data.pop("effective_at", None)
        result = services.record_edit(
            contract_id=obj.pk,
            operation=operation,
            payload=payload(**data),
            actor=actor,
            at=at,
            idempotency_key=f"console:{name}:{obj.version}",
            expected_version=obj.version,
            effective_at=effective_at,
            reason=reason,
        )
        return f"{label}: recorded as edit #{result.edit.seq} of {result.contract.number}."

    def available(obj: Contract) -> str:
        if obj.status not in op.allowed(probe):
            return f"Not possible while {obj.status.replace('_', ' ')}."
        return blocked(obj.current)

    return ObjectAction(name, label, permission=op.permission, run=run, available=available, **more)


def _activate(stage: str, label: str, says: str) -> ObjectAction:
    operation = REGISTRY["activate"]
    return _action(
        stage,
        label,
        "activate",
        lambda: {"stage": stage},
        form=StageForm,
        probe=operation.payload(stage),
        blocked=lambda state: (
            "" if state.live_lines or stage in ("withdraw", "signed") else "It has no lines."
        ),
        consequences=lambda obj: f"{says} {_expected(obj)}",
    )


def _line_form(contract: Contract, kind: str = "", **fields: forms.Field) -> type[forms.Form]:
    choices = [
        (
            str(line.line_id),
            f"{line.quantity} × {line.product_code} at {line.price.rate} {line.price.currency}",
        )
        for line in _lines(contract.current, kind)
    ]
    line = forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget)
    return type("LineForm", (forms.Form,), {"line": line, **fields, "effective_at": _effective_at()})


def _resume_form(contract: Contract) -> type[forms.Form]:
    names = dict(HOLD_REASONS)
    choices = [(hold.reason, names[hold.reason]) for hold in contract.current.holds]
    hold = forms.ChoiceField(
        label="Lift the hold because of", choices=choices, widget=UnfoldAdminSelectWidget
    )
    return type("ResumeForm", (forms.Form,), {"hold": hold, "effective_at": _effective_at()})


def _resume_consequences(obj: Contract) -> str:
    others = len(obj.current.holds) - 1
    return f"{others} other holds stay." if others > 0 else "The contract is active again."


def _lines(state: ContractState, kind: str = "") -> list[LineState]:
    return [line for line in state.live_lines if not kind or line.kind == kind]


def _expected(obj: Contract) -> str:
    """What a full period of the contract as it stands comes to."""
    state = obj.current
    full = pricing.billing_period(state.billing.anchor_day, obj.start_at, obj.projected_at)
    net, tax = pricing.expected_period_total(state, full)
    total, part = Money(net, state.currency), Money(tax, state.currency)
    return f"As it stands, the period comes to {total} plus {part} tax, usage apart."


def _add_product(*, product: Product, seller: Organization, quantity: int, rate: Any) -> dict[str, Any]:
    return {
        "line_id": str(uuid7()),
        "product": product.code,
        "seller_id": str(seller.pk),
        "quantity": quantity,
        "price": {"model": "unit", "rate": schema.dump(rate)},
    }


def _change_quantity(*, line: str, quantity: int) -> dict[str, Any]:
    return {"line_id": line, "quantity": quantity}


def _remove_product(*, line: str, when: str) -> dict[str, Any]:
    return {"line_id": line, "when": when}


def _suspend(*, hold: str, billing: str) -> dict[str, Any]:
    return {"reason": hold, "billing": billing}


def _resume(*, hold: str) -> dict[str, Any]:
    return {"reason": hold}


def _terminate(*, when: str, cause: str) -> dict[str, Any]:
    return {"when": when, "cause": cause}
