"""Payment methods: what a contract is paid with is the buyer's own, and the provider has accepted it."""

from collections.abc import Sequence
from typing import Any

from commerce.errors import InvalidInput
from commerce.parties.models import ProviderReference
from contracts.services.admission import Planned


def require_own_method(*, planned: Sequence[Planned], **_: Any) -> None:
    """InvalidInput (method_not_owned) when an edit names a method that the buyer does not have.

    A method is an account of the buyer's at a provider, named by our reference to it.
    """
    for plan in planned:
        reference = plan.after.terms.payment.method_ref
        if reference is None or reference == plan.before.terms.payment.method_ref:
            continue
        own = ProviderReference.objects.filter(
            organization_id=plan.after.buyer_id, kind="external_account", reference=reference, status="active"
        )
        if not own.exists():
            where = "/terms/payment" if plan.edit.operation == "create" else "/payload/payment"
            raise InvalidInput(
                f"The buyer has no payment method {reference!r} that can be used.",
                pointer=f"{where}/method_ref",
                code="method_not_owned",
            )
