"""What can be read of a ledger whose oldest months have left: exactly, from a later instant on, or not."""

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.urls import reverse as url_of

from commerce.api.services import issue_key
from commerce.console.exports import Selection, source_named
from commerce.errors import StateConflict
from commerce.parties.models import Organization
from ledger.models import LedgerArchive, LedgerEntry, LedgerTransaction
from ledger.rules.kinds import Kind
from ledger.services import (
    account_balances,
    explain,
    moved_by_day,
    remove_month,
    request_reversal,
    restore_month,
    reverse,
    statement,
    trial_balance,
)
from tests.commerce.api.conftest import Api
from tests.ledger.conftest import ACTOR, usd
from tests.ledger.months import (
    OLD,
    THIS,
    A,
    B,
    connected_to,
    drop_database,
    end_of,
    everything,
    held,
    make_months,
    noon,
    own_database,
    owner_of,
)

pytestmark = pytest.mark.django_db(transaction=True)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def removed(django_db_setup, django_db_blocker, tmp_path_factory):
    """OLD and A have left; with what everybody held before, and where the files are."""
    folder = tmp_path_factory.mktemp("archive")
    with django_db_blocker.unblock():
        with own_database(keep=True) as name:
            make_months()
            before = everything()
            for month in (OLD, A):
                remove_month(month=month, folder=folder, actor=ACTOR, at=noon(THIS))
        yield name, before, folder
        drop_database(name)


@pytest.fixture
def months(removed, django_db_blocker):
    """To read: every test has the same."""
    with django_db_blocker.unblock(), connected_to(removed[0]):
        yield removed


@pytest.fixture
def own_months(removed, django_db_blocker):
    with django_db_blocker.unblock(), own_database(removed[0]):
        yield removed


def acme():
    return held(owner_of("acme"))


def read(account, **instants):
    (found,) = account_balances([account], **instants)
    return found.posted


def refused(month, work, *arguments, **options):
    with pytest.raises(StateConflict, match=f"recorded in {month:%Y-%m}") as refusal:
        work(*arguments, **options)
    assert (refusal.value.code, refusal.value.extra["month"]) == ("archived", f"{month:%Y-%m}")
    assert f"ledger_archive --month {month:%Y-%m} --restore" in str(refusal.value)


def test_balances_now_and_at_the_ends_of_days_are_what_they_were(months):
    assert everything() == months[1]


def test_what_an_account_held_within_a_day_that_left_is_refused_and_nothing_else(months):
    account = acme()
    refused(OLD, read, account, at=noon(OLD))
    refused(A, read, account, at=noon(OLD, 20))
    assert read(account, at=noon(OLD, 9)) == usd("0")
    assert read(account, at=noon(OLD, 11)) == usd("99")
    assert read(account, at=noon(B)) == read(account, at=end_of(A)) + usd("300")
    refused(OLD, read, account, at=noon(OLD), known_at=noon(B, 1))
    assert read(account, at=noon(OLD, 11), known_at=noon(B, 1)) == usd("99")


def test_what_was_known_within_a_day_of_recording_that_left_is_refused(months):
    account = acme()
    refused(OLD, read, account, known_at=noon(OLD, 15) + timedelta(minutes=1))
    refused(A, read, account, at=noon(B), known_at=noon(A, 15) + timedelta(minutes=1))
    assert read(account, known_at=noon(OLD, 14)) == usd("0")
    assert read(account, known_at=noon(OLD, 16)) == usd("99")
    assert read(account, known_at=noon(A, 14)) == usd("99")
    assert read(account, at=noon(OLD, 19), known_at=noon(A, 16)) == usd("99")


def test_an_account_that_nobody_moved_since_still_says_what_it_holds(months):
    bridge = held(owner_of("bridge"))
    assert not LedgerEntry.objects.filter(account=bridge).exists()
    for instants in ({}, {"at": noon(THIS)}, {"known_at": noon(B)}, {"known_at": noon(OLD, 16)}):
        assert read(bridge, **instants) == usd("7")


def test_a_statement_begins_where_it_is_whole_and_says_so(months):
    account = acme()
    page = statement(account=account)
    first = noon(A, 11).replace(hour=0)
    assert page.begins == first
    assert page.opening == read(account, at=first - MICROSECOND) == usd("302.50")
    assert page.opening + sum((line.amount for line in page.lines), usd("0")) == page.closing
    assert {line.entry.recorded_at.month for line in page.lines}.isdisjoint({OLD.month, A.month})
    assert statement(account=account, since=noon(OLD)) == page
    later = statement(account=account, since=noon(B, 1))
    assert (later.begins, later.opening) == (None, usd("302.50"))
    refused(A, statement, account=account, until=first)
    refused(A, statement, account=account, known_at=noon(A, 16))
    assert statement(account=account, known_at=noon(B, 1)).lines == []


def test_a_statement_in_pages_ends_at_the_same_place(months):
    account, before, balances = acme(), None, []
    while True:
        page = statement(account=account, before=before, limit=1)
        balances += [line.balance for line in page.lines]
        if (before := page.before) is None:
            break
    assert balances == [line.balance for line in statement(account=account).lines]


def test_the_trial_balance_within_a_day_that_left_is_refused(months):
    refused(A, trial_balance, at=noon(A))
    for at in (None, end_of(OLD), noon(A, 11), noon(B)):
        assert all(total.balances for total in trial_balance(at=at).totals)


