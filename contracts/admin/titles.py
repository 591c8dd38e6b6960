"""Operations by name, as people say them."""

from typing import Any

from contracts.rules.operations import REGISTRY

STAGES = {
    "submit": ("Submit", "The lines are final and go out for signature."),
    "withdraw": ("Withdraw", "Back to a draft; signatures are void and the lines may change again."),
    "signed": (
        "Signed",
        "All parties have signed. The wallet sets the downpayment and the first period aside.",
    ),
    "live": ("Go live", "Service and billing begin."),
}


def title_of(operation: str, payload: Any) -> str:
    """What an edit did, in a word or two; `payload` is the operation's dataclass."""
    if operation == "activate":
        return STAGES[payload.stage][0]
    if operation == "correct":
        return f"{payload.mode.capitalize()} #{payload.target_seq}"
    return REGISTRY[operation].label
