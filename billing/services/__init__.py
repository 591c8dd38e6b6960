"""The verbs of billing, one module a subject."""

from billing.services.collection import collect_for_buyer, collect_invoice, spend_what_was_given_back
from billing.services.drift import Drift, check_drift, check_due_drift, request_sync, resync
from billing.services.dunning import check_due_accounts, follow_contract, refresh_status
from billing.services.invoices import (
    confirm_invoice,
    poll_invoices,
    refresh_invoice,
    report_overdue,
    report_paid,
)
from billing.services.pay_ins import poll_incoming_payments, refresh_incoming_payment
from billing.services.prepayments import follow_prepayment, moves_prepayment
from billing.services.subscriptions import follow_service, sync_subscription
from billing.services.usage import accept_usage, forward_usage, metered
from billing.services.verification import accept_invoice
from billing.services.wallet import account_at, open_account, require_downpayment, set_aside, top_up

__all__ = [
    "Drift",
    "accept_invoice",
    "accept_usage",
    "account_at",
    "check_drift",
    "check_due_accounts",
    "check_due_drift",
    "collect_for_buyer",
    "collect_invoice",
    "confirm_invoice",
    "follow_contract",
    "follow_prepayment",
    "follow_service",
    "forward_usage",
    "metered",
    "moves_prepayment",
    "open_account",
    "poll_incoming_payments",
    "poll_invoices",
    "refresh_incoming_payment",
    "refresh_invoice",
    "refresh_status",
    "report_overdue",
    "report_paid",
    "request_sync",
    "require_downpayment",
    "resync",
    "set_aside",
    "spend_what_was_given_back",
    "sync_subscription",
    "top_up",
]
