"""Events lie in the partition of their month: guarded, made ahead, and nobody who appends notices."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from commerce import guards, roles
from commerce.errors import Busy
from commerce.outbox import drain, partitions
from commerce.outbox.invariants import in_their_months
from commerce.outbox.models import OutboxArchive, OutboxEvent, OutboxFailure, OutboxStream
from tests.commerce.outbox_retention.conftest import (
    LAST,
    OLD,
    THIS,
    make_month,
    move_back,
    parts,
    rows,
    sql,
    write,
)

TABLES = ("outbox_outboxevent", "outbox_outboxfailure")


def refused(statement: str) -> str:
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        sql(statement)
    return str(caught.value)


def test_three_months_are_made_ahead_and_a_second_call_makes_none(own: str) -> None:
    assert partitions.make_partitions() == 0
    for table in TABLES:
        assert len(parts(table)) == 5
        assert parts(table)[0] == f"{THIS:%Y%m}"
        assert parts(table)[-1] == "default"
    (made,) = sql("SELECT outbox_make_partitions((now() + interval '99 years')::date)")[0]
    assert 40 <= made <= 44, "never more than two years ahead"


def test_an_event_lies_in_the_month_in_which_its_transaction_began(own: str) -> None:
    event = write("1", 1)
    assert [row[0] for row in rows(month=THIS)] == [event.pk]
    assert OutboxEvent.objects.get(pk=event.pk).event_id == event.event_id


def test_what_is_known_to_be_unique_is_unique_in_each_partition(own: str) -> None:
    for name in parts():
        found = sql(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass AND indisunique",
            f"outbox_outboxevent_{name}",
        )
        columns = {definition.rpartition("(")[2] for (definition,) in found}
        assert columns == {"id)", "event_id)", "aggregate_type, aggregate_id, sequence)"}


def test_a_stream_with_events_in_two_months_is_drained_in_order(own: str, seen: list) -> None:
    make_month(LAST)
    for n in range(4):
        write("1", n)
    move_back(LAST, "(payload ->> 'n')::int < 2")
    OutboxStream.objects.filter(group="g").update(
        pending_since=OutboxEvent.objects.earliest("id").recorded_at
    )
    assert (len(rows(month=LAST)), len(rows(month=THIS))) == (2, 2)
    drain()
    assert seen == [("1", n) for n in range(4)]
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()


def test_an_event_recorded_in_the_old_month_and_committed_last_is_delivered_last(
    own: str, seen: list
) -> None:
    """Its transaction began before midnight, others appended and committed after: order is that of commit."""
    make_month(LAST)
    write("1", 1)
    write("1", 2)
    write("1", 3)
    move_back(LAST, "(payload ->> 'n')::int = 3")
    late = OutboxEvent.objects.get(payload__n=3)
    assert late.recorded_at < OutboxEvent.objects.get(payload__n=1).recorded_at
    # As append leaves it: LEAST of what was there and the instant of the transaction that came last.
    OutboxStream.objects.filter(group="g").update(pending_since=late.recorded_at)
    drain()
    assert [n for _, n in seen] == [1, 2, 3]
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()


def test_appends_publishing_and_reads_go_on_while_partitions_come_and_go(own: str) -> None:
    stop, errors, written = threading.Event(), [], []

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                written.append(write(str(number), len(written)).pk)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    def relay() -> None:
        try:
            while not stop.is_set():
                drain()
                list(OutboxEvent.objects.order_by("-id")[:5])
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    threads.append(threading.Thread(target=relay))
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            partitions.briefly(lambda cursor: make_month(OLD))
            assert f"{OLD:%Y%m}" in parts()

            def take(cursor: object) -> None:
                for table in TABLES:
                    sql(f"ALTER TABLE {table} DETACH PARTITION {table}_{OLD:%Y%m}")
                    sql(f"DROP TABLE {table}_{OLD:%Y%m}")

            partitions.briefly(take)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(written) > 10
    drain()
    assert sorted(written) == [row[0] for row in rows()]
    for number in range(3):
        sequences = [s for (s,) in sql(
            "SELECT sequence FROM outbox_outboxevent WHERE aggregate_id = %s ORDER BY id", str(number)
        )]  # fmt: skip
        assert sequences == list(range(1, len(sequences) + 1))
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()


def test_making_partitions_gives_up_and_changes_nothing_while_others_hold_them(own: str) -> None:
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            sql("SELECT count(*) FROM outbox_outboxevent")
            holding.set()
            done.wait(20)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(10)
        before = parts()
        sql(f"ALTER TABLE outbox_outboxfailure DETACH PARTITION outbox_outboxfailure_{parts()[3]}")
        ahead = before[-2]
        sql(f"DROP TABLE outbox_outboxfailure_{ahead}")

        def through() -> int:
            return partitions.briefly(
                lambda cursor: cursor.execute(
                    "SELECT outbox_make_partitions((now() + interval '4 months')::date)"
                ),
                timedelta(seconds=0.5),
            )

        with pytest.raises(Busy):
            through()
        assert parts() == before
        write("1", 1)
    finally:
        done.set()
        thread.join()
    through()
    assert len(parts()) == len(before) + 1
    assert ahead in parts("outbox_outboxfailure")


def test_an_append_without_a_partition_succeeds_is_found_and_is_moved_when_there_is_one(own: str) -> None:
    for table in TABLES:
        for name in parts(table):
            if name != "default":
                sql(f"ALTER TABLE {table} DETACH PARTITION {table}_{name}")
                sql(f"DROP TABLE {table}_{name}")
    event = write("1", 1)
    assert [row[0] for row in rows()] == [event.pk]
    assert [found.subject for found in in_their_months()] == [
        "outbox_outboxevent_default", "outbox_outboxevent", "outbox_outboxfailure",
    ]  # fmt: skip
    before = rows()
    partitions.make_partitions()
    assert list(in_their_months()) == []
    assert rows(month=THIS) == before
    assert sql("SELECT count(*) FROM outbox_outboxevent_default") == [(0,)]
    assert guards.missing() == [], "and the guards of the default partition are on again"
    drain()
    assert OutboxEvent.objects.get().published_at


def test_a_month_that_nobody_made_in_time_is_a_finding_before_it_begins(own: str) -> None:
    assert list(in_their_months()) == []
    for name in parts()[1:-1]:
        sql(f"DROP TABLE outbox_outboxevent_{name}")
    (found,) = in_their_months()
    assert found.subject == "outbox_outboxevent"
    assert partitions.make_partitions() == 3
    assert list(in_their_months()) == []


@pytest.mark.parametrize("where", ["now", "a month made later", "default"])
def test_rows_stay_what_they_are_in_every_partition(own: str, where: str) -> None:
    write("1", 1)
    OutboxFailure.objects.create(
        stream=OutboxStream.objects.latest("id"), event_id=OutboxEvent.objects.get().event_id, type="t",
        group="g", attempt=1, error="e", retryable=False, failed_at=timezone.now(),
    )  # fmt: skip
    if where == "a month made later":
        make_month(LAST)
        move_back(LAST)
    elif where == "default":
        for table in TABLES:
            sql(f"ALTER TABLE {table} DETACH PARTITION {table}_{THIS:%Y%m}")
            sql(f"INSERT INTO {table} SELECT * FROM {table}_{THIS:%Y%m}")
    names = {"now": f"{THIS:%Y%m}", "a month made later": f"{LAST:%Y%m}", "default": "default"}
    for table in ("outbox_outboxevent", f"outbox_outboxevent_{names[where]}"):
        assert sql(f"SELECT count(*) FROM {table}") == [(1,)]
        for column in OutboxEvent._meta.concrete_fields:
            if column.name == "published_at":
                continue
            value = {
                "id": "id + 1", "event_id": "gen_random_uuid()", "sequence": "sequence + 1",
                "version": "version + 1", "payload": "'{}'::jsonb", "headers": "'{}'::jsonb",
                "occurred_at": "occurred_at + interval '1 s'",
                "recorded_at": "recorded_at + interval '40 days'",
            }.get(column.name, f"{column.name} || 'x'")  # fmt: skip
            assert "published_at" in refused(f"UPDATE {table} SET {column.name} = {value}")
        assert "never changed or removed" in refused(f"DELETE FROM {table}")
        sql(f"UPDATE {table} SET published_at = now()")
    for table in ("outbox_outboxfailure", f"outbox_outboxfailure_{names[where]}"):
        for change in (f"UPDATE {table} SET error = ''", f"DELETE FROM {table}"):
            assert "never changed or removed" in refused(change)
    assert guards.missing() == []


def test_a_partition_without_its_guard_is_missing_one(own: str) -> None:
    sql(f"ALTER TABLE outbox_outboxevent_{THIS:%Y%m} DISABLE TRIGGER guard_kept")
    assert guards.missing() == [f"outbox_outboxevent_{THIS:%Y%m}.guard_kept"]


def test_the_application_reaches_partitions_through_their_table_only(own: str) -> None:
    make_month(LAST)
    assert [str(d) for d in roles.differences() if "DATABASE" not in d.object] == []
    role = roles.application()
    for table in TABLES:
        for name in parts(table):
            for verb in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                privilege = sql(f"SELECT has_table_privilege('{role}', '{table}_{name}', '{verb}')")
                assert privilege == [(False,)], (name, verb)
    for verb, may in (("SELECT", True), ("INSERT", True), ("UPDATE", True), ("DELETE", False)):
        assert sql(f"SELECT has_table_privilege('{role}', 'outbox_outboxevent', '{verb}')") == [(may,)]


def test_the_application_appends_drains_and_makes_partitions_but_takes_none_apart(
    own: str, seen: list, django_db_blocker: object
) -> None:
    newest = parts()[-2]
    for table in TABLES:
        sql(f"DROP TABLE {table}_{newest}")
    errors: list[BaseException] = []

    def as_application(work: Callable[[], object]) -> None:
        """A thread of its own has the application's login."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    as_application(lambda: write("1", 1))
    as_application(drain)
    as_application(partitions.make_partitions)
    assert errors == []
    assert seen == [("1", 1)]
    assert newest in parts()
    as_application(lambda: sql(f"DROP TABLE outbox_outboxevent_{newest}"))
    as_application(
        lambda: sql(f"ALTER TABLE outbox_outboxevent DETACH PARTITION outbox_outboxevent_{newest}")
    )
    as_application(
        lambda: sql("SELECT outbox_attach_partition('outbox_outboxevent'::regclass, 'x', current_date)")
    )
    assert len(errors) == 3
    assert all("must be owner" in str(e) or "permission denied" in str(e) for e in errors), errors
    assert newest in parts()


