"""One operation on many contracts: stored as a plan, previewed row by row, confirmed, run row by row.

Each row is previewed and run in a transaction of its own that also keeps its outcome, so that a worker
that dies loses nothing and repeats nothing. A row runs on the version that was previewed, or not at all.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection, transaction
from django.db.models import Count, Q, QuerySet, Sum

from commerce import states
from commerce.actor import Actor
from commerce.console.approvals import Operation, ends_waiting, register_operation, request_approval
from commerce.console.models import Approval
from commerce.errors import CommerceError, Conflict, FieldError, InvalidInput, PermissionDenied, StateConflict
from commerce.money import Money
from contracts.models import BulkPlan, BulkPlanRow, Contract
from contracts.rules import schema
from contracts.rules.desired import expected_period_total
from contracts.rules.operations import named
from contracts.rules.state import NOBODY, ContractState
from contracts.services.edits import OperationRequest, record_edits
from contracts.services.previews import preview_edits

log = logging.getLogger(__name__)

OPERATION = "contracts.bulk"
REQUEST, CANCEL, CHECKER = "contracts.request_bulkplan", "contracts.cancel_bulkplan", "contracts.approve_edit"
# What says the same of every contract, but for the line that it is about.
OPERATIONS = ("change_price", "change_terms", "suspend", "resume", "terminate")
MOST_CONTRACTS = 20_000
ONE_DAY = timedelta(days=1)
LONGEST = {"product": 60, "reason": 500}
BUDGET_SECONDS = 5.0

Outcome = BulkPlanRow.Outcome


@dataclass(frozen=True)
class Chosen:
    """Which contracts: those of the numbers, or all that fit the filters."""

    numbers: Sequence[str] = ()
    status: str = ""
    buyer_id: UUID | None = None
    seller_id: UUID | None = None
    currency: str = ""

    def rows(self) -> QuerySet[Contract]:
        if self.numbers:
            return Contract.objects.filter(number__in=self.numbers).order_by("id")
        wanted = {"status": self.status, "buyer_id": self.buyer_id, "currency": self.currency}
        found = Contract.objects.filter(**{name: value for name, value in wanted.items() if value})
        if self.seller_id:
            found = found.filter(seller_ids__contains=[self.seller_id])
        return found.order_by("id")

    def to_json(self) -> dict[str, Any]:
        said = {
            "numbers": list(self.numbers), "status": self.status, "currency": self.currency,
            "buyer_id": self.buyer_id and str(self.buyer_id),
            "seller_id": self.seller_id and str(self.seller_id),
        }  # fmt: skip
        return {name: value for name, value in said.items() if value}


@transaction.atomic
def plan_bulk(
    *,
    operation: str,
    payload: Mapping[str, Any],
    chosen: Chosen,
    reason: str,
    actor: Actor,
    at: datetime,
    product: str = "",
    effective_at: datetime | None = None,
) -> BulkPlan:
    """Store a plan and its rows; workers preview them. Nothing changes until it is confirmed.

    InvalidInput for an operation that differs by contract, what no contract could be asked for, no
    contracts, or more than 20,000 of them.
    """
    actor.require(REQUEST)
    if operation not in OPERATIONS:
        raise InvalidInput(
            f"{operation!r} is not for many contracts.", pointer="/operation", code="unknown_operation"
        )
    actor.require(named(operation).permission)
    if not reason.strip():
        raise InvalidInput("Say why.", pointer="/reason", code="reason_required")
    _check_texts(chosen, product=product, reason=reason)
    _check_payload(operation, payload)
    if not chosen.to_json():
        raise InvalidInput("Choose contracts.", pointer="/numbers", code="nothing_chosen")
    found = list(chosen.rows().values_list("pk", "number", "currency")[: MOST_CONTRACTS + 1])
    missing = set(chosen.numbers) - {number for _, number, _ in found}
    if missing:
        raise InvalidInput(
            f"There is no contract {', '.join(sorted(missing)[:5])}.",
            pointer="/numbers",
            code="unknown_contract",
        )
    if not found:
        raise InvalidInput("No contract fits.", pointer="/numbers", code="nothing_chosen")
    if len(found) > MOST_CONTRACTS:
        raise InvalidInput(
            f"More than {MOST_CONTRACTS:,} contracts fit; choose fewer.",
            pointer="/numbers",
            code="limit_exceeded",
        )
    plan = BulkPlan.objects.create(
        operation=operation,
        payload=dict(payload),
        product=product,
        effective_at=effective_at,
        reason=reason,
        selection=chosen.to_json(),
        size=len(found),
        requested_by_id=_person(actor),
        requested_at=at,
    )
    BulkPlanRow.objects.bulk_create(
        (BulkPlanRow(plan=plan, contract_id=pk, currency=currency) for pk, _, currency in found),
        batch_size=2000,
    )
    log.info("bulk planned", extra={"plan": str(plan.pk), "operation": operation, "contracts": len(found)})
    return plan


@transaction.atomic
def confirm_bulk(*, plan: BulkPlan, actor: Actor, at: datetime, reason: str = "") -> BulkPlan:
    """Let it run, or ask a second person when the rows are many or one of them needs two people.

    One whose request was refused or expired may be confirmed again, which asks again.
    """
    actor.require(REQUEST)
    actor.require(named(plan.operation).permission)
    row = _locked(plan)
    with connection.cursor() as cursor:  # one of a person's plans at a time: what they come to is counted
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"bulk:{row.requested_by_id}"]
        )
    if why := refused(row, at):
        row = states.transition(row, "reopen", actor=actor, at=at, reason=why)
    count = row.rows.filter(outcome=Outcome.READY).count()
    if not count:
        raise StateConflict("No contract is ready for it.", code="nothing_ready")
    if why := two_people(row, count, at):
        if row.status != BulkPlan.Status.READY:
            raise StateConflict(f"The plan is {row.get_status_display()}.", state=row.status)
        approval = request_approval(
            operation=OPERATION,
            arguments={"plan": str(row.pk), "rows": count, "why": why},
            subject_type="contracts.bulkplan",
            subject_id=row.pk,
            reason=reason or row.reason,
            actor=actor,
            at=at,
        )
        return states.transition(row, "ask", actor=actor, at=at, reason=why, approval=approval)
    return states.transition(row, "begin", actor=actor, at=at, confirmed_at=at, acts_as=_user(_person(actor)))


def cancel_bulk(*, plan: BulkPlan, actor: Actor, at: datetime, reason: str = "") -> BulkPlan:
    """Stop it; what was recorded until then stays."""
    actor.require(CANCEL)
    return states.transition(plan, "cancel", actor=actor, at=at, reason=reason, finished_at=at)


def refused(plan: BulkPlan, at: datetime) -> str:
    """Why nobody can agree to it any more though it waits for that; empty when it does not, or they can."""
    if plan.status != BulkPlan.Status.WAITING or plan.approval is None:
        return ""
    return ends_waiting(plan.approval, at)


def two_people(plan: BulkPlan, count: int, at: datetime) -> str:
    """Why a second person has to agree; empty when nobody has to.

    What its maker's other plans changed in the day before counts as well: one change split over several
    plans is one change.
    """
    alone = settings.BULK_APPROVAL_LIMIT
    if count > alone:
        return f"More than {alone:,} contracts are changed by two people."
    if (together := _changed_in_a_day(plan, at)) > alone:
        return (
            f"Within a day its maker's plans change {together:,} contracts; "
            f"more than {alone:,} are changed by two people."
        )
    needing = plan.rows.filter(outcome=Outcome.READY).exclude(needs_approval="")
    return needing.values_list("needs_approval", flat=True).first() or ""


def _changed_in_a_day(plan: BulkPlan, at: datetime) -> int:
    """The contracts of this plan and of those of its maker that nobody else agreed to since a day ago."""
    others = BulkPlan.objects.filter(
        requested_by=plan.requested_by_id, approval__isnull=True, confirmed_at__gt=at - ONE_DAY
    )
    running = others.filter(status=BulkPlan.Status.RUNNING)
    rows = BulkPlanRow.objects.filter(
        Q(plan__in=[plan.pk, *running.values_list("pk", flat=True)], outcome=Outcome.READY)
        | Q(plan__in=list(others.values_list("pk", flat=True)), outcome=Outcome.DONE)
    )
    return rows.values("contract").distinct().count()


def progress(plan: BulkPlan) -> dict[str, int]:
    """Rows by outcome, every outcome named."""
    found = dict(plan.rows.values_list("outcome").annotate(count=Count("id")).order_by())
    return {outcome: found.get(outcome, 0) for outcome in Outcome.values}


def advance_bulk(*, at: datetime, seconds: float = BUDGET_SECONDS) -> int:
    """Preview and run rows of the plans under way, oldest plan first, for so long; how many rows."""
    until, count = time.monotonic() + seconds, 0
    for plan in BulkPlan.objects.filter(status__in=["previewing", "running"]).order_by("id"):
        step = _preview_next if plan.status == BulkPlan.Status.PREVIEWING else _run_next
        try:
            while time.monotonic() < until and step(plan, at):
                count += 1
            _finish(plan, at)
        except OperationalError:  # the database is busy: what is left waits for the next tick
            log.warning("bulk plan put off", extra={"plan": str(plan.pk)}, exc_info=True)
    return count


def requests_for(plan: BulkPlan, contract: Contract) -> list[OperationRequest]:
    """The operations that the plan is for one contract: one, or one for each line of its product.

    Conflict (nothing_to_do) when no line of the contract is of the product.
    """
    payloads: list[dict[str, Any]] = [plan.payload]
    if "line_id" in named(plan.operation).payload.__dataclass_fields__:
        lines = [line for line in contract.current.live_lines if plan.product in ("", line.product_code)]
        if not lines:
            raise Conflict(f"No live line is of {plan.product or 'any product'}.", code="nothing_to_do")
        payloads = [{**plan.payload, "line_id": str(line.line_id)} for line in lines]
    return [OperationRequest(plan.operation, payload, plan.effective_at, plan.reason) for payload in payloads]


def _preview_next(plan: BulkPlan, at: datetime) -> bool:
    with transaction.atomic():
        row = _next(plan, Outcome.WAITING)
        if row is None:
            return False
        contract = row.contract
        try:
            with transaction.atomic():
                seen = preview_edits(
                    contract_id=contract.pk,
                    operations=requests_for(plan, contract),
                    actor=Actor.for_user(plan.requested_by),
                    at=at,
                    expected_version=contract.version,
                )
        except OperationalError:
            raise
        except SoftTimeLimitExceeded:  # the next one would be killed with its worker
            raise
        except Exception as error:  # one contract must not hold up the others
            _keep(row, outcome=Outcome.EXCLUDED, detail=_said(error, row), version=contract.version)
            return True
        moment = seen.effective_at
        _keep(
            row,
            outcome=Outcome.READY,
            version=contract.version,
            before_minor=_full_period(seen.before, moment),
            after_minor=_full_period(seen.after, moment),
            needs_approval=" ".join(dict.fromkeys(seen.approval))[:300],
        )
        return True


def _run_next(plan: BulkPlan, at: datetime) -> bool:
    with transaction.atomic():
        row = _next(plan, Outcome.READY)
        if row is None:
            return False
        try:
            with transaction.atomic():
                result = record_edits(
                    contract_id=row.contract_id,
                    operations=requests_for(plan, row.contract),
                    actor=Actor.for_user(plan.acts_as),
                    at=at,
                    idempotency_key=f"bulk:{row.pk}",
                    expected_version=row.version,
                    approval=plan.approval,
                )
        except OperationalError:
            raise
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # one contract must not hold up the others
            _keep(row, outcome=Outcome.FAILED, detail=_said(error, row))
            return True
        _keep(row, outcome=Outcome.DONE, seq=result.edits[-1].seq, done_at=at)
        return True


def _said(error: Exception, row: BulkPlanRow) -> str:
    """What the row says of its failure; one that nobody foresaw is in the log."""
    if isinstance(error, CommerceError):
        return str(error)[:500]
    facts = {"plan": str(row.plan_id), "contract": str(row.contract_id)}
    log.error("bulk row failed", extra=facts, exc_info=error)
    return f"It failed unexpectedly ({type(error).__name__}); the log says more."


def _next(plan: BulkPlan, outcome: str) -> BulkPlanRow | None:
    """The next such row that no other worker has, unless the plan was stopped."""
    if not BulkPlan.objects.filter(pk=plan.pk, status=plan.status).exists():
        return None
    rows = BulkPlanRow.objects.select_for_update(of=("self",), no_key=True, skip_locked=True)
    return rows.filter(plan=plan, outcome=outcome).select_related("contract").order_by("id").first()


def _keep(row: BulkPlanRow, **values: Any) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.save(update_fields=list(values))


def _finish(plan: BulkPlan, at: datetime) -> None:
    """Move the plan on when no row is left, in anybody's hands either."""
    waiting = Outcome.WAITING if plan.status == BulkPlan.Status.PREVIEWING else Outcome.READY
    if plan.rows.filter(outcome=waiting).exists():
        return
    system = Actor.system("contracts.bulk")
    with suppress(StateConflict):
        if plan.status == BulkPlan.Status.PREVIEWING:
            states.transition(plan, "previewed", actor=system, at=at, totals=_totals(plan), ready_at=at)
        else:
            states.transition(plan, "complete", actor=system, at=at, finished_at=at)


