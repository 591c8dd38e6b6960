"""The ledger's console pages: finished, bounded in queries, and changed only through releases' actions."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.urls import reverse

from ledger.models import LedgerAccount, LedgerEntry, LedgerRelease, LedgerTransaction
from ledger.rules import recipes
from ledger.services import post_pending, schedule_release
from ledger.services import reverse as reverse_posting
from tests.ledger.conftest import ACTOR, AT, usd

PAGES = ("ledgeraccount", "ledgertransaction", "ledgerrelease")


@pytest.fixture
def story(people, posted):
    p = people
    posted("fund_wallet", recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=usd("1000")), "fund")
    for number in range(60):
        entries = recipes.commit(buyer=p.acme, downpayment=usd("0"), expected=usd("1"))
        posted("commit", entries, f"commit:{number}", AT + timedelta(days=number))
    post_pending(
        entries=recipes.commit(buyer=p.acme, downpayment=usd("0"), expected=usd("7.50")),
        key="pend",
        source="contract:1",
        recipe="commit",
        at=AT,
        actor=ACTOR,
    )
    schedule_release(
        owner=p.northwind,
        amount=usd("5"),
        due_at=AT + timedelta(days=7),
        source="s",
        key="r",
        at=AT,
        actor=ACTOR,
    )
    return p


@pytest.fixture
def as_role(client, db):
    def as_role(*groups):
        user = User.objects.create_user("-".join(groups) or "nobody", password="x", is_staff=True)
        user.groups.set(Group.objects.filter(name__in=groups))
        client.force_login(user)
        return client

    return as_role


def page(obj):
    return reverse(f"admin:ledger_{obj._meta.model_name}_change", args=[obj.pk])


def test_every_list_and_page_opens_for_a_viewer_in_few_queries(story, as_role, django_assert_max_num_queries):
    client = as_role("viewer")
    for name, model in zip(PAGES, (LedgerAccount, LedgerTransaction, LedgerRelease), strict=True):
        with django_assert_max_num_queries(14):
            assert client.get(reverse(f"admin:ledger_{name}_changelist")).status_code == 200
        with django_assert_max_num_queries(20):
            assert client.get(page(model.objects.first())).status_code == 200


def test_nobody_adds_changes_or_deletes(story, client):
    client.force_login(User.objects.create_superuser("root"))
    for name, model in zip(PAGES, (LedgerAccount, LedgerTransaction, LedgerRelease), strict=True):
        row = model.objects.first()
        assert client.get(reverse(f"admin:ledger_{name}_add")).status_code == 403
        assert client.post(page(row), {}).status_code == 403
        assert client.post(reverse(f"admin:ledger_{name}_delete", args=[row.pk])).status_code == 403
    assert LedgerEntry.objects.count() == 122


def test_a_statement_shows_the_running_balance_and_goes_back_in_pages(story, as_role):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    client = as_role("viewer")
    newest = client.get(page(account)).content.decode()
    assert "940.00" in newest
    assert "1,000.00" not in newest.partition("Statement")[2].partition("<tbody>")[2]
    assert "?before=12" in newest
    oldest = client.get(page(account) + "?before=12").content.decode()
    assert "1,000.00" in oldest
    assert "Older entries" not in oldest
    assert "7.50" in newest.partition("Set aside, pending")[2]


def test_a_statement_of_a_period_keeps_the_balance_of_the_whole_account(story, as_role):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    body = as_role("viewer").get(page(account) + "?from=2027-03-05&to=2027-03-06").content.decode()
    statement = body.partition("Opening")[2].partition("Set aside, pending")[0]
    for figure in ("996.00", "995.00", "994.00"):
        assert figure in statement
    assert "993.00" not in statement
    for nonsense in ("?from=2027-99-99", "?from=yesterday&before=-1", f"?before={'9' * 30}"):
        assert as_role(f"viewer{nonsense}", "viewer").get(page(account) + nonsense).status_code == 200


def test_a_transaction_shows_its_legs_its_sums_its_meaning_and_its_chain(story, as_role):
    fund = LedgerTransaction.objects.get(key="commit:0")
    back = reverse_posting(transaction=fund, key="back", at=AT, actor=ACTOR, reason="typed twice")
    body = as_role("viewer").get(page(fund)).content.decode()
    assert "Part of the wallet is set aside" in body
    assert "Sum in USD" in body
    assert "does not balance" not in body
    assert "reversed by" in body
    assert page(back) in body
    assert page(LedgerAccount.objects.get(owner=story.acme, kind="COMMITTED")) in body


def test_a_release_is_held_and_lifted_by_an_operator_with_a_reason(story, as_role):
    row = LedgerRelease.objects.get()
    client = as_role("operator")
    url = reverse("admin:ledger_ledgerrelease_do", args=[row.pk, "hold"])
    form = client.get(url)
    assert "stays in Pay-in Holding" in form.content.decode()
    row.refresh_from_db()
    assert row.status == "scheduled"
    seen = form.context["form"].initial["fingerprint"]
    assert client.post(url, {"fingerprint": seen, "reason": "dispute"}).status_code == 302
    row.refresh_from_db()
    assert row.status == "held"
    assert "dispute" in client.get(page(row)).content.decode()


def test_a_viewer_has_no_button_and_cannot_post_one(story, as_role):
    row = LedgerRelease.objects.get()
    client = as_role("viewer")
    url = reverse("admin:ledger_ledgerrelease_do", args=[row.pk, "cancel"])
    assert url not in client.get(page(row)).content.decode()
    assert client.post(url, {"reason": "no"}).status_code == 403
    row.refresh_from_db()
    assert row.status == "scheduled"


def test_home_and_the_owners_page_show_the_balances(story, as_role, clock):
    client = as_role("viewer")
    home = client.get(reverse("admin:index")).content.decode()
    assert "Balances by class" in home
    assert "Cash in and out" in home
    assert "932.50" not in home
    owner = client.get(reverse("admin:parties_organization_change", args=[story.acme])).content.decode()
    assert "Ledger accounts" in owner
    assert "932.50" in owner
