"""What the tabs of a contract's page show, and the contract's place on the home page and in searches."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Min
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console.charts import nothing, table
from commerce.console.format import NOTHING, admin_url, badge, instant, link
from commerce.console.panels import approvals_of
from commerce.console.registry import (
    Card,
    CardValue,
    Hit,
    TimelineRow,
    register_card,
    register_panel,
    register_search,
    register_timeline,
)  # fmt: skip
from commerce.parties.models import Organization
from contracts.admin.bills import bill_of_period
from contracts.admin.choices import HOLD_REASONS
from contracts.admin.comparing import comparison
from contracts.admin.instants import edits_of, view_of
from contracts.admin.titles import title_of
from contracts.admin.words import (
    changed,
    fields_of,
    in_one_line,
    names_of,
    percent,
    price_in_words,
    title_of_section,
)
from contracts.models import Contract
from contracts.rules import fold
from contracts.rules.fold import Edit
from contracts.rules.state import ContractState, LineState

EDITS_SHOWN = 20
TIMELINE_SHOWN = 100
CONTRACT = "contracts.contract"
TERMS_TAB = "Lines and terms"
ENDED = frozenset({"cancelled", "expired", "terminated"})
_MOOT = SafeString('<br><span class="c-badge c-warn">changes nothing any more</span>')
_SECTIONS = ("payment", "renewal", "sla", "tax", "settlement", "references")


def lines(contract: Contract, request: HttpRequest) -> SafeString:
    state = view_of(contract, request).state
    if not state.lines:
        return nothing("Lines appear here when products are added.")
    sellers = Organization.objects.in_bulk(state.seller_ids)
    rows = [
        (
            _product(line),
            link(sellers.get(line.seller_id)),
            _line_status(state, line),
            "as used" if line.kind == "usage" else f"{line.quantity:,}",
            format_html("{} / {}", price_in_words(line.price), line.unit.replace("_", "-")),
            instant(line.added_at),
            instant(line.end_at) if line.end_at else NOTHING,
        )
        for line in sorted(state.lines.values(), key=_in_order)
    ]
    return table(["Product", "Seller", "State", ">Quantity", ">Price", "Added", "Ends"], rows)


def _in_order(line: LineState) -> tuple[bool, float, str]:
    """Live lines first, as they were added."""
    return not line.live, line.added_at.timestamp() if line.added_at else 0.0, line.product_code


def _product(line: LineState) -> SafeString:
    said = ["billed from service" if line.bill_from == "in_service" else ""]
    said += [f"minimum term until {line.min_term_until:%-d %b %Y}" if line.min_term_until else ""]
    said += [", ".join(line.unit_ids)]
    notes = "; ".join(word for word in said if word)
    return (
        format_html('{}<br><span class="c-help">{}</span>', line.product_code, notes)
        if notes
        else format_html("{}", line.product_code)
    )


def _line_status(state: ContractState, line: LineState) -> SafeString:
    if not line.live:
        return badge("removed", "bad")
    if state.status in ENDED:
        return badge("ended", "plain")
    if any(hold.covers(line.line_id) for hold in state.holds):
        return badge("suspended")
    return badge("live", "good")


def holds(contract: Contract, request: HttpRequest) -> SafeString:
    state = view_of(contract, request).state
    names = names_of(state)
    billing = {"continue": "goes on", "stop": "stopped"}
    rows = [
        (
            HOLD_REASONS.get(hold.reason, hold.reason).capitalize(),
            "the whole contract"
            if hold.scope == "all"
            else ", ".join(names.of(str(id_)) for id_ in hold.scope),
            billing.get(hold.billing) or f"reduced to {percent(hold.share)}",
            "blocked" if hold.access == "block" else "kept",
            instant(hold.since),
            instant(hold.resume_at),
        )
        for hold in state.holds
    ]
    return (
        table(["Held because of", "What", "Billing", "Access", "Since", "Until"], rows)
        if rows
        else SafeString()
    )


def agreements(contract: Contract, request: HttpRequest) -> SafeString:
    """Discounts, commitments and financings in force, each by its own fields."""
    state = view_of(contract, request).state
    names = names_of(state)
    kinds = {"Discount": state.discounts, "Commitment": state.commitments, "Financing": state.financings}
    blocks = [
        (title, fields_of(_that_say_something(entry), names, state.currency))
        for title, entries in kinds.items()
        for entry in state.to_json()[f"{title.lower()}s"].values()
        if entries
    ]
    return format_html_join("", "<h3>{}</h3>{}", blocks)


def _that_say_something(entry: dict[str, Any]) -> dict[str, Any]:
    """Without the zeros of the kinds that it is not; who bears it is said all the same."""
    return {key: value for key, value in entry.items() if value not in (0, "0") or key == "seller_share"}


def terms(contract: Contract, request: HttpRequest) -> SafeString:
    state = view_of(contract, request).state
    names = names_of(state)
    body = state.to_json()
    said = {**body["billing"], "downpayment": body["terms"]["commitment"].get("downpayment")}
    blocks = [("Billing", fields_of(said, names, state.currency))]
    for section in _SECTIONS:
        if body["terms"].get(section):
            found = body["terms"][section]
            unit = "" if section == "tax" else state.currency
            blocks.append((title_of_section(section), fields_of(found, names, unit)))
    return format_html_join("", "<h3>{}</h3>{}", (block for block in blocks if block[1]))


def signatures(contract: Contract, request: HttpRequest) -> SafeString:
    state = view_of(contract, request).state
    names = names_of(state)
    rows = [
        (
            names.of(str(one.party)),
            one.name,
            instant(one.at),
            format_html('<span class="c-mono" title="{}">{}…</span>', one.doc_sha256, one.doc_sha256[:16])
            if one.doc_sha256
            else NOTHING,
        )
        for one in state.signatures
    ]
    return table(["Party", "Signed by", "At", "Document"], rows) if rows else SafeString()


def log(contract: Contract, request: HttpRequest) -> SafeString:
    """The versions, newest first: who, why, when in both times, and what each changed where it begins."""
    edits = edits_of(contract)
    known_at = view_of(contract, request).known_at
    edits = fold.known(edits, known_at)
    last = request.GET.get("before", "")
    shown = [edit for edit in edits if not last.isdecimal() or edit.seq < int(last)][-EDITS_SHOWN:]
    corrected = {edit.payload.target_seq: edit for edit in edits if edit.operation == "correct"}
    moot = set(fold.moot(edits))
    steps = [(edit, *_step(edits, edit)) for edit in reversed(shown)]
    names = names_of(*(state for _, *states in steps for state in states))
    rows = [
        (
            format_html('<a class="c-link" href="{}">#{}</a>', edit_url(edit), edit.seq),
            format_html(
                "{}{}{}",
                title_of(edit.operation, edit.payload),
                _corrected(corrected.get(edit.seq)),
                _MOOT if edit.seq in moot else "",
            ),
            in_one_line(changed(before, after, names)) if edit.seq > 1 else "the draft",
            format_html(
                '{}<br><span class="c-help">recorded {}</span>',
                instant(edit.effective_at),
                instant(edit.recorded_at),
            ),
            edit.actor,
            edit.reason or NOTHING,
        )
        for edit, before, after in steps
    ]
    headers = ["Version", "Operation", "Changed", "Effective", "By", "Reason"]
    older = SafeString()
    if shown and shown[0].seq > 1:
        older = format_html(
            '<p class="c-buttons"><a class="c-button" href="?tab=versions&amp;before={}">Older</a></p>',
            shown[0].seq,
        )
    return format_html("{}{}", table(headers, rows, empty="Nothing was recorded by then."), older)


def _step(edits: list[Edit], edit: Edit) -> tuple[ContractState, ContractState]:
    """The state at the edit's instant without it and with it, as the log was when it came."""
    until = [other for other in edits if other.seq <= edit.seq]
    return (fold.fold(until[:-1], valid_at=edit.effective_at), fold.fold(until, valid_at=edit.effective_at))


