"""`manage.py outbox`: the relay from the command line, by the services that the console uses."""

import json
import signal
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.forms import model_to_dict

from commerce import clock
from commerce.console import approvals
from commerce.console.management.person import signed_in
from commerce.console.models import Approval, ApprovalStatus
from commerce.console.outbox_skip import OPERATION, request_skip
from commerce.errors import InvalidInput, NotFound
from commerce.management.ops import EXIT_CODES, Exit, OpsCommand, instant, positive, seconds
from commerce.outbox import registry, replay, services, stopping, traces
from commerce.outbox.claims import publish_left
from commerce.outbox.models import Circuit, OutboxEvent, OutboxStream
from commerce.outbox.relay import drain
from commerce.outbox.retention import find_event

SHOWN = 20
# How far back a reader looks again: an event's number is taken before its transaction commits.
LOOKED_AT_AGAIN = 1000

EXAMPLES = """examples:
  outbox status                                            what waits, what is parked, who answers
  outbox show 4711                                         a stream: where it stands, and every failure
  outbox resume --group payouts.modern_treasury --error R20 --expect-count 12
  outbox --dry-run replay --type invoice.paid --group payouts.settlement --reason lost
  outbox replay … --plan 4711-0f3c…                        the same words, and the plan that was printed
  outbox pause --lane modern_treasury --reason "the bank's maintenance"
  outbox skip 4711 --as ada --reason "paid by wire"        asks; somebody else approves:
  outbox skip --approve 0192… --as grace --reason "seen on the statement"
  outbox drain --follow                                    deliver without any broker until told to stop

"""