def test_rows_of_before_are_in_their_months_with_their_ids_rights_and_triggers(own: str) -> None:
    """The conversion itself, of tables as they were made by the migrations before."""
    triggers = sql(_TRIGGERS)
    sql(
        "DROP TABLE outbox_outboxevent, outbox_outboxfailure, outbox_outboxarchive;"
        "DROP FUNCTION outbox_make_partitions, outbox_attach_partition;"
        "DROP INDEX stream_parked_in;"
        "DELETE FROM django_migrations WHERE app = 'outbox' AND name >= '0005'"
    )
    before = MigrationLoader(connection).project_state([("outbox", "0004_skips")]).apps
    with connection.schema_editor() as editor:
        for name in ("OutboxEvent", "OutboxFailure"):
            editor.create_model(before.get_model("outbox", name))
    sql(guards.updatable_only("outbox_outboxevent", ["published_at"]).sql)
    sql(guards.append_only("outbox_outboxfailure").sql)
    sql(
        "CREATE TRIGGER collect_for_webhooks AFTER INSERT ON outbox_outboxevent"
        " FOR EACH ROW EXECUTE FUNCTION webhooks_collect();"
        f"GRANT SELECT, INSERT, UPDATE ON outbox_outboxevent TO {roles.application()}"
    )
    for days in (70, 40, 0):
        sql(
            "INSERT INTO outbox_outboxevent (event_id, aggregate_type, aggregate_id, sequence, type, version,"
            " payload, headers, occurred_at, recorded_at)"
            " SELECT gen_random_uuid(), 'thing', '1', %s, 'thing.done', 1, '{}', '{}', now(),"
            " now() - make_interval(days => %s)",
            100 - days, days,
        )  # fmt: skip
    kept = rows()
    call_command("migrate", "outbox", verbosity=0)
    assert rows() == kept
    assert {row[0]: f"{row[10]:%Y%m}" for row in kept} == {
        row[0]: name for name in parts() for row in sql(f"SELECT id FROM outbox_outboxevent_{name}")
    }
    assert sql("SELECT count(*) FROM webhooks_pendingevent") == [(0,)], "what is copied is no news"
    assert write("2", 1).pk == kept[-1][0] + 1
    assert sql(_TRIGGERS) == triggers
    assert guards.missing() == []
    assert [str(d) for d in roles.differences() if "DATABASE" not in d.object] == []


