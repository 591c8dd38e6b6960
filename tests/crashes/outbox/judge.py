"""What should have happened, what did, and the difference, for each group.

Events are what the database says was committed; effects in the database are rows, effects at the bank
are what the simulator lists, in the order in which they came about.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import close_old_connections
from django.utils import timezone

from commerce import roles
from commerce.invariants import REGISTRY
from commerce.outbox.models import Circuit, OutboxEvent, OutboxFailure, OutboxStream
from commerce.outbox.registry import types_of
from payouts.models import Payout
from tests.crashes.outbox.events import AGGREGATE
from tests.crashes.outbox.handlers import BANK, BATCH, CURSOR_FIRST, FRESH_KEY, LOCAL
from tests.crashes.outbox.models import Delivery, Effect

Key = tuple[str, int]
PAYOUTS = "payouts.modern_treasury"
WRONGS = ("lost", "doubled", "disordered", "invented")
SOUND, CONTROLS = (LOCAL, BATCH, BANK, PAYOUTS), (FRESH_KEY, CURSOR_FIRST)


@dataclass
class Verdict:
    """One group: how many events had their effect, and which did not have it once and in their turn."""

    effects: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)


def judge(effects_at_bank: dict[str, Any]) -> dict[str, Verdict]:
    """Call it when nothing is left to drain."""
    happened = _happened(effects_at_bank)
    verdicts = {
        group: _compare(_wanted(group), happened.pop(group, [])) for group in (LOCAL, BATCH, BANK, *CONTROLS)
    }
    payouts = {(str(name), 0) for name in Payout.objects.values_list("external_id", flat=True)}
    orders = [(reference, 0) for group in happened for reference, _ in happened[group]]
    return {**verdicts, PAYOUTS: _compare(payouts, orders)}


def forgotten(answers: Iterable[Path]) -> list[str]:
    """What a writer was told is committed, and is not in the database."""
    told = {line for path in answers for line in path.read_text().splitlines()}
    columns = ("type", "aggregate_id", "sequence")
    events = OutboxEvent.objects.filter(aggregate_type=AGGREGATE).values_list(*columns)
    kept = {"/".join(map(str, event)) for event in events}
    kept |= {f"payout/{name}" for name in Payout.objects.values_list("external_id", flat=True)}
    return sorted(told - kept)


def unsettled() -> dict[str, int]:
    """What the relay still has before it."""
    close_old_connections()
    return {
        "unpublished": OutboxEvent.objects.filter(published_at__isnull=True).count(),
        "due": OutboxStream.objects.filter(due_at__isnull=False).count(),
    }


def parked() -> list[str]:
    return [f"{row}: {row.parked_reason}" for row in OutboxStream.objects.filter(parked_at__isnull=False)]


def failures() -> dict[str, int]:
    """Deliveries that the relay noted as failed, by the beginning of their error."""
    errors = Counter(
        error.partition(",")[0] for error in OutboxFailure.objects.values_list("error", flat=True)
    )
    return dict(errors.most_common(12))


def circuits() -> list[dict[str, Any]]:
    return [
        {"lane": row.lane, "open": row.open_until is not None, "trips": row.trips, "error": row.last_error}
        for row in Circuit.objects.all()
    ]


def deliveries() -> dict[str, int]:
    """To the bank, and how many of them found their order there."""
    return {"all": Delivery.objects.count(), "found": Delivery.objects.filter(found=True).count()}


def findings() -> list[str]:
    """What `manage.py verify` says, whatever the application may not read."""
    with roles.owner():
        return [f"{inv.code} {found.subject}: {found.detail}" for inv in REGISTRY for found in inv.check()]


def counted() -> int:
    """Grows with every local effect."""
    close_old_connections()
    return _last(Effect)


def marks() -> dict[str, int]:
    """How far local effects and deliveries have come."""
    close_old_connections()
    return {model.__name__: _last(model) for model in (Effect, Delivery)}


def workers_since(marks: dict[str, int]) -> set[int]:
    """The processes that have handled something since."""
    return {
        worker
        for model in (Effect, Delivery)
        for worker in model.objects.filter(pk__gt=marks[model.__name__]).values_list("worker", flat=True)
    }


def lanes_moved(since: datetime) -> set[str]:
    """The lanes that have moved a cursor since."""
    moved = OutboxStream.objects.filter(last_tried_at__gt=since, attempts=0)
    return set(moved.values_list("lane", flat=True).distinct())


def instant() -> datetime:
    close_old_connections()
    return timezone.now()


def _last(model: type[Effect] | type[Delivery]) -> int:
    return int(model.objects.order_by("-pk").values_list("pk", flat=True).first() or 0)


def _wanted(group: str) -> set[Key]:
    events = OutboxEvent.objects.filter(aggregate_type=AGGREGATE, type__in=types_of(group))
    return set(events.values_list("aggregate_id", "sequence"))


def _happened(effects_at_bank: dict[str, Any]) -> dict[str, list[Key]]:
    """By group, in order; what is no order of ours by group "" and its reference."""
    effects: dict[str, list[Key]] = defaultdict(list)
    for group, aggregate, sequence in Effect.objects.order_by("id").values_list(
        "group", "aggregate", "sequence"
    ):
        effects[group].append((aggregate, sequence))
    for order in effects_at_bank["modern_treasury"]["payment_order"]:
        group, _, rest = order["external_id"].partition("/")
        aggregate, _, sequence = rest.partition("/")
        if sequence:
            effects[group].append((aggregate, int(sequence)))
        else:
            effects[""].append((order["external_id"], 0))
    return effects


def _compare(wanted: set[Key], happened: list[Key]) -> Verdict:
    counts = Counter(happened)
    verdict = Verdict(effects=len(happened))
    verdict.lost = _named(wanted - counts.keys())
    verdict.doubled = _named({key for key, count in counts.items() if count > 1})
    verdict.invented = _named(counts.keys() - wanted)
    latest: dict[str, int] = {}
    for aggregate, sequence in dict.fromkeys(happened):
        if sequence < latest.get(aggregate, 0):
            verdict.disordered.append(f"{aggregate}/{sequence}")
        latest[aggregate] = max(sequence, latest.get(aggregate, 0))
    return verdict


def _named(keys: Iterable[Key]) -> list[str]:
    return [f"{aggregate}/{sequence}" for aggregate, sequence in sorted(keys)]