class Command(OpsCommand):
    help = "Look at the relay, and move it."
    writes = True

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        options = {"epilog": EXAMPLES + EXIT_CODES, "formatter_class": RawDescriptionHelpFormatter}
        return super().create_parser(prog_name, subcommand, **options | kwargs)

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("status", help="depth, age and parked streams per lane; 3 when something is parked")
        show = verbs.add_parser(
            "show", help="one stream, event or line: deliveries, failures, who intervened"
        )
        show.add_argument("what", metavar="STREAM|EVENT|LANE", help="a number, an id or a provider's name")
        tail = verbs.add_parser("tail", help="the latest events; with --json one document per line")
        tail.add_argument("--follow", action="store_true", help="go on until interrupted")
        tail.add_argument("--last", type=positive, default=SHOWN)
        tail.add_argument("--since", type=instant, help="recorded at or after")
        tail.add_argument("--type", action="append", default=[])
        tail.add_argument("--group", action="append", default=[], help="what these subscribers listen to")
        tail.add_argument("--aggregate", type=_aggregate, default=("", ""))
        draining = verbs.add_parser("drain", help="deliver what is due, here and now")
        draining.add_argument("--lane", action="append", choices=registry.lanes())
        draining.add_argument("--group", action="append")
        draining.add_argument("--limit", type=positive, default=10_000)
        draining.add_argument("--seconds", type=seconds, default=300)
        draining.add_argument("--follow", action="store_true", help="until SIGTERM or SIGINT, with no broker")
        pause = verbs.add_parser("pause", help="send nothing to a provider until its line is resumed")
        pause.add_argument("--lane", required=True)
        pause.add_argument("--reason", required=True)
        park = verbs.add_parser("park", help="stop streams until they are resumed")
        park.add_argument("streams", type=int, nargs="+")
        park.add_argument("--reason", required=True)
        resume = verbs.add_parser("resume", help="let parked streams, or a paused line, go on")
        resume.add_argument("streams", type=int, nargs="*")
        resume.add_argument("--lane", help="a provider's line")
        resume.add_argument("--type", default="", help="streams parked at an event of this type")
        resume.add_argument("--group", default="", help="streams of this subscriber")
        resume.add_argument("--error", default="", help="streams whose error contains this")
        resume.add_argument("--expect-count", type=int, help="needed to resume by --type, --group, --error")
        resume.add_argument("--reason", default="")
        skip = verbs.add_parser("skip", help="ask to go on without one event, or agree to it: two people")
        skip.add_argument("stream", type=int, nargs="?")
        skip.add_argument("--approve", type=UUID, metavar="REQUEST")
        skip.add_argument("--as", dest="person", required=True, metavar="USERNAME", help="who signs in")
        skip.add_argument("--reason", required=True)
        again = verbs.add_parser("replay", help="append copies of events; --dry-run prints the plan")
        again.add_argument("--event", type=UUID, action="append", default=[])
        again.add_argument("--type", action="append", default=[])
        again.add_argument("--aggregate", type=_aggregate, default=("", ""), help="contract:0192…")
        again.add_argument("--since", type=instant, help="occurred at or after")
        again.add_argument("--until", type=instant, help="occurred before")
        again.add_argument("--recorded-since", type=instant)
        again.add_argument("--recorded-until", type=instant)
        again.add_argument("--group", action="append", default=[], help="for these subscribers alone")
        again.add_argument("--all", action="store_true", help="everything from the beginning")
        again.add_argument("--plan", default="", help="apply this plan and no other")
        again.add_argument("--yes", action="store_true", help="ask nobody; needs --expect-count")
        again.add_argument("--expect-count", type=int)
        again.add_argument("--again", default="", metavar="NAME", help="a further replay of the same plan")
        again.add_argument("--reason", required=True)

    def run(self, **options: Any) -> Exit:
        verb: Callable[..., Exit] = getattr(self, f"_{options['verb']}")
        return verb(**options)

    def _status(self, **_: Any) -> Exit:
        now = services.status()
        circuits = list(Circuit.objects.order_by("lane").values())
        parked = list(
            services.parked_streams()
            .order_by("parked_at")
            .values("id", "aggregate_type", "aggregate_id", "group", "parked_at", "parked_reason")[:SHOWN]
        )
        lines = [
            f"due {now.due}, waiting {now.waiting}, parked {now.parked}, unpublished {now.unpublished}, "
            f"oldest due {now.oldest_due_seconds:.1f} s",
            *(
                f"  {lane.lane}: due {lane.due}, working {lane.working}, waiting {lane.waiting}, "
                f"parked {lane.parked}, oldest due {lane.oldest_due_seconds:.1f} s, line {lane.circuit}"
                for lane in now.lanes
            ),
            *(f"  {words}" for circuit in Circuit.objects.order_by("lane") if (words := _line(circuit))),
            *(
                f"  parked stream {p['id']} {p['aggregate_type']} {p['aggregate_id']} {p['group']}: "
                f"{p['parked_reason']}"
                for p in parked
            ),
        ]
        self.show({**asdict(now), "circuits": circuits, "parked_streams": parked}, "\n".join(lines))
        return Exit.FINDINGS if now.parked else Exit.DONE

    def _show(self, *, what: str, **_: Any) -> Exit:
        if what in registry.providers():
            data = _lane_data(what)
        else:
            data = _stream_data(int(what)) if what.isdecimal() else _event_data(_uuid(what))
        self.show(data, "\n".join(_plain(data)))
        return Exit.DONE

    def _tail(self, *, follow: bool, last: int, since: Any, **options: Any) -> Exit:
        kind, id_ = options["aggregate"]
        heard = {type_ for group in options["group"] for type_ in registry.types_of(group)}
        limits = {
            "aggregate_type": kind,
            "aggregate_id": id_,
            "type__in": options["type"],
            "recorded_at__gte": since,
        }
        chosen = OutboxEvent.objects.filter(**{name: value for name, value in limits.items() if value})
        if options["group"]:
            chosen = chosen.filter(type__in=heard)
        newest = OutboxEvent.objects.order_by("-id").values_list("id", flat=True)
        told = set(newest[:LOOKED_AT_AGAIN])
        for event in reversed(chosen.order_by("-id")[:last]):
            self._tell(event)
            told.add(event.id)
        while follow:
            time.sleep(settings.TICK_SECONDS)
            floor = max(told, default=0) - LOOKED_AT_AGAIN
            told = {id_ for id_ in told if id_ > floor}
            for event in chosen.filter(id__gt=floor).exclude(id__in=told).order_by("id"):
                self._tell(event)
                told.add(event.id)
        return Exit.DONE

    def _tell(self, event: OutboxEvent) -> None:
        row = _event_row(event)
        if self.json:
            self.stdout.write(json.dumps(row, default=str))
        else:
            self.stdout.write(
                f"{event.recorded_at:%Y-%m-%dT%H:%M:%S.%fZ} {event.event_id} {event.type} "
                f"{event.aggregate_type}:{event.aggregate_id} #{event.sequence} "
                f"{'published' if event.published_at else 'pending'}"
            )
        self.stdout.flush()

    def _drain(self, *, dry_run: bool, follow: bool, **options: Any) -> Exit:
        if dry_run:
            raise InvalidInput("Draining speaks to providers and has no dry run; see `outbox status`.")
        limits = {name: options[name] for name in ("limit", "seconds")}
        which = {"lanes": options["lane"], "groups": options["group"]}
        total, code = Counter[str](), Exit.DONE
        with _until_told() as told:
            while True:
                report = drain(**which, **limits)
                publish_left()
                total.update(handled=report.handled, retried=report.retried, parked=report.parked)
                if not follow or told.wait(settings.TICK_SECONDS):
                    break
            code = told.code
        self.show(dict(total), ", ".join(f"{name} {count}" for name, count in total.items()))
        return code or (Exit.PARTIAL if not follow and total["parked"] + total["retried"] else Exit.DONE)

    def _pause(self, *, lane: str, reason: str, **_: Any) -> Exit:
        services.pause_lane(lane=lane, actor=self.actor, at=clock.now(), reason=reason)
        self.show({"paused": lane}, f"nothing is sent to {lane} until its line is resumed")
        return Exit.DONE

    def _park(self, *, streams: list[int], reason: str, **_: Any) -> Exit:
        with transaction.atomic():
            for stream in services.streams_by_id(streams):
                services.park_stream(stream=stream, actor=self.actor, at=clock.now(), reason=reason)
        self.show({"parked": streams}, f"parked {len(streams)} streams")
        return Exit.DONE

    def _resume(self, *, streams: list[int], lane: str | None, reason: str, **options: Any) -> Exit:
        if lane:
            services.resume_lane(lane=lane, actor=self.actor, at=clock.now(), reason=reason)
            self.show({"resumed": lane}, f"the line to {lane} is open")
            return Exit.DONE
        if not streams:
            return self._resume_alike(reason, options["expect_count"], options)
        with transaction.atomic():
            for stream in services.streams_by_id(streams):
                services.resume_stream(stream=stream, actor=self.actor, at=clock.now(), reason=reason)
        self.show({"resumed": streams}, f"resumed {len(streams)} streams")
        return Exit.DONE

    def _resume_alike(self, reason: str, expected: int | None, options: dict[str, Any]) -> Exit:
        limits = {name: options[name] for name in ("group", "type", "error") if options[name]}
        if not limits:
            raise InvalidInput("Say which: streams by number, --lane, --group, --type or --error.")
        found = services.parked_streams(**limits)
        if expected is None:
            raise InvalidInput(f"{found.count()} parked streams match: repeat it as --expect-count.")
        resumed = services.resume_streams(
            streams=found, expected=expected, actor=self.actor, at=clock.now(), reason=reason
        )
        self.show({"resumed": resumed}, f"resumed {resumed} streams")
        return Exit.DONE

    def _skip(self, *, stream: int | None, approve: UUID | None, person: str, reason: str, **_: Any) -> Exit:
        if (stream is None) == (approve is None):
            raise InvalidInput("Name the stream to ask about, or with --approve the request to agree to.")
        if approve is None:
            (row,) = services.streams_by_id([stream or 0])
            made = request_skip(stream=row, actor=signed_in(person), at=clock.now(), reason=reason)
            self.say(approvals.describe(made))
            self.show(
                {"approval_id": made.pk, "expires_at": made.expires_at},
                f"requested as {made.pk}: nothing is skipped until somebody else approves it",
            )
            return Exit.DONE
        approval = Approval.objects.filter(pk=approve, operation=OPERATION).first()
        if approval is None:
            raise NotFound(f"There is no request {approve} to skip an event.", pointer="/approve")
        self.say(approvals.describe(approval))
        approval = approvals.approve(
            approval=approval, actor=signed_in(person), at=clock.now(), reason=reason
        )
        skipped = approval.status == ApprovalStatus.APPROVED
        words = "skipped; the stream goes on" if skipped else f"nothing was skipped: {approval.decision}"
        self.show({"approval_id": approval.pk, "status": approval.status}, words)
        return Exit.DONE if skipped else Exit.REFUSED

    def _replay(self, *, dry_run: bool, reason: str, expect_count: int | None, **options: Any) -> Exit:
        selection = _selection(options)
        if options["plan"]:
            selection = selection.as_planned(options["plan"])
        made = replay.plan(selection)
        self.say("\n".join(made.in_words()))
        data = {**asdict(made), "plan": made.digest}
        if dry_run:
            self.show(data, f"plan {made.digest}: {made.events} events of {made.streams} streams")
            return Exit.DONE
        if not options["plan"]:
            expect_count = self._agreed(made, expect_count, yes=options["yes"])
        replay.confirm(made, expected=expect_count, digest=options["plan"])
        appended = replay.apply(
            made, actor=self.actor, at=clock.now(), reason=reason, again=options["again"],
            progress=lambda copied: self.say(f"{copied} of {made.events}"),
        )  # fmt: skip
        if appended < made.events:
            self.say("The rest was appended by this replay before; a further one has a name: --again NAME.")
        self.show({**data, "appended": appended}, f"appended {appended} of {made.events} events")
        return Exit.DONE

    def _agreed(self, made: replay.Plan, expected: int | None, *, yes: bool) -> int:
        """How many events somebody has agreed to."""
        if yes and expected is not None:
            return expected
        if not sys.stdin.isatty():
            raise InvalidInput(
                f"Nobody is here to ask: give --plan {made.digest}, or --yes --expect-count N."
            )
        answer = input("How many events are to be appended? ")
        return int(answer) if answer.isdecimal() else -1


