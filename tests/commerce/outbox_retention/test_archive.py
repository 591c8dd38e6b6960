"""Months of the outbox as files, removed and brought back; each reason for which one has to stay."""

import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from commerce.errors import CommerceError, Conflict, NotFound
from commerce.ids import uuid7
from commerce.outbox import drain, partitions, replay, retention, services
from commerce.outbox.invariants import in_their_months, published_before_its_effects, sleeping_streams
from commerce.outbox.models import OutboxArchive, OutboxEvent, OutboxFailure, OutboxStream
from commerce.outbox.partitions import after, midnight
from commerce.outbox.removal import remove_month, restore_month
from commerce.outbox.retention import (
    MANIFEST,
    archive_month,
    archived_month,
    candidates,
    compare_archive,
    find_event,
    horizon,
    why_not,
)
from ledger.models import LedgerPeriod
from ledger.services.archive import open_books
from tests.commerce.outbox_retention.conftest import (
    ACTOR,
    AT,
    LAST,
    OLD,
    OLDEST,
    THIS,
    move_back,
    parts,
    rows,
    sql,
    write,
)


def remove(month, folder):
    return remove_month(month=month, folder=folder, actor=ACTOR, at=AT)


def restore(month, folder):
    return restore_month(month=month, folder=folder, actor=ACTOR, at=AT)


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(CommerceError) as caught:
        what()
    return str(caught.value)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]]


def test_a_month_becomes_files_that_say_all_of_it_in_the_same_bytes_each_time(
    outbox: str, tmp_path: Path
) -> None:
    line = archive_month(month=OLD, folder=tmp_path / "one")
    assert (line.events, line.failures) == (6, 1)
    kept = rows(month=OLD)
    assert (line.first_id, line.last_id) == (kept[0][0], kept[-1][0])
    found = lines(tmp_path / "one" / line.events_file)
    assert [event["id"] for event in found] == [row[0] for row in kept]
    assert found[0]["payload"]["text"] == '"quoted" \\ tab\t é\u2028 \n line'
    assert set(found[0]) == {field.column for field in OutboxEvent._meta.concrete_fields}
    assert [failure["error"] for failure in lines(tmp_path / "one" / line.failures_file)] == ["no\tanswer\\n"]
    sql("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'")
    assert archive_month(month=OLD, folder=tmp_path / "two") == line
    for file in (line.events_file, line.failures_file, MANIFEST):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    sql("RESET timezone; RESET datestyle")
    assert rows(month=OLD) == kept, "nothing left the outbox"
    assert list(compare_archive(folder=tmp_path / "one")) == []