def _corrected(correction: Edit | None) -> SafeString:
    if correction is None:
        return SafeString()
    word = {"void": "voided", "replace": "replaced", "reinstate": "reinstated"}[correction.payload.mode]
    return format_html('<br><span class="c-badge c-warn">{} by #{}</span>', word, correction.seq)


def edit_url(edit: Edit) -> str:
    return reverse("admin:contracts_contractedit_change", args=[edit.id])


def timeline(contract: Contract) -> Iterator[TimelineRow]:
    for edit in reversed(edits_of(contract)[-TIMELINE_SHOWN:]):
        yield TimelineRow(
            at=edit.effective_at,
            kind="contract",
            title=f"{title_of(edit.operation, edit.payload)} (version {edit.seq})",
            detail=edit.reason,
            actor=edit.actor,
            url=edit_url(edit),
        )


def instants(contract: Contract, request: HttpRequest) -> SafeString:
    """Every instant at which the contract changes, planned ones too; each leads to the page as of then."""
    view = view_of(contract, request)
    steps = fold.timeline(edits_of(contract), view.known_at)
    rows = [
        (
            format_html('<a class="c-link" href="?valid_at={}">{}</a>', _local(step.at), instant(step.at)),
            badge(step.state.status),
            ", ".join(title_of(edit.operation, edit.payload) for edit in step.edits) or "the clock",
            len(step.state.live_lines),
            badge("planned", "busy") if step.at > contract.projected_at else NOTHING,
        )
        for step in reversed(steps[-TIMELINE_SHOWN:])
    ]
    return table(["From", "Status", "By", ">Live lines", ""], rows, empty="Nothing was known by then.")


