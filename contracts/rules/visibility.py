"""Who sees what of a contract: the platform all of it, a party its own part of state, log and timeline.

A buyer sees all but how its money is divided; a seller the header, its own lines with the discounts that
it bears, and its own share; a partner the header and its own share. An edit that changes nothing a party
sees is not there for it. A party whose place was taken sees its own time, up to the transfer and no further.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from contracts.rules import fold, schema
from contracts.rules.comparison import compare
from contracts.rules.fold import Edit
from contracts.rules.lines import DesiredLine, Difference, Owed
from contracts.rules.state import ContractState, changes

Json = dict[str, Any]
Viewer = UUID | Literal["platform"]

_HEADER = ("status", "version", "currency", "start_at", "end_at", "billing", "needs_resign")
# Of a payload: what is not listed here is for the buyer and the platform, new fields too.
_PAYLOAD = frozenset(
    {
        *("currency", "start_at", "number", "term", "terms", "billing", "access", "stage", "when"),
        *("line_id", "product", "seller_id", "quantity", "delta", "price", "kind", "unit", "meter"),
        *("offer_id", "percent", "basis", "notice_given_at"),
        *("party", "anchor"),
    }
)
# Of a discount, to a seller that bears a part of it; the other names are those of the payload.
_DISCOUNT = frozenset(
    {
        *("discount_id", "kind", "percent", "ramp", "stack_order", "since", "ends_at", "seller_share"),
        *("duration", "funded_by"),
    }
)
_SUMS = frozenset({"amount_minor", "units", "amount"})
_FIELDS = tuple(field.name for field in fields(ContractState))
# Another party's edit moves these too, so that a change in them alone shows nobody an edit.
_SHARED = ("version", "needs_resign")


@dataclass(frozen=True)
class Step:
    """A state that begins at `at`, and the edits (by `seq`) that the viewer sees bring it about."""

    at: datetime
    body: Json
    edits: list[int]


@dataclass(frozen=True)
class Stretch:
    """[start, end) of valid time in which two instants of knowledge differ: JSON pointers to values."""

    start: datetime
    end: datetime | None
    before: Json
    after: Json


class Parts:
    """States as JSON, each part of them written once: those of one log share all that an edit left alone."""

    def __init__(self) -> None:
        self._written: dict[int, tuple[Any, Any]] = {}
        self._last: dict[Viewer, tuple[ContractState, Json]] = {}

    def of(self, state: ContractState) -> Json:
        """`state.to_json()`, to be read only."""
        return {
            name: {str(id_): self._dump(one) for id_, one in value.items()}
            if isinstance(value, dict)
            else self._dump(value)
            for name in _FIELDS
            if (value := getattr(state, name)) is not None
        }

    def substance(self, state: ContractState, viewer: Viewer) -> Json:
        """What an edit must change to be there for the viewer; asked again of the state asked of last."""
        if viewer not in self._last or self._last[viewer][0] is not state:
            self._last[viewer] = state, _substance(shown(state, viewer, self))
        return self._last[viewer][1]

    def _dump(self, value: Any) -> Any:
        if id(value) not in self._written:  # held with what was written of it: no other value gets its id
            self._written[id(value)] = value, schema.dump(value)
        return self._written[id(value)][1]


def roles_of(state: ContractState, organization_id: UUID) -> frozenset[str]:
    """What an organization is on the contract; empty when it is none of its parties."""
    found = {
        "buyer": state.buyer_id == organization_id,
        "seller": any(line.seller_id == organization_id for line in state.lines.values()),
        "partner": state.terms.settlement.partner_id == organization_id,
    }
    return frozenset(role for role, holds in found.items() if holds)


def last_instant(state: ContractState, viewer: Viewer) -> datetime | None:
    """The last instant that is there for a party whose place was taken; None for whoever has a part now."""
    left = [transfer.at for transfer in state.transfers if transfer.old_id == viewer]
    if viewer == "platform" or not left or roles_of(state, viewer):
        return None
    return max(left) - timedelta(microseconds=1)


def shown(state: ContractState, viewer: Viewer, parts: Parts | None = None) -> Json | None:
    """The state's JSON as far as the viewer may read it; None when it has no part in the contract."""
    body = (parts or Parts()).of(state)
    if viewer == "platform":
        return body
    roles = roles_of(state, viewer)
    if not roles:
        return None
    terms = _terms(body["terms"], roles)
    own = _own_lines(state, viewer)
    discounts = body.get("discounts", {})
    borne = _borne(discounts, own)
    if "buyer" in roles:
        found = body | {"terms": terms, "lines": _without_shares(body["lines"], viewer)}
        if discounts:
            found["discounts"] = {
                id_: one if id_ in borne else _without(one, "seller_share") for id_, one in discounts.items()
            }
        return found
    return {
        **{name: body[name] for name in _HEADER if name in body},
        "buyer_id": body["buyer_id"] if "seller" in roles else None,
        "terms": terms,
        "lines": {id_: line for id_, line in body["lines"].items() if id_ in own},
        **({"discounts": borne} if borne else {}),
        "holds": [
            {name: hold[name] for name in ("billing", "access", "since")} | {"scope": scope}
            for hold in body["holds"]
            if (scope := _scope(hold["scope"], own))
        ],
        "signatures": [item for item in body["signatures"] if item["party"] == str(viewer)],
    }


