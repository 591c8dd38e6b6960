"""Contracts listen to nobody; their events are open to other apps and to integrations."""

from commerce.outbox import external

EVENTS = (
    "contract.created",
    "contract.submitted",
    "contract.withdrawn",
    "contract.signed",
    "contract.activated",
    "contract.product_added",
    "contract.product_removed",
    "contract.quantity_changed",
    "contract.suspended",
    "contract.resumed",
    "contract.terminated",
    "contract.cancelled",
    "contract.expired",
    "contract.took_effect",
)

external(*EVENTS)
