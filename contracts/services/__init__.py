"""Verbs of the contracts app."""

from contracts.services.bills import desired, register_usage_source
from contracts.services.catalog import ensure_product
from contracts.services.edit_approvals import request_edits
from contracts.services.edits import (
    BatchResult,
    EditResult,
    OperationRequest,
    contract_edits,
    create_contract,
    record_edit,
    record_edits,
    register_activation_guard,
    register_edit_hook,
    resume_contract,
    suspend_contract,
)
from contracts.services.methods import require_own_method
from contracts.services.offers import create_offer, publish_offer, revise_offer, set_capacity, withdraw_offer
from contracts.services.previews import Preview, preview_edit, preview_edits
from contracts.services.projection import Rebuilt, rebuild_contract, take_effect, take_effect_due, verify_log
from contracts.services.renewals import register_renewal_guard
from contracts.services.reservations import (
    hold_for_edit,
    refit_reservations,
    release_expired_holds,
    release_hold,
)
from contracts.services.schedule import replan_contract, retry_command, run_due, skip_command
from contracts.services.service_placing import ServiceReport
from contracts.services.service_reading import line_service, require_service, service_at, service_now, uptime
from contracts.services.service_status import (
    Recorded,
    follow_clock,
    follow_contract,
    rebuild_service,
    record_service_events,
)
from contracts.services.terms import platform_terms, preview_platform_terms, request_platform_terms

__all__ = [
    "BatchResult",
    "EditResult",
    "OperationRequest",
    "Preview",
    "Rebuilt",
    "Recorded",
    "ServiceReport",
    "contract_edits",
    "create_contract",
    "create_offer",
    "desired",
    "ensure_product",
    "follow_clock",
    "follow_contract",
    "hold_for_edit",
    "line_service",
    "platform_terms",
    "preview_edit",
    "preview_edits",
    "preview_platform_terms",
    "publish_offer",
    "rebuild_contract",
    "rebuild_service",
    "record_edit",
    "record_edits",
    "record_service_events",
    "refit_reservations",
    "register_activation_guard",
    "register_edit_hook",
    "register_renewal_guard",
    "register_usage_source",
    "release_expired_holds",
    "release_hold",
    "replan_contract",
    "request_edits",
    "request_platform_terms",
    "require_own_method",
    "require_service",
    "resume_contract",
    "retry_command",
    "revise_offer",
    "run_due",
    "service_at",
    "service_now",
    "set_capacity",
    "skip_command",
    "suspend_contract",
    "take_effect",
    "take_effect_due",
    "uptime",
    "verify_log",
    "withdraw_offer",
]