def seen_edits(edits: Iterable[Edit], viewer: UUID, known_at: datetime | None = None) -> dict[int, Json]:
    """The edits that a party sees: `seq` to the part of the payload that it may read.

    An edit stays seen when it is corrected, and its correction is seen with it: by the buyer whole, by
    others without what it says instead.
    """
    return seen_by(edits, [viewer], known_at)[viewer]


def seen_by(
    edits: Iterable[Edit], viewers: Iterable[UUID], known_at: datetime | None = None
) -> dict[UUID, dict[int, Json]]:
    """`seen_edits` of several parties, folding the log once for all of them."""
    log = fold.known(edits, known_at)
    corrections = [edit for edit in log if edit.operation == "correct"]
    parts = Parts()
    found: dict[UUID, dict[int, Json]] = {viewer: {} for viewer in viewers}
    for as_corrected in (False, True) if corrections else (True,):
        for edit, before, after in fold.walk(log, as_corrected=as_corrected):
            for viewer, seen in found.items():
                roles = roles_of(before, viewer) | roles_of(after, viewer)
                if "buyer" in roles or (
                    roles and parts.substance(before, viewer) != parts.substance(after, viewer)
                ):
                    seen.setdefault(edit.seq, _payload(edit, after, viewer, roles))
    steps = fold.timeline(log) if corrections else []
    operations = {edit.seq: edit.operation for edit in log}
    for edit in corrections:
        buyer_id = fold.at_instant(steps, edit.effective_at).buyer_id
        for viewer, seen in found.items():
            if edit.payload.target_seq in seen:
                target = operations[edit.payload.target_seq]
                seen[edit.seq] = _correction(edit, target, viewer, is_buyer=buyer_id == viewer)
    return found


def seen_timeline(edits: Iterable[Edit], viewer: Viewer, known_at: datetime | None = None) -> list[Step]:
    """`fold.timeline` without the instants at which nothing changes that the viewer sees."""
    edits = list(edits)
    seen = None if viewer == "platform" else seen_edits(edits, viewer, known_at)
    found = []
    parts = Parts()
    last: Json | None = None
    for step in fold.timeline(edits, known_at):
        body = shown(step.state, viewer, parts)
        sequences = [edit.seq for edit in step.edits if seen is None or edit.seq in seen]
        if body is not None and (sequences or _substance(body) != _substance(last)):
            found.append(Step(step.at, body, sequences))
        last = body
    return found


def seen_differences(
    edits: Iterable[Edit], viewer: Viewer, earlier: datetime, later: datetime | None
) -> list[Stretch]:
    """What was learned between two instants, in stretches that change only where the viewer sees it."""
    edits = list(edits)
    found: list[Stretch] = []
    parts = Parts()
    last: tuple[Json, Json] | None = None
    for part in compare(fold.timeline(edits, earlier), fold.timeline(edits, later)):
        bodies = (_substance(shown(part.before, viewer, parts)), _substance(shown(part.after, viewer, parts)))
        if bodies[0] == bodies[1]:
            continue
        start = part.start
        if found and found[-1].end == start and last == bodies:
            start = found.pop().start
        found.append(Stretch(start, part.end, *changes(*bodies)))
        last = bodies
    return found


def seen_lines(lines: Iterable[DesiredLine], viewer: Viewer) -> list[DesiredLine]:
    """Of what should be billed: all that a buyer pays, without who bears a discount; a seller's part.

    A seller's part is what its lines come to, with the discounts that it bears. The tax is not for it.
    """
    if viewer == "platform":
        return list(lines)
    found: list[DesiredLine] = []
    discounts: dict[tuple[Owed, datetime, datetime], int] = {}
    for line in lines:
        if line.buyer_id != viewer:
            if line.seller_id == viewer and line.funded_by != "platform":
                found.append(line)
            continue
        line = replace(line, funded_by="")
        place = discounts.setdefault((line.owed, line.start, line.end), len(found))
        if line.kind == "discount" and place < len(found):
            found[place] = _together(found[place], line)
        else:
            found.append(line)
    return found


def seen_bills(bills: Iterable[Difference], viewer: Viewer) -> list[Difference]:
    """Of what an edit changes of bills, what the buyer pays, without who bears a discount."""
    if viewer == "platform":
        return list(bills)
    found: dict[Owed, Difference] = {}
    for bill in bills:
        if bill.owed.buyer_id != viewer:
            continue
        owed = replace(bill.owed, funded_by="")
        so_far = found.get(owed)
        found[owed] = replace(
            bill,
            owed=owed,
            net_before=bill.net_before + (so_far.net_before if so_far else 0),
            net_after=bill.net_after + (so_far.net_after if so_far else 0),
            tax_before=bill.tax_before + (so_far.tax_before if so_far else 0),
            tax_after=bill.tax_after + (so_far.tax_after if so_far else 0),
        )
    return list(found.values())


