"""Verbs of the contracts app."""

from contracts.services.catalog import ensure_product
from contracts.services.edits import (
    EditResult,
    Preview,
    contract_edits,
    create_contract,
    preview_edit,
    record_edit,
    register_activation_guard,
    resume_contract,
    suspend_contract,
)
from contracts.services.projection import Rebuilt, rebuild_contract, take_effect, take_effect_due, verify_log

__all__ = [
    "EditResult",
    "Preview",
    "Rebuilt",
    "contract_edits",
    "create_contract",
    "ensure_product",
    "preview_edit",
    "rebuild_contract",
    "record_edit",
    "register_activation_guard",
    "resume_contract",
    "suspend_contract",
    "take_effect",
    "take_effect_due",
    "verify_log",
]
