"""What happens in a crash run: what is only counted here, what is ordered at the bank too, and what goes
to the handlers that do it wrong."""

from dataclasses import dataclass

from commerce.outbox.catalog import event

AGGREGATE = "crash"
TOLD, ORDERED, MISHANDLED = "crash.told", "crash.ordered", "crash.mishandled"


@dataclass(frozen=True)
class Happened:
    amount_minor: int


for _name, _summary in (
    (TOLD, "Counted in the database."),
    (ORDERED, "Counted in the database and paid by the bank."),
    (MISHANDLED, "Handled in ways that lose it or do it twice."),
):
    event(_name, Happened, aggregate=AGGREGATE, summary=_summary, example={"amount_minor": 100})
