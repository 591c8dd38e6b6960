"""The projection against its log: rebuilt, verified, and found out when somebody tampers with either."""

import importlib
import json
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.core.management import call_command
from django.db import connection

from commerce.ids import uuid7
from commerce.invariants import REGISTRY, Finding
from contracts import services
from contracts.models import Contract, Product
from contracts.rules.fold import fold
from contracts.services import projection
from tests.contracts.conftest import MARCH, OPERATOR, create, edit
from tests.contracts.scheduling import events_of

pytestmark = pytest.mark.django_db


def findings(code: str) -> list[Finding]:
    checks = [i for i in REGISTRY if i.code == code and i.check.__module__ == "contracts.invariants"]
    return [finding for invariant in checks for finding in invariant.check()]


def without_guards(sql: str, *parameters: Any) -> None:
    """Change a row as a superuser who goes around the triggers would."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE contracts_contractedit DISABLE TRIGGER guard_append_only")
        cursor.execute(sql, parameters)
        cursor.execute("ALTER TABLE contracts_contractedit ENABLE ALWAYS TRIGGER guard_append_only")


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    out = StringIO()
    try:
        call_command("contracts_rebuild", *arguments, "--json", stdout=out, stderr=StringIO())
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(out.getvalue())


def test_the_row_is_the_fold_of_the_log(active: Contract, servers: UUID) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 3}, at=MARCH + timedelta(days=3))
    active.refresh_from_db()
    folded = fold(services.contract_edits(active.pk), valid_at=active.projected_at)
    assert active.current == folded
    assert active.state_hash == folded.hash
    assert findings("I7") == findings("I10") == findings("I5") == []


def test_a_row_that_differs_is_found_and_swapped_only_when_somebody_accepts_it(active: Contract) -> None:
    Contract.objects.filter(pk=active.pk).update(state={}, version=9, state_hash="x")
    assert len(findings("I7")) == 2
    row = {"number": active.number, "columns": ["state", "state_hash", "version"], "swapped": False}
    for arguments in (["--dry-run", "--accept", "A test"], []):
        code, report = run(*arguments)
        assert (code, report["differed"]) == (3, [row])
        active.refresh_from_db()
        assert active.version == 9
    assert run("--accept", "A test wrote it")[0] == 0
    active.refresh_from_db()
    assert active.version == 4
    assert run() == (0, {"checked": 1, "differed": [], "tampered": []})
    assert findings("I7") == []


def test_what_an_older_fold_said_is_swapped_unless_more_than_the_state_differs(active: Contract) -> None:
    end_at = active.end_at
    old: dict[str, Any] = {"state": {}, "state_hash": "x", "fold_version": 1}
    Contract.objects.filter(pk=active.pk).update(**old, end_at=None)
    assert run()[0] == 3
    active.refresh_from_db()
    assert active.fold_version == 1
    Contract.objects.filter(pk=active.pk).update(end_at=end_at)
    code, report = run()
    assert (code, [row["swapped"] for row in report["differed"]]) == (0, [True])
    active.refresh_from_db()
    assert active.current.status == "active"


def test_an_end_that_a_newer_fold_counts_otherwise_is_swapped_with_the_tick_that_waits_for_it(
    active: Contract, servers: UUID
) -> None:
    """Two quarters, counted from where the cadence changed; an older fold counted them from the start."""
    changed, since = MARCH + timedelta(days=45), MARCH + timedelta(days=61)
    edit(active, "change_terms", {"billing": {"cadence": "P3M"}}, at=changed)
    discount = {
        "discount_id": str(uuid7()), "scope": [str(servers)], "kind": "percent", "percent": "0.1",
        "funded_by": {"kind": "platform"}, "duration": {"kind": "periods", "periods": 2},
    }  # fmt: skip
    edit(active, "apply_discount", discount, at=since)
    active.refresh_from_db()
    ends_at = active.next_due_at
    [held] = active.current.discounts.values()
    assert ends_at == held.ends_at

    counted = since.replace(month=9, day=1)
    old: dict[str, Any] = {"state": {}, "state_hash": "x", "fold_version": 3, "next_due_at": counted}
    Contract.objects.filter(pk=active.pk).update(**old)
    code, report = run()

    assert (code, [row["swapped"] for row in report["differed"]]) == (0, [True])
    active.refresh_from_db()
    assert active.next_due_at == ends_at != counted
    Contract.objects.filter(pk=active.pk).update(next_due_at=counted)
    assert run()[0] == 3, "of the present fold it is nothing that may differ"


def test_what_was_forfeited_before_the_upgrade_is_read_after_it(active: Contract, servers: UUID) -> None:
    """A row says `paid_until` of such a line where it says `forfeited` now."""
    edit(
        active, "remove_product", {"line_id": str(servers), "unused": "forfeit"}, at=MARCH + timedelta(days=3)
    )
    active.refresh_from_db()
    told, untold = active.state, json.loads(json.dumps(active.state))
    line = untold["lines"][str(servers)]
    line["paid_until"] = line.pop("forfeited")["until"]
    Contract.objects.filter(pk=active.pk).update(state=untold, state_hash="x", fold_version=3)
    active.refresh_from_db()
    with pytest.raises(KeyError):
        _ = active.current
    migration = importlib.import_module("contracts.migrations.0018_forfeited").Migration
    with connection.cursor() as cursor:
        cursor.execute(migration.operations[0].sql)
    active.refresh_from_db()
    assert active.state == told
    code, report = run()
    assert (code, report["differed"][0]["columns"]) == (0, ["fold_version", "state_hash"])
    assert run()[1]["differed"] == []


def test_a_rebuild_goes_on_after_the_contract_it_reached(payload: dict[str, Any]) -> None:
    first, second = create(payload).contract, create(payload | {"lines": []}).contract
    assert run("--after", first.number)[1]["checked"] == 1
    assert run("--after", second.number)[1]["checked"] == 0
    assert run("--limit", "1")[1]["checked"] == 1


@pytest.mark.django_db(transaction=True)
def test_processes_that_share_a_rebuild_find_what_one_finds(payload: dict[str, Any]) -> None:
    drafts = [create(payload | {"lines": []}).contract for _ in range(3)]
    Contract.objects.filter(pk=drafts[1].pk).update(version=9)
    assert run("--workers", "2") == run()
    assert run("--workers", "2", "--accept", "A test")[0] == 0
    assert run() == (0, {"checked": 3, "differed": [], "tampered": []})


def test_a_tampered_log_is_found_at_the_edit_that_was_changed(active: Contract) -> None:
    without_guards(
        "UPDATE contracts_contractedit SET reason = 'as agreed' WHERE contract_id = %s AND seq = 2", active.pk
    )
    assert services.verify_log(active.pk) == 2
    assert [finding.detail for finding in findings("I10")] == [
        f"Edit #2 of {active.number} was tampered with."
    ]
    assert run()[1]["tampered"] == [{"number": active.number, "seq": 2}]


def test_a_removed_edit_is_found_as_a_gap(active: Contract) -> None:
    without_guards("DELETE FROM contracts_contractedit WHERE contract_id = %s AND seq = 4", active.pk)
    assert any("4 with 3 edits" in finding.detail for finding in findings("I7"))


def test_a_contract_the_tick_has_forgotten_is_found(active: Contract) -> None:
    Contract.objects.filter(pk=active.pk).update(next_due_at=MARCH - timedelta(days=400))
    assert [finding.subject for finding in findings("I5")] == [f"contract:{active.pk}"]


def test_recording_asks_as_many_queries_on_a_long_log_as_on_a_short_one(
    active: Contract, servers: UUID, django_assert_max_num_queries: Any
) -> None:
    for quantity in range(3, 40):
        edit(active, "change_quantity", {"line_id": str(servers), "quantity": quantity})
    with django_assert_max_num_queries(20):
        edit(active, "change_quantity", {"line_id": str(servers), "quantity": 1})


def test_a_product_is_made_once_and_left_as_it_is() -> None:
    given: dict[str, Any] = {
        "code": "b200-server",
        "kind": "recurring",
        "unit": "server_month",
        "actor": OPERATOR,
    }
    first = services.ensure_product(name="B200", **given)
    assert services.ensure_product(name="Other", **given) == first
    assert Product.objects.get(code="b200-server").name == "B200"


def test_a_line_keeps_the_kind_its_product_had_when_it_was_added(
    payload: dict[str, Any], servers: UUID
) -> None:
    draft = create(payload).contract
    Product.objects.filter(code="h100-server").update(active=False)
    assert draft.current.lines[servers].kind == "recurring"
    assert services.rebuild_contract(contract_id=draft.pk, actor=OPERATOR).changed == []


def test_a_tick_out_of_time_stops_instead_of_going_on_with_the_next_contract(
    active: Contract, servers: UUID, payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{**line, "line_id": str(uuid7())} for line in payload["lines"]]
    other = create({**payload, "lines": lines}).contract
    for contract, line_id in ((active, str(servers)), (other, lines[0]["line_id"])):
        change = {"line_id": line_id, "quantity": 9}
        edit(contract, "change_quantity", change, effective_at=MARCH + timedelta(days=1))
    tried = []

    def cut_off(*, contract_id: UUID, at: Any) -> int:
        tried.append(contract_id)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(projection, "take_effect", cut_off)
    with pytest.raises(SoftTimeLimitExceeded):
        services.take_effect_due(at=MARCH + timedelta(days=2))
    assert len(tried) == 1
    monkeypatch.undo()
    assert services.take_effect_due(at=MARCH + timedelta(days=2)) == 2


def test_what_the_clock_does_otherwise_by_a_correction_is_told_again(payload: dict[str, Any]) -> None:
    """The trial had been told to convert at an instant at which it ends the contract, as is known now."""
    on_trial = {**payload, "trial": {"days": 10, "on_end": "convert"}}
    contract = create(on_trial).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    ended = MARCH + timedelta(days=10)
    services.take_effect_due(at=ended)
    told = len(events_of(contract))

    other = {"payload": {**payload, "trial": {"days": 10, "on_end": "expire"}}}
    correction = {"target_seq": 1, "mode": "replace", "replacement": other}
    edit(contract, "correct", correction, at=MARCH + timedelta(days=11), reason="As signed")

    contract.refresh_from_db()
    assert contract.status == "terminated"
    [event] = [event for event in events_of(contract)[told:] if event[0] == "contract.took_effect"]
    assert event[1] == ended
    assert event[2]["status"] == {"before": "active", "after": "terminated"}


def test_what_the_clock_does_all_the_same_is_not_told_again(payload: dict[str, Any], servers: UUID) -> None:
    contract = create({**payload, "trial": {"days": 10, "on_end": "convert"}}).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    services.take_effect_due(at=MARCH + timedelta(days=10))
    told = len(events_of(contract))

    more = {"line_id": str(servers), "quantity": 9}
    since = MARCH + timedelta(days=5)
    edit(contract, "change_quantity", more, at=MARCH + timedelta(days=11), effective_at=since, reason="Late")

    assert [kind for kind, _, _ in events_of(contract)[told:]] == ["contract.quantity_changed"]
