"""The events of providers' webhooks: hints that an object changed, one stream per object."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from commerce.outbox.catalog import event


@dataclass(frozen=True)
class Hint:
    """Nothing of it is believed but which object to fetch."""

    provider: str
    object_id: Annotated[str, "the provider's"]
    delivery_id: Annotated[str, "the webhook's, the same for every repetition"]
    event: Annotated[str, "what the provider says happened"]


def hint(provider: str, kind: str, said: str, example_id: str) -> None:
    event(
        f"{provider}.{kind}_changed",
        Hint,
        aggregate=f"{provider}.{kind}",
        summary="A webhook says that it changed; the handler fetches it.",
        example={
            "provider": provider,
            "object_id": example_id,
            "delivery_id": "01956f1c-3c00-7000-8000-00000000aa01",
            "event": said,
        },
    )


treasury = partial(hint, "modern_treasury", example_id="01956f1c-3c00-7000-8000-000000006001")

treasury("payment_order", "completed")
treasury("incoming_payment", "created")
treasury("return", "completed")
hint("openmeter", "invoice", "invoice.updated", "01K3Z9V6J3W0V8QFZ5T2M4N7XA")
