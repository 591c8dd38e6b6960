"""Verbs of the contracts app."""

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
from contracts.services.previews import Preview, preview_edit, preview_edits
from contracts.services.projection import Rebuilt, rebuild_contract, take_effect, take_effect_due, verify_log
from contracts.services.terms import platform_terms, preview_platform_terms, request_platform_terms

__all__ = [
    "BatchResult",
    "EditResult",
    "OperationRequest",
    "Preview",
    "Rebuilt",
    "contract_edits",
    "create_contract",
    "ensure_product",
    "platform_terms",
    "preview_edit",
    "preview_edits",
    "preview_platform_terms",
    "rebuild_contract",
    "record_edit",
    "record_edits",
    "register_activation_guard",
    "register_edit_hook",
    "request_edits",
    "request_platform_terms",
    "resume_contract",
    "suspend_contract",
    "take_effect",
    "take_effect_due",
    "verify_log",
]
