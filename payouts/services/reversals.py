"""What of payouts' nobody reverses in the ledger: payouts and settlements depend on these postings."""

from ledger.services import register_reversal_veto

_ON_ITS_WAY = (
    "A payout is on its way by this. Until it is sent it can be cancelled on the payout's page, which makes "
    "its money payable again; after that the bank says what becomes of it. What the bank does not know can "
    "be given up there."
)
_PAID = (
    "The bank has paid this payout. When the money comes back, the payout is returned by itself; "
    "the payout's page shows it."
)
_CAME_BACK = (
    "The money of a payout that was not paid is payable again by this. Request a new payout on the page "
    "of the payee's policy."
)
_RELEASED = (
    "A settlement counts this as released to its payee. To keep it from being paid out, set the payee's "
    "policy to on request, on the policy's page."
)

for _recipe, _sentence in (
    ("request_payout", _ON_ITS_WAY),
    ("confirm_payout", _PAID),
    ("fail_payout", _CAME_BACK),
    ("return_payout", _CAME_BACK),
):
    register_reversal_veto(recipe=_recipe, source="payout", sentence=_sentence)
register_reversal_veto(recipe="release", source="ledger_release", sentence=_RELEASED)