def _local(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S.%f}".rstrip("0").rstrip(".")


def search(term: str) -> Iterator[Hit]:
    for contract in Contract.objects.filter(number__startswith=term.upper()).order_by("number")[:10]:
        yield Hit(f"{contract.number} ({contract.get_status_display()})", admin_url(contract), "contract")


def waiting(request: HttpRequest) -> CardValue:
    rows = Contract.objects.filter(status=Contract.Status.PENDING_ACTIVATION)
    oldest = rows.aggregate(oldest=Min("projected_at"))["oldest"]
    return CardValue(count=rows.count(), oldest=oldest)


register_panel(CONTRACT, title="Lines", render=lines, order=1, tab=TERMS_TAB)
register_panel(CONTRACT, title="Holds", render=holds, order=2, tab=TERMS_TAB)
register_panel(CONTRACT, title="Agreements", render=agreements, order=3, tab=TERMS_TAB)
register_panel(CONTRACT, title="Terms", render=terms, order=4, tab=TERMS_TAB)
register_panel(CONTRACT, title="Signatures", render=signatures, order=5, tab=TERMS_TAB)
register_panel(CONTRACT, title="Versions", render=log, order=6)
register_panel(CONTRACT, title="What it bills", render=bill_of_period, order=9)
register_panel(CONTRACT, title="Every change, in business time", render=instants, order=7, tab="Timeline")
register_panel(CONTRACT, title="Compare", render=comparison, order=8)
register_panel(
    CONTRACT,
    title="Approvals",
    render=lambda contract, request: approvals_of(CONTRACT, contract.pk),
    order=60,
    permission="console.view_approval",
)
register_timeline(CONTRACT, timeline)
register_search(search, permission="contracts.view_contract")
register_card(
    Card(
        key="contracts.pending_activation",
        title="Signed, not live",
        url=lambda: reverse("admin:contracts_contract_changelist") + "?status__exact=pending_activation",
        load=waiting,
        empty="Every signed contract is live.",
        permission="contracts.view_contract",
        order=60,
    )
)
