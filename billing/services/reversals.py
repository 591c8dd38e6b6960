"""What of billing's nobody reverses in the ledger: its own rows depend on these postings."""

from ledger.services import register_reversal_veto

_SET_ASIDE = (
    "A billing account counts what is set aside for its contract. It goes back by itself when the contract "
    "is settled or signed anew with other lines."
)
_RECEIVED = (
    "A pay-in counts as received by this. It is taken back by itself when the bank returns the payment; "
    "the pay-in's page shows it."
)
_RETURNED = "The bank has taken this pay-in back. Only a new payment funds the wallet again."
_COLLECTED = (
    "An invoice counts as paid by this, and its settlement divides the money. A paid invoice is not unmade "
    "in the ledger; what has not been released to a payee can be held on the settlement's page."
)

for _recipe in ("commit", "uncommit"):
    register_reversal_veto(recipe=_recipe, sentence=_SET_ASIDE)
for _recipe in ("fund_wallet", "fund_owing_wallet", "unapplied_deposit"):
    register_reversal_veto(recipe=_recipe, source="pay_in", sentence=_RECEIVED)
for _recipe in ("return_pay_in", "return_spent_pay_in"):
    register_reversal_veto(recipe=_recipe, source="pay_in", sentence=_RETURNED)
register_reversal_veto(recipe="collect", source="invoice", sentence=_COLLECTED)