def test_what_a_day_moved_is_known_though_its_entries_left(months):
    day = noon(OLD).date()
    assert not LedgerEntry.objects.filter(account__kind="CASH_BANK", effective_at__date=day).exists()
    (moved,) = moved_by_day(kind=Kind.CASH_BANK, first=day, last=day)
    assert (moved.day, moved.debit.is_zero) == (day, False)


def test_why_a_balance_changed_is_not_told_by_half(months):
    account = acme()
    refused(A, explain, account=account, since=noon(OLD))
    why = explain(account=account, since=noon(B, 1))
    assert why.change == sum((part.change for part in why.by_recipe), usd("0"))


def test_what_left_is_not_reversed(months):
    row = LedgerTransaction.objects.get(key=f"fund:{OLD}")
    refused(OLD, reverse, transaction=row, key="r", at=noon(THIS), actor=ACTOR, reason="r")
    part = LedgerTransaction.objects.get(key="wrong")
    refused(A, reverse, transaction=part, key="r", at=noon(THIS), actor=ACTOR, reason="r", entries=[])
    assert not LedgerTransaction.objects.filter(key="r").exists()


def test_a_reversal_that_left_is_not_asked_for(months):
    row = LedgerTransaction.objects.get(key=f"fund:{OLD}")
    with pytest.raises(StateConflict) as refusal:
        request_reversal(transaction=row, reason="r", actor=ACTOR, at=noon(THIS))
    assert refusal.value.code == "archived"


def exported(name, **parameters):
    chosen = source_named(name)
    selection = Selection(parameters)
    chosen.check(selection)
    return [dict(zip((c.name for c in chosen.columns), row, strict=True)) for row in chosen.rows(selection)]


def test_an_exported_statement_opens_where_it_is_whole_and_says_so(months):
    account = acme()
    opening, *_, closing = exported("ledger.statement", account_id=account.pk)
    assert (opening["effective_at"], opening["balance"]) == (noon(A, 11).replace(hour=0), usd("302.50"))
    assert "archived" in opening["description"]
    assert closing["balance"] == read(account)
    refused(A, exported, "ledger.statement", account_id=account.pk, until=noon(A, 5))


def test_exports_of_many_accounts_are_whole_or_refused(months):
    refused(A, exported, "ledger.entries")
    refused(A, exported, "ledger.entries", since=noon(A))
    refused(A, exported, "ledger.entries", since=noon(A, 20), by="recorded")
    refused(A, exported, "ledger.transactions", since=noon(A))
    since = noon(A, 11).replace(hour=0)
    assert len(exported("ledger.entries", since=since)) == LedgerEntry.objects.count()
    assert len(exported("ledger.entries", since=noon(B, 1).replace(hour=0), by="recorded")) > 0
    assert all(row["debit"] for row in exported("ledger.transactions", since=since))


def test_over_http_a_statement_says_since_when_it_is_there_and_the_rest_is_refused(own_months):
    account, platform = acme(), Organization.objects.platform()
    key = issue_key(
        organization=platform, scopes=["ledger:read"], label="key", actor=ACTOR, at=datetime.now(UTC)
    )
    api, url = Api(key[1]), f"/api/v1/ledger/accounts/{account.pk}/"
    answer = api.get(f"{url}statement/").json()
    assert datetime.fromisoformat(answer["begins_at"]) == noon(A, 11).replace(hour=0)
    assert len(answer["items"]) == len(statement(account=account).lines)
    refusal = api.get(f"{url}?at={noon(OLD):%Y-%m-%dT%H:%M:%SZ}")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "archived")
    assert refusal.json()["month"] == f"{OLD:%Y-%m}"


@pytest.fixture
def reader(own_months, client):
    client.force_login(get_user_model().objects.create_superuser("reader"))
    return client


def test_pages_of_the_console_say_what_left(own_months, reader):
    def page(name, *arguments, **query):
        answer = reader.get(url_of(f"admin:ledger_{name}", args=arguments), query, follow=True)
        assert answer.status_code == 200
        return answer.content.decode()

    account, row = acme(), LedgerTransaction.objects.get(key=f"fund:{OLD}")
    gone = LedgerArchive.objects.get(month=OLD)
    asked = {"valid_at": f"{noon(OLD):%Y-%m-%dT%H:%M}"}
    assert "older entries are archived" in page("ledgeraccount_change", account.pk)
    says = f"ledger_archive --month {OLD:%Y-%m} --restore"
    assert says in page("ledgeraccount_change", account.pk, **asked)
    assert f"recorded in {OLD:%B %Y}, are in a file" in page("ledgertransaction_change", row.pk)
    assert f"{A:%B %Y}" in page("ledgerarchive_changelist")
    assert gone.sha256 in page("ledgerarchive_change", gone.pk)
    assert says in page("trial_balance", **asked)


def test_after_restoring_everything_can_be_read_again(own_months):
    account, folder = acme(), own_months[2]
    for month in (A, OLD):
        path = folder / f"entries-{month:%Y-%m}.csv.gz"
        restore_month(month=month, path=path, actor=ACTOR, at=noon(THIS))
    assert read(account, at=noon(OLD)) == usd("100")
    page = statement(account=account)
    assert (page.begins, page.opening) == (None, usd("0"))
    assert len(page.lines) == LedgerEntry.objects.filter(account=account).count()
    connection.close()
