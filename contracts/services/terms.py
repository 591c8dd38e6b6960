"""The platform's terms: which version is in force, and how two people make the next one.

Who asks and who agrees are people who signed in: a command line or a key that asked in nobody's name
would let one person be two.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from commerce.actor import Actor
from commerce.console.approvals import Operation, is_bound, register_operation, request_approval
from commerce.console.models import Approval
from commerce.errors import InvalidInput, NotFound, PermissionDenied, StateConflict
from commerce.outbox import append
from contracts.models import PlatformTerms
from contracts.rules import platform, schema
from contracts.rules.platform import Json, PlatformDefaults
from contracts.rules.state import changes as difference
from contracts.rules.state import digest

OPERATION = "contracts.change_platform_terms"
MAKER = "contracts.request_platformterms"
CHECKER = "contracts.approve_platformterms"
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)

_values: dict[str, PlatformDefaults] = {}


def platform_terms(at: datetime) -> PlatformDefaults:
    """The values in force at `at`."""
    return values_of(version_at(at))


def version_at(at: datetime) -> PlatformTerms:
    """The version in force at `at`. NotFound before the first one."""
    found = PlatformTerms.objects.filter(effective_at__lte=at).order_by("-effective_at").first()
    if found is None:
        raise NotFound(f"The platform had no terms at {at:%Y-%m-%d %H:%M} UTC.")
    return found


def latest() -> PlatformTerms:
    """The last version, in force or to come."""
    return PlatformTerms.objects.order_by("-version")[0]


def values_of(row: PlatformTerms) -> PlatformDefaults:
    """A version's values, read once: rows never change."""
    if row.hash not in _values:
        _values[row.hash] = PlatformDefaults.from_json(row.sections)
    return _values[row.hash]


def fill_terms(payload: Any, *, at: datetime) -> Any:
    """A new contract's payload whose terms say everything: what it leaves open is the platform's at `at`."""
    if not isinstance(payload, Mapping):
        return payload
    values = platform.open_to_all(platform_terms(at))
    return {**payload, "terms": platform.filled(payload.get("terms", {}), values)}


def compare(before: PlatformTerms, after: PlatformTerms) -> tuple[Json, Json]:
    """What two versions say differently, as two maps from JSON pointer to value."""
    return difference(before.sections, after.sections)


def preview_platform_terms(
    *, changes: Mapping[str, Any], effective_at: datetime | None, at: datetime
) -> tuple[Json, Json]:
    """What a change would make different. Refuses what `request_platform_terms` would refuse."""
    base = latest()
    return difference(base.sections, _changed(base, changes, effective_at, at).to_json())


@transaction.atomic
def request_platform_terms(
    *,
    changes: Mapping[str, Any],
    actor: Actor,
    at: datetime,
    reason: str,
    effective_at: datetime | None = None,
    expected_version: int | None = None,
) -> Approval:
    """Ask a second person for a version with other values: `changes` is section → field → value.

    It begins at `effective_at`, or when it is agreed to. InvalidInput lists the fields that are wrong;
    StateConflict when the last version is not `expected_version`.
    """
    actor.require(MAKER)
    if actor.type != "user":
        raise PermissionDenied("Only a person may ask for other terms.", code="needs_person")
    base = latest()
    if expected_version not in (None, base.version):
        raise StateConflict(_came_between(base), code="version_conflict")
    values = _changed(base, changes, effective_at, at)
    return request_approval(
        operation=OPERATION,
        arguments={
            "base_version": base.version,
            "sections": values.to_json(),
            "effective_at": schema.instant(effective_at) if effective_at else None,
        },
        subject_type="contracts.platformterms",
        subject_id=base.pk,
        reason=reason,
        actor=actor,
        at=at,
    )


def ensure_first_version(**_: Any) -> None:
    """Version 1, made from the settings where there is none: by `migrate`, and in an emptied database."""
    with transaction.atomic():
        _one_at_a_time()
        if not PlatformTerms.objects.exists():
            seed = platform.changed(
                PlatformDefaults(), {"settlement": {"seasoning_days": settings.SEASONING_DAYS}}
            )
            _append(
                PlatformTerms(
                    version=1,
                    effective_at=BEGINNING,
                    sections=seed.to_json(),
                    reason="As the platform was set up.",
                    made_by=str(Actor.system("setup")),
                )
            )