class _Told(threading.Event):
    """Set when the process is told to end; `code` is what it ends with."""

    code = Exit.DONE


@contextmanager
def _until_told() -> Iterator[_Told]:
    """SIGTERM and SIGINT let the event in hand end; the rest of the claim is given back."""
    told = _Told()

    def end(number: int, _: Any) -> None:
        told.code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.DONE
        told.set()
        stopping.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _selection(options: dict[str, Any]) -> replay.Selection:
    kind, id_ = options["aggregate"]
    selection = replay.Selection(
        events=tuple(options["event"]),
        types=tuple(options["type"]),
        aggregate_type=kind,
        aggregate_id=id_,
        groups=tuple(options["group"]),
        **{name: options[name] for name in ("since", "until", "recorded_since", "recorded_until")},
    )
    if options["all"] is (selection != replay.Selection(groups=selection.groups)):
        raise InvalidInput(
            "Say which events: --event, --type, --aggregate, --since, --until or their recorded twins; "
            "or --all, and nothing else but --group."
        )
    return selection


def _stream_data(number: int) -> dict[str, Any]:
    (stream,) = services.streams_by_id([number])
    event = services.blocking_event(stream)
    return {
        "stream": model_to_dict(stream),
        "condition": traces.condition(stream),
        "stands_at": event and _event_row(event) | {"payload": traces.shown_payload(event)},
        "waiting": [_event_row(event) for event in services.waiting_events(stream)[:SHOWN]],
        "interventions": _interventions(stream),
        "failures": list(stream.failures.order_by("-id").values()[:SHOWN]),
        "skips": list(stream.skips.order_by("-id").values()[:SHOWN]),
    }