_TRIGGERS = """
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'outbox_outboxevent'::regclass ORDER BY 1
"""


def stray(days: int) -> None:
    sql(
        "INSERT INTO outbox_outboxevent (event_id, aggregate_type, aggregate_id, sequence, type, version,"
        " payload, headers, occurred_at, recorded_at, published_at)"
        " SELECT gen_random_uuid(), 'thing', 'x', %s, 'thing.done', 1, '{}', '{}', now(),"
        " now() - make_interval(days => %s), now()",
        days, days,
    )  # fmt: skip


def test_rows_of_months_that_nobody_made_in_time_are_moved_and_no_month_between_is_missing(own: str) -> None:
    stray(95)
    stray(96)
    stray(3)
    before, months = rows(), len(parts())
    assert "outbox_outboxevent_default" in [found.subject for found in in_their_months()]
    assert partitions.make_partitions() >= 6
    assert list(in_their_months()) == []
    assert rows() == before
    made = partitions.months()
    assert made == partitions.months("outbox_outboxfailure"), "a month of one table cannot leave"
    assert [partitions.after(month) for month in made[:-1]] == made[1:]
    assert len(parts()) > months
    assert guards.missing() == [], "and the guards of the default partition are on again"
    assert partitions.make_partitions() == 0


def test_rows_of_an_archived_month_or_of_long_ago_make_no_month(own: str) -> None:
    stray(3000)
    there = parts()
    assert partitions.make_partitions() == 0
    OutboxArchive.objects.create(
        month=LAST, step=OutboxArchive.Step.REMOVED, horizon=partitions.midnight(THIS), events=0,
        events_sha256="0" * 64, failures=0, failures_sha256="0" * 64, noted_at=timezone.now(), actor="x",
    )  # fmt: skip
    stray(95)
    assert partitions.make_partitions() == 0
    assert parts() == there, "a month that may come back was made anew"
    assert sql("SELECT count(*) FROM outbox_outboxevent_default") == [(2,)]
    assert "outbox_outboxevent_default" in [found.subject for found in in_their_months()]