def broken_version() -> str:
    """ "" or what is wrong with the versions: a gap, or a row that is not what its hash says."""
    previous = ""
    for expected, row in enumerate(PlatformTerms.objects.order_by("version"), start=1):
        if row.version != expected:
            return f"Version {expected} of the platform's terms is missing."
        if row.prev_hash != previous or row.hash != digest(row.fingerprint()):
            return f"Version {row.version} of the platform's terms was tampered with."
        previous = row.hash
    return ""


def _changed(
    base: PlatformTerms, changes: Mapping[str, Any], effective_at: datetime | None, at: datetime
) -> PlatformDefaults:
    values = platform.changed(values_of(base), changes)
    if values == values_of(base):
        raise InvalidInput("Nothing would change.", code="no_effect")
    begins = effective_at or at
    if begins < at or begins <= base.effective_at:
        earliest = max(at, base.effective_at)
        raise InvalidInput(
            f"The next version begins after {earliest:%Y-%m-%d %H:%M} UTC.",
            pointer="/effective_at",
            code="out_of_order",
        )
    return values


def _append(row: PlatformTerms) -> PlatformTerms:
    row.hash = digest(row.fingerprint())
    row.save(force_insert=True)
    return row


def _run(*, approval: Approval, actor: Actor, at: datetime) -> PlatformTerms:
    """`actor` agrees to what the maker of the approval asked for; it begins no earlier than now."""
    actor.require(CHECKER)
    if actor.type != "user" or not approval.maker.startswith("user:") or approval.maker == str(actor):
        raise PermissionDenied("Terms are changed by two people: neither one alone.", code="needs_two")
    _one_at_a_time()
    if why := _overtaken(approval):
        raise StateConflict(why)
    base, asked = latest(), approval.arguments["effective_at"]
    begins = max(datetime.fromisoformat(asked), at) if asked else at
    if begins <= base.effective_at:
        raise StateConflict(f"Version {base.version} begins at {base.effective_at:%Y-%m-%d %H:%M} UTC.")
    row = _append(
        PlatformTerms(
            version=base.version + 1,
            effective_at=begins,
            sections=approval.arguments["sections"],
            reason=approval.reason[:500],
            made_by=approval.maker,
            approved_by=str(actor),
            approval=approval,
            prev_hash=base.hash,
        )
    )
    before, after = compare(base, row)
    append(
        row.aggregate_type,
        row.pk,
        "platform_terms.changed",
        {
            "version": row.version,
            "effective_at": schema.instant(row.effective_at),
            "before": before,
            "after": after,
            "hash": row.hash,
            "approval_id": str(approval.pk),
        },
        at=at,
        actor=actor,
    )
    return row


def _overtaken(approval: Approval) -> str:
    base = latest()
    return "" if base.version == approval.arguments["base_version"] else _came_between(base)


def _came_between(base: PlatformTerms) -> str:
    return f"Version {base.version} of the terms came in between: look at it, then ask again."


def _describe(approval: Approval) -> str:
    if not is_bound(approval):
        return "It is no longer what was requested, and cannot be approved."
    number, asked = approval.arguments["base_version"], approval.arguments["effective_at"]
    base = PlatformTerms.objects.get(version=number)
    old, new = difference(base.sections, approval.arguments["sections"])
    begins = f"{datetime.fromisoformat(asked):%Y-%m-%d %H:%M} UTC, if not later," if asked else "now"
    return (
        f"Version {number + 1}: {in_words(old, new)}. Contracts created from {begins} on get these values; "
        "those that exist keep theirs."
    )


def in_words(before: Json, after: Json) -> str:
    """ "payment net days 14 → 30; renewal auto false → true"."""
    return "; ".join(
        f"{path.strip('/').replace('/', ' ').replace('_', ' ')} "
        f"{shown(before.get(path))} → {shown(after.get(path))}"
        for path in {**before, **after}
    )


def shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(" ".join(map(str, one.values())) for one in value) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _one_at_a_time() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('platform_terms', 0))")


register_operation(
    Operation(
        name=OPERATION,
        label="Change the platform's terms",
        maker=MAKER,
        checker=CHECKER,
        run=_run,
        describe=_describe,
        overtaken=_overtaken,
    )
)