def _lane_data(lane: str) -> dict[str, Any]:
    circuit = Circuit.objects.filter(lane=lane).first() or Circuit(lane=lane)
    return {
        "circuit": model_to_dict(circuit),
        "line": services.line_of(circuit),
        "interventions": _interventions(circuit),
    }


def _interventions(row: OutboxStream | Circuit) -> list[dict[str, Any]]:
    names = ("at", "name", "source", "target", "actor", "reason")
    return list(traces.interventions(row).values(*names)[:SHOWN])


def _event_data(event_id: UUID) -> dict[str, Any]:
    event = find_event(event_id)
    return {
        "event": _event_row(event) | {"headers": event.headers, "payload": event.payload},
        "deliveries": [
            {
                "group": delivery.group,
                "state": delivery.state,
                "stream": delivery.stream and delivery.stream.pk,
                "errors": [f"{failure.attempt}: {failure.error}" for failure in delivery.failures],
            }
            for delivery in traces.deliveries(event)
        ],
        "causes": [_event_row(cause) for cause in traces.causes(event)],
        "consequences": [_event_row(after) for after in traces.consequences(event)[:SHOWN]],
    }


def _event_row(event: OutboxEvent) -> dict[str, Any]:
    names = ("event_id", "type", "version", "aggregate_type", "aggregate_id", "sequence", "occurred_at")
    return {name: getattr(event, name) for name in (*names, "recorded_at", "published_at")}


def _plain(data: Any, indent: str = "") -> Iterator[str]:
    """A document as indented lines of names and values."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data, start=1)
    for name, value in pairs:
        if isinstance(value, dict | list) and value:
            yield f"{indent}{name}:"
            yield from _plain(value, indent + "  ")
        else:
            yield f"{indent}{name}: {value if value not in (None, '', [], {}) else '-'}"


def _line(circuit: Circuit) -> str:
    if circuit.paused_at:
        return f"{circuit.lane} is paused: {circuit.paused_reason}"
    if circuit.opened_at:
        return (
            f"{circuit.lane} does not answer since {circuit.opened_at:%Y-%m-%d %H:%M:%S} UTC, next try "
            f"{circuit.open_until:%H:%M:%S}: {circuit.last_error}"
        )
    return ""


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(f"{text} is no stream's number, no event's id and no provider's name.") from error


def _aggregate(text: str) -> tuple[str, str]:
    kind, colon, id_ = text.partition(":")
    if not (kind and colon and id_):
        raise ArgumentTypeError(f"{text!r} is no type and id, for example contract:0192…")
    return kind, id_