def _totals(plan: BulkPlan) -> dict[str, Any]:
    """Per currency what a full period of the ready contracts comes to, before and after."""
    rows = plan.rows.filter(outcome=Outcome.READY).values("currency").order_by("currency")
    sums = rows.annotate(before=Sum("before_minor"), after=Sum("after_minor"), contracts=Count("id"))
    return {
        row["currency"]: {name: int(row[name] or 0) for name in ("contracts", "before", "after")}
        for row in sums
    }


def _full_period(state: ContractState, at: datetime) -> int:
    """What a whole period of the state comes to, usage and tax apart; 0 when it does not run."""
    if state.start_at is None or state.status not in ("active", "suspended"):
        return 0
    period = state.period(at)
    return expected_period_total(state, period)[0]


def _check_texts(chosen: Chosen, **texts: str) -> None:
    """Whatever goes into a column as it came, or is looked for in one."""
    given = {
        **texts,
        "numbers": "".join(chosen.numbers),
        "status": chosen.status,
        "currency": chosen.currency,
    }
    faults = [
        FieldError(f"/{name}", "invalid_format", schema.NO_TEXT)
        for name, text in given.items()
        if not schema.encodable(text)
    ]
    faults += [
        FieldError(f"/{name}", "invalid_format", f"At most {LONGEST[name]} characters.")
        for name, text in texts.items()
        if len(text) > LONGEST[name]
    ]
    if faults:
        raise schema.invalid(faults)