def _terms(terms: Json, roles: Collection[str]) -> Json:
    """What was agreed with the viewer: how a buyer pays, what of it a payee gets and when."""
    names: set[str] = set()
    if "seller" in roles:
        names |= {"fee_rate", "seasoning_days", "reserve_rate"}
    if "partner" in roles:
        names |= {"partner_id", "partner_share", "seasoning_days", "reserve_rate"}
    settlement = {name: value for name, value in terms.get("settlement", {}).items() if name in names}
    rest = {name: value for name, value in terms.items() if name != "settlement" and "buyer" in roles}
    return rest | ({"settlement": settlement} if settlement else {})


def _payload(edit: Edit, after: ContractState, viewer: UUID, roles: Collection[str]) -> Json:
    body = _readable(edit.operation, schema.dump(edit.payload), viewer, roles)
    if "buyer" in roles or edit.operation == "change_terms":
        return body
    own = _own_lines(after, viewer)
    if edit.operation == "apply_discount":
        borne = _borne(schema.dump(after.discounts), own)
        return _discount_edit(schema.dump(edit.payload), borne.get(str(edit.payload.discount_id)))
    part = {name: value for name, value in body.items() if name in _PAYLOAD}
    if "lines" in body:
        part["lines"] = [line for line in body["lines"] if line["line_id"] in own]
    if "signatures" in body:
        part["signatures"] = [item for item in body["signatures"] if item["party"] == str(viewer)]
    if "scope" in body:
        part["scope"] = _scope(body["scope"], own)
    if "consents" in body:
        part["consents"] = [item for item in body["consents"] if item["party"] == str(viewer)]
    for name in ("buyer_id", "new_party_id"):
        if name in body and "seller" in roles:
            part[name] = body[name]
    return part


def _correction(edit: Edit, operation: str, viewer: UUID, *, is_buyer: bool) -> Json:
    """A correction of an edit of that operation: whole for the buyer of its instant."""
    body: Json = schema.dump(edit.payload)
    if not is_buyer:
        return {name: body[name] for name in ("target_seq", "mode")}
    if "replacement" in body:
        new = body["replacement"]
        new["payload"] = _readable(operation, new["payload"], viewer, {"buyer"})
    return body


def _readable(operation: str, body: Json, viewer: UUID, roles: Collection[str]) -> Json:
    """A payload with what it says of terms and of lines' shares as far as the viewer may read it."""
    if operation == "change_terms":
        return _terms(body, roles) | {name: body[name] for name in _HEADER if name in body}
    if operation == "apply_discount":
        return _without(body, "funded_by")
    if operation == "add_product":
        return _without_shares({"": body}, viewer)[""]
    if operation == "create":
        lines = _without_shares(dict(enumerate(body["lines"])), viewer)
        return body | {"terms": _terms(body["terms"], roles), "lines": list(lines.values())}
    return body


def _borne(discounts: Json, own: Collection[str]) -> Json:
    """The discounts that the seller of `own` lines bears a part of, as far as they are for these lines.

    One that the platform bears alone takes nothing from it. A sum that is shared with other lines is left
    out: by its own part of it a seller could reckon what the others come to.
    """
    found: Json = {}
    for id_, one in discounts.items():
        scope = _scope(one["scope"], own)
        if scope and Decimal(one["seller_share"]):
            names = _DISCOUNT if scope == "all" or scope != one["scope"] else _DISCOUNT | _SUMS
            found[id_] = {name: value for name, value in one.items() if name in names} | {"scope": scope}
    return found


def _discount_edit(body: Json, borne: Json | None) -> Json:
    """What a seller reads of an edit of a discount: no more than the state says that it leaves."""
    if borne is None:
        return {"discount_id": body["discount_id"]} | ({"mode": "end"} if body["mode"] == "end" else {})
    names = _DISCOUNT | _SUMS if "units" in borne else _DISCOUNT
    return {name: value for name, value in body.items() if name in names} | {"scope": borne["scope"]}


def _without_shares(lines: dict[Any, Json], viewer: UUID) -> dict[Any, Json]:
    """Lines without what their sellers get of them, but for the viewer's own."""
    return {
        id_: line if line["seller_id"] == str(viewer) else _without(line, "settlement")
        for id_, line in lines.items()
    }


def _without(body: Json, name: str) -> Json:
    return {key: value for key, value in body.items() if key != name} if name in body else body


def _together(one: DesiredLine, other: DesiredLine) -> DesiredLine:
    return replace(
        one,
        rate=one.rate + other.rate,
        net_minor=one.net_minor + other.net_minor,
        tax_minor=one.tax_minor + other.tax_minor,
    )


def _own_lines(state: ContractState, viewer: UUID) -> set[str]:
    return {str(id_) for id_, line in state.lines.items() if line.seller_id == viewer}


def _scope(scope: str | list[str], own: Collection[str]) -> str | list[str]:
    """Of a hold's scope what concerns these lines; empty when nothing does."""
    if scope == "all":
        return "all" if own else []
    return [line_id for line_id in scope if line_id in own]


def _substance(body: Json | None) -> Json:
    return {name: value for name, value in (body or {}).items() if name not in _SHARED}
