"""`manage.py outbox status|drain|replay|park|resume`: the relay from the command line."""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.utils.dateparse import parse_datetime

from commerce import clock
from commerce.errors import InvalidInput, NotFound
from commerce.management.ops import Exit, OpsCommand
from commerce.outbox import replay, services
from commerce.outbox.claims import publish_left
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.relay import drain


class Command(OpsCommand):
    help = "Look at the relay, and move it."
    writes = True

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("status", help="depth, age, parked streams")
        draining = verbs.add_parser("drain", help="deliver what is due, here and now")
        draining.add_argument("--limit", type=int, default=10_000)
        draining.add_argument("--group", action="append")
        for verb in ("park", "resume"):
            one = verbs.add_parser(verb, help=f"{verb} streams")
            one.add_argument("streams", type=int, nargs="+")
            one.add_argument("--reason", required=verb == "park", default="")
        replay = verbs.add_parser("replay", help="append copies of events to the end of their streams")
        replay.add_argument("--event", type=UUID, action="append", default=[])
        replay.add_argument("--type")
        replay.add_argument("--aggregate", help="for example contract:0192…")
        replay.add_argument("--since", type=_instant)
        replay.add_argument("--until", type=_instant)
        replay.add_argument("--limit", type=int, default=1000)
        replay.add_argument("--reason", required=True)

    def run(self, **options: Any) -> Exit:
        verbs: dict[str, Callable[..., Exit]] = {
            "status": self._status,
            "drain": self._drain,
            "park": self._park,
            "resume": self._resume,
            "replay": self._replay,
        }
        return verbs[options["verb"]](**options)

    def _status(self, **_: Any) -> Exit:
        now = services.status()
        parked = list(
            OutboxStream.objects.filter(parked_at__isnull=False)
            .order_by("parked_at")
            .values("id", "aggregate_type", "aggregate_id", "group", "parked_at", "parked_reason")[:20]
        )
        lines = [
            f"due {now.due}, waiting {now.waiting}, parked {now.parked}, unpublished {now.unpublished}, "
            f"oldest due {now.oldest_due_seconds:.1f} s"
        ]
        lines += [
            f"  parked stream {p['id']} {p['aggregate_type']} {p['aggregate_id']} {p['group']}: "
            f"{p['parked_reason']}"
            for p in parked
        ]
        self.show({**asdict(now), "parked_streams": parked}, "\n".join(lines))
        return Exit.FINDINGS if now.parked else Exit.DONE

    def _drain(self, *, limit: int, group: list[str] | None, dry_run: bool, **_: Any) -> Exit:
        if dry_run:
            raise InvalidInput("Draining speaks to providers and has no dry run; see `outbox status`.")
        report = drain(limit=limit, groups=group)
        publish_left()
        self.show(
            {"handled": report.handled, "retried": report.retried, "parked": report.parked},
            f"handled {report.handled}, to be retried {report.retried}, parked {report.parked}",
        )
        return Exit.PARTIAL if report.parked or report.retried else Exit.DONE

    def _park(self, *, streams: list[int], reason: str, **_: Any) -> Exit:
        for stream in self._streams(streams):
            services.park_stream(stream=stream, actor=self.actor, at=clock.now(), reason=reason)
        self.show({"parked": streams}, f"parked {len(streams)} streams")
        return Exit.DONE

    def _resume(self, *, streams: list[int], reason: str, **_: Any) -> Exit:
        for stream in self._streams(streams):
            services.resume_stream(stream=stream, actor=self.actor, at=clock.now(), reason=reason)
        self.show({"resumed": streams}, f"resumed {len(streams)} streams")
        return Exit.DONE

    def _replay(
        self,
        *,
        event: list[UUID],
        type: str | None,
        aggregate: str | None,
        limit: int,
        reason: str,
        **options: Any,
    ) -> Exit:
        chosen = OutboxEvent.objects.order_by("id")
        if event:
            chosen = chosen.filter(event_id__in=event)
        if type:
            chosen = chosen.filter(type=type)
        if aggregate:
            kind, _, id_ = aggregate.partition(":")
            chosen = chosen.filter(aggregate_type=kind, aggregate_id=id_)
        if options["since"]:
            chosen = chosen.filter(occurred_at__gte=options["since"])
        if options["until"]:
            chosen = chosen.filter(occurred_at__lt=options["until"])
        if not (event or type or aggregate or options["since"]):
            raise InvalidInput("Say which events: --event, --type, --aggregate or --since.")
        copies = [
            replay.replay_event(event=original, actor=self.actor, at=clock.now(), reason=reason)
            for original in chosen[:limit]
        ]
        plan = [{"event_id": c.event_id, "type": c.type, "aggregate": str(c)} for c in copies]
        self.show(plan, "\n".join(f"replayed {copy}" for copy in copies) or "nothing matches")
        return Exit.DONE

    def _streams(self, ids: list[int]) -> list[OutboxStream]:
        found = list(OutboxStream.objects.filter(pk__in=ids).exclude(group="").order_by("pk"))
        if len(found) != len(set(ids)):
            raise NotFound(f"Not every one of these streams exists: {ids}.")
        return found


def _instant(text: str) -> Any:
    value = parse_datetime(text)
    if value is None or value.tzinfo is None:
        raise ValueError("an instant with an offset, for example 2027-03-01T00:00:00Z")
    return value