def _check_payload(operation: str, payload: Mapping[str, Any]) -> None:
    """Read it as each contract's will be, whose own line takes the place of this one."""
    kind = named(operation).payload
    line = {"line_id": str(NOBODY)} if "line_id" in kind.__dataclass_fields__ else {}
    schema.parse(kind, {**payload, **line}, pointer="/payload")


def _locked(plan: BulkPlan) -> BulkPlan:
    return BulkPlan.objects.select_for_update(of=("self",), no_key=True).get(pk=plan.pk)


def _person(actor: Actor) -> int:
    if actor.user is None:
        raise PermissionDenied("Plans over many contracts are made by people.")
    return int(actor.user.pk)


def _user(pk: int) -> Any:
    return get_user_model().objects.get(pk=pk)


def _run_approved(*, approval: Approval, actor: Actor, at: datetime) -> BulkPlan:
    plan = BulkPlan.objects.get(pk=approval.arguments["plan"])
    return states.transition(
        plan, "begin", actor=actor, at=at, confirmed_at=at, acts_as=_user(_person(actor))
    )


def _describe(approval: Approval) -> str:
    plan = BulkPlan.objects.get(pk=approval.arguments["plan"])
    sums = "; ".join(
        f"{Money(found['before'], currency)} become {Money(found['after'], currency)} a period"
        for currency, found in plan.totals.items()
    )
    what = f"{named(plan.operation).label} on {approval.arguments['rows']:,} contracts"
    return f"{what}. {sums}." if sums else f"{what}."


def _overtaken(approval: Approval) -> str:
    plan = BulkPlan.objects.get(pk=approval.arguments["plan"])
    if approval.status == "pending" and plan.status != BulkPlan.Status.WAITING:
        return f"The plan is {plan.get_status_display()}."
    return ""


register_operation(
    Operation(
        name=OPERATION,
        label="Change many contracts",
        maker=REQUEST,
        checker=CHECKER,
        run=_run_approved,
        describe=_describe,
        overtaken=_overtaken,
    )
)
