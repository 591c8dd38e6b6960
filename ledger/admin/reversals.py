"""Asking for a reversal on a transaction's page: what would be taken back, leg by leg, to be lowered."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from commerce.console.actions import ObjectAction
from commerce.errors import InvalidInput
from commerce.money import Money
from ledger import services
from ledger.models import LedgerTransaction


class AmountField(forms.RegexField):
    """A decimal amount in one currency; empty is none."""

    def __init__(self, currency: str, **kwargs: Any) -> None:
        self.currency = currency
        super().__init__(
            r"^[0-9]{1,16}(\.[0-9]{1,6})?$",
            required=False,
            widget=UnfoldAdminTextInputWidget,
            error_messages={"invalid": "An amount such as 1250.00 is expected."},
            **kwargs,
        )

    def clean(self, value: Any) -> Money:
        try:
            return Money.parse(super().clean(value) or "0", self.currency)
        except InvalidInput as error:
            raise forms.ValidationError(error.detail) from error


def reversal_action(transaction: LedgerTransaction) -> ObjectAction:
    """The button of one transaction, with a field per leg, named by its account.

    Only the whole can be taken back where an account was both debited and credited.
    """
    left = services.left_to_reverse(transaction)
    fields = {
        str(leg.account.pk): AmountField(
            leg.amount.currency,
            initial=leg.amount.decimal or None,
            label=f"{leg.side.capitalize()} {leg.account}",
            help_text=f"{leg.amount} is left; empty takes back nothing here.",
        )
        for leg in left
    }
    if len(fields) < len(left):
        fields = {}
    return ObjectAction(
        "reverse",
        "Request reversal",
        permission="ledger.request_reversal",
        run=_request,
        form=type("PartsForm", (forms.Form,), fields),
        available=services.why_not_reverse,
        consequences=_means,
        danger=True,
    )


def _request(*, obj: LedgerTransaction, actor: Any, at: Any, reason: str, **amounts: Money) -> str:
    parts = [services.Part(int(account), amount) for account, amount in amounts.items() if amount.minor]
    services.request_reversal(
        transaction=obj, parts=parts if amounts else None, reason=reason, actor=actor, at=at
    )
    return "Requested. It is posted when a second person approves it."


def _means(transaction: LedgerTransaction) -> str:
    left = [leg for leg in services.left_to_reverse(transaction) if leg.amount.minor]
    return (
        "Nothing is posted until a second person approves it. Lower amounts take back a part; "
        f"debits and credits must balance.\n\n{services.reversal_in_words(transaction, left)}"
    )