def test_a_month_that_is_not_over_stays(outbox: str, tmp_path: Path) -> None:
    assert "is not over" in refused(lambda: archive_month(month=THIS, folder=tmp_path))
    assert "is not here" in refused(lambda: archive_month(month=OLDEST.replace(year=2001), folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_month_with_an_event_that_is_not_published_stays(outbox: str, tmp_path: Path) -> None:
    sql("UPDATE outbox_outboxevent SET published_at = NULL WHERE id = %s", rows(month=OLD)[2][0])
    assert "is not published" in refused(lambda: archive_month(month=OLD, folder=tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert why_not(OLDEST) == ""


def test_a_month_in_which_a_parked_stream_has_something_to_do_stays(outbox: str, tmp_path: Path) -> None:
    stream = OutboxStream.objects.filter(group="g").latest("id")
    event = OutboxEvent.objects.filter(aggregate_id=stream.aggregate_id, payload__n=10).get()
    OutboxStream.objects.filter(pk=stream.pk).update(pending_since=event.recorded_at)
    assert why_not(OLD) == "", "a bound from before, of a stream that has nothing to do, keeps nothing"
    services.park_stream(stream=stream, actor=ACTOR, at=AT, reason="wait")
    OutboxStream.objects.filter(pk=stream.pk).update(pending_since=event.recorded_at)
    assert f"Stream {stream.pk}" in refused(lambda: archive_month(month=OLD, folder=tmp_path))
    assert why_not(OLDEST) == ""


def test_a_month_that_has_no_partition_stays_where_it_is(outbox: str, tmp_path: Path) -> None:
    sql(f"ALTER TABLE outbox_outboxevent DETACH PARTITION outbox_outboxevent_{LAST:%Y%m}")
    sql(f"INSERT INTO outbox_outboxevent SELECT * FROM outbox_outboxevent_{LAST:%Y%m}")
    assert "is not here" in refused(lambda: archive_month(month=LAST, folder=tmp_path))
    assert [found.subject for found in in_their_months()] == ["outbox_outboxevent_default"]


def test_a_month_stays_while_somebody_objects(outbox: str, tmp_path: Path) -> None:
    retention.register_veto(lambda month: "Wait." if month == OLD else "")
    assert refused(lambda: archive_month(month=OLD, folder=tmp_path)) == "Wait."
    assert refused(lambda: remove(OLD, tmp_path)) == "Wait."
    assert archive_month(month=OLDEST, folder=tmp_path).events == 6
    found = {each.month: (each.written, each.why_not) for each in candidates(folder=tmp_path)}
    assert found == {OLDEST: (True, ""), OLD: (False, "Wait."), LAST: (False, "")}


def test_the_ledger_objects_until_the_books_of_a_month_are_closed(outbox: str, tmp_path: Path) -> None:
    retention.register_veto(open_books)
    assert "are not closed" in refused(lambda: archive_month(month=OLDEST, folder=tmp_path))
    for month in (OLDEST, OLD):
        LedgerPeriod.objects.create(starts_on=month, ends_on=after(month))
    with pytest.raises(Conflict):
        archive_month(month=OLDEST, folder=tmp_path)
    LedgerPeriod.objects.filter(starts_on=OLDEST).update(status="closing")
    with pytest.raises(Conflict):
        archive_month(month=OLDEST, folder=tmp_path)
    LedgerPeriod.objects.filter(starts_on=OLDEST).update(status="closed")
    assert archive_month(month=OLDEST, folder=tmp_path).events == 6
    assert why_not(OLD) == f"The books of {OLD:%B %Y} are not closed."


def test_the_ledger_is_asked_in_every_process() -> None:
    """This test's own registry is empty, so the application is asked how it starts."""
    import inspect

    from ledger.apps import LedgerConfig

    assert "register_veto(archive.open_books)" in inspect.getsource(LedgerConfig.ready)


@pytest.mark.parametrize("tampered", ["file", "truncated", "gone", "manifest", "row", "no manifest"])
def test_check_finds_what_was_tampered_with(outbox: str, tmp_path: Path, tampered: str) -> None:
    line = archive_month(month=OLD, folder=tmp_path)
    path = tmp_path / line.events_file
    if tampered == "file":
        text = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(text.replace(b'"n": 10', b'"n": 11')))
    elif tampered == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif tampered == "gone":
        (tmp_path / line.failures_file).unlink()
    elif tampered == "manifest":
        (tmp_path / MANIFEST).write_text("no json")
        with pytest.raises(CommerceError, match="is no manifest"):
            list(compare_archive(folder=tmp_path))
        return
    elif tampered == "no manifest":
        (tmp_path / MANIFEST).unlink()
    else:
        sql("ALTER TABLE outbox_outboxevent DISABLE TRIGGER guard_updatable_only")
        sql("""UPDATE outbox_outboxevent SET payload = payload || '{"n": 99}' WHERE id = %s""", line.first_id)
        sql("ALTER TABLE outbox_outboxevent ENABLE ALWAYS TRIGGER guard_updatable_only")
    assert len(list(compare_archive(folder=tmp_path))) == 1
    if tampered != "no manifest":
        remove(OLDEST, tmp_path)
        assert _code(lambda: remove(OLD, tmp_path)) == "archive_differs"
        assert len(rows(month=OLD)) == 6


def _code(what: Callable[[], object]) -> str:
    with pytest.raises(CommerceError) as caught:
        what()
    return caught.value.code


def test_a_removed_month_is_gone_written_down_and_everything_else_goes_on(
    outbox: str, tmp_path: Path, seen: list
) -> None:
    gone, kept, cursors = rows(month=OLDEST), rows(), list(OutboxStream.objects.order_by("id").values())
    row = remove(OLDEST, tmp_path)
    assert (row.month, row.step, row.events, row.failures, row.actor) == (
        OLDEST, "removed", 6, 1, str(ACTOR),
    )  # fmt: skip
    assert (row.horizon, horizon()) == (midnight(OLD), midnight(OLD))
    assert rows() == [event for event in kept if event not in gone]
    for table in ("outbox_outboxevent", "outbox_outboxfailure"):
        assert f"{OLDEST:%Y%m}" not in parts(table)
        assert sql("SELECT to_regclass(%s)", f"{table}_{OLDEST:%Y%m}") == [(None,)]
    assert list(OutboxStream.objects.order_by("id").values()) == cursors
    for check in (published_before_its_effects, sleeping_streams, in_their_months):
        assert list(check()) == []
    seen.clear()
    assert write("1", 100).sequence == 13, "the head counts on"
    drain()
    assert seen == [("1", 100)]
    assert list(compare_archive(folder=tmp_path)) == []
    assert partitions.make_partitions() == 0, "nobody makes its partition anew"


def test_months_leave_oldest_first_and_come_back_newest_first(outbox: str, tmp_path: Path) -> None:
    before = rows(), rows("outbox_outboxfailure")
    assert f"{OLDEST:%B %Y} leaves first" in refused(lambda: remove(OLD, tmp_path))
    assert rows() == before[0]
    for month in (OLDEST, OLD, LAST):
        remove(month, tmp_path)
    assert f"{LAST:%B %Y} left later" in refused(lambda: restore(OLD, tmp_path))
    assert "has left already" in why_not(OLD)
    for month in (LAST, OLD, OLDEST):
        assert restore(month, tmp_path).step == "restored"
    assert (rows(), rows("outbox_outboxfailure")) == before
    assert "has not left" in refused(lambda: restore(OLDEST, tmp_path))
    assert list(compare_archive(folder=tmp_path)) == []
    remove(OLDEST, tmp_path)
    assert [row.step for row in OutboxArchive.objects.order_by("pk")] == [
        *["removed"] * 3, *["restored"] * 3, "removed",
    ]  # fmt: skip


def test_what_came_back_is_guarded_and_can_be_replayed(outbox: str, tmp_path: Path, seen: list) -> None:
    remove(OLDEST, tmp_path)
    restore(OLDEST, tmp_path)
    event = OutboxEvent.objects.earliest("id")
    assert event.recorded_at < midnight(OLD)
    with pytest.raises(Exception, match="never changed or removed"), transaction.atomic():
        sql(f"DELETE FROM outbox_outboxevent_{OLDEST:%Y%m}")
    seen.clear()
    copy = replay.replay_event(event=event, actor=ACTOR, at=AT, reason="once more")
    drain()
    assert seen == [(event.aggregate_id, event.payload["n"])]
    assert copy.headers["causation_id"] == str(event.event_id)


def test_a_month_does_not_come_back_from_other_files(outbox: str, tmp_path: Path) -> None:
    remove(OLDEST, tmp_path)
    before, path = rows(), tmp_path / f"events-{OLDEST:%Y-%m}.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole).replace(b'"n": 1', b'"n": 2')))
    assert "is not what" in refused(lambda: restore(OLDEST, tmp_path))
    assert [detail for _, detail in compare_archive(folder=tmp_path)] == [
        "It is gone, or not what was written."
    ]
    (tmp_path / MANIFEST).write_text("")
    assert "does not name" in refused(lambda: restore(OLDEST, tmp_path))
    assert len(list(compare_archive(folder=tmp_path))) == 2
    assert rows() == before
    assert f"{OLDEST:%Y%m}" not in parts()


def test_an_event_that_was_recorded_after_the_file_was_written_keeps_its_month(
    outbox: str, tmp_path: Path
) -> None:
    archive_month(month=OLDEST, folder=tmp_path)
    write("late", 1)
    drain()
    move_back(OLDEST, "aggregate_id = 'late'")
    assert _code(lambda: remove(OLDEST, tmp_path)) == "archive_differs"
    assert len(rows(month=OLDEST)) == 7
    assert archive_month(month=OLDEST, folder=tmp_path).events == 7
    assert remove(OLDEST, tmp_path).events == 7


def test_an_event_for_a_month_that_has_left_is_kept_found_and_comes_back_with_it(
    outbox: str, tmp_path: Path
) -> None:
    remove(OLDEST, tmp_path)
    write("late", 1)
    drain()
    move_back(OLDEST, "aggregate_id = 'late'")
    late = OutboxEvent.objects.get(aggregate_id="late")
    assert [found.subject for found in in_their_months()] == ["outbox_outboxevent_default"]
    restore(OLDEST, tmp_path)
    assert list(in_their_months()) == []
    assert late.pk in [row[0] for row in rows(month=OLDEST)]
    assert len(rows(month=OLDEST)) == 7


def test_who_holds_the_tables_is_not_waited_for_forever_and_nothing_has_left(
    outbox: str, tmp_path: Path
) -> None:
    from threading import Event, Thread

    holding, done = Event(), Event()

    def hold() -> None:
        with transaction.atomic():
            sql("SELECT count(*) FROM outbox_outboxevent")
            holding.set()
            done.wait(20)
        connection.close()

    thread = Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(10)
        with pytest.raises(CommerceError, match="Others have held"):
            remove_month(month=OLDEST, folder=tmp_path, actor=ACTOR, at=AT, patience=timedelta(seconds=0.5))
        assert f"{OLDEST:%Y%m}" in parts()
        assert not OutboxArchive.objects.exists()
        write("meanwhile", 1)
    finally:
        done.set()
        thread.join()
    assert remove(OLDEST, tmp_path).events == 6


def test_an_event_is_found_by_its_id_in_few_partitions_and_an_archived_one_says_its_month(
    outbox: str, tmp_path: Path
) -> None:
    event = write("1", 100)
    assert find_event(event.event_id).pk == event.pk
    plan = OutboxEvent.objects.filter(retention.recorded_near(event.event_id)).explain()
    assert plan.count("Index Scan") <= 3
    assert f"{LAST:%Y%m}" not in plan or THIS.day == 1
    assert f"{OLDEST:%Y%m}" not in plan
    assert archived_month(event.event_id) is None
    old_id = _uuid7_of(OLDEST)
    with pytest.raises(NotFound, match=f"There is no event {old_id}\\.$"):
        find_event(old_id)
    remove(OLDEST, tmp_path)
    assert archived_month(old_id) == OLDEST
    with pytest.raises(NotFound, match=f"{OLDEST:%B %Y} is archived"):
        find_event(old_id)


def _uuid7_of(month):
    from uuid import UUID

    stamp = int(midnight(month).timestamp() * 1000) + 86_400_000 * 3
    return UUID(int=(stamp << 80) | (uuid7().int & ((1 << 80) - 1)))


def test_failures_leave_and_return_with_their_month(outbox: str, tmp_path: Path) -> None:
    before = OutboxFailure.objects.count()
    remove(OLDEST, tmp_path)
    assert OutboxFailure.objects.count() == before - 1
    restore(OLDEST, tmp_path)
    assert OutboxFailure.objects.count() == before


def call(*arguments: str) -> int:
    try:
        call_command("outbox_archive", *arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_checks_removes_and_restores(
    outbox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"--output={tmp_path}"
    assert call(folder, "--dry-run", "--json") == 0
    assert [row["month"] for row in json.loads(capsys.readouterr().out)] == [
        str(month) for month in (OLDEST, OLD, LAST)
    ]
    assert list(tmp_path.iterdir()) == []
    assert call(folder) == 0
    assert call(folder, "--check") == 0
    capsys.readouterr()
    assert call(folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [], "what is written is not written again"
    assert call(folder, "--drop") == 2
    assert call(folder, "--month=2026-13") == 2
    assert call(folder, f"--month={OLD:%Y-%m}", "--drop") == 6
    before = rows()
    assert call(folder, f"--month={OLDEST:%Y-%m}", "--drop") == 0
    assert len(rows()) == len(before) - 6
    assert call(folder, "--check") == 0
    assert call(folder, f"--month={OLDEST:%Y-%m}", "--restore") == 0
    assert rows() == before
    (tmp_path / f"events-{OLD:%Y-%m}.jsonl.gz").unlink()
    assert call(folder, "--check") == 3


def test_the_command_ends_as_refused_where_a_month_has_to_stay(outbox: str, tmp_path: Path) -> None:
    retention.register_veto(lambda month: "Wait." if month == LAST else "")
    assert call(f"--output={tmp_path}") == 6
    assert sorted(path.name[:6] for path in tmp_path.iterdir() if path.name != MANIFEST) == [
        "events", "events", "failur", "failur",
    ]  # fmt: skip


def test_where_there_is_no_month_none_is_removed(own: str, tmp_path: Path) -> None:
    for table in ("outbox_outboxevent", "outbox_outboxfailure"):
        for part in parts(table):
            if part != "default":
                sql(f"DROP TABLE {table}_{part}")
    with pytest.raises(Conflict, match="not here"):
        remove_month(month=LAST, folder=tmp_path, actor=ACTOR, at=AT)
    assert not OutboxArchive.objects.exists()
