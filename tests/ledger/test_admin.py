"""The ledger's console pages: finished, bounded in queries, and changed only through releases' actions."""

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.auth.models import Group, User
from django.urls import reverse

from ledger.models import (
    LedgerAccount,
    LedgerEntry,
    LedgerPeriod,
    LedgerRelease,
    LedgerSeal,
    LedgerTransaction,
)
from ledger.rules import recipes
from ledger.services import begin_closing, post_pending, schedule_release, show_next_month
from ledger.services import reverse as reverse_posting
from tests.ledger.conftest import ACTOR, AT, usd
from tests.ledger.test_periods import seal

MODELS = (LedgerAccount, LedgerTransaction, LedgerRelease, LedgerPeriod, LedgerSeal)


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
    show_next_month()
    seal()
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
    for model in MODELS:
        with django_assert_max_num_queries(14):
            name = f"admin:ledger_{model._meta.model_name}_changelist"
            assert client.get(reverse(name)).status_code == 200
        with django_assert_max_num_queries(24):
            assert client.get(page(model.objects.first())).status_code == 200


def test_nobody_adds_changes_or_deletes(story, client):
    client.force_login(User.objects.create_superuser("root"))
    for model in MODELS:
        name, row = model._meta.model_name, model.objects.first()
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
    older = re.search(r'href="(\?before=[^"]+)"', newest)[1]
    oldest = client.get(page(account) + unescape(older)).content.decode()
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
    assert "reverses" in body.partition('id="chain"')[2].partition("</section>")[0]
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


def test_an_account_is_shown_at_another_instant_with_a_banner_and_without_what_is_of_now(story, as_role):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    address = page(account) + "?valid_at=2027-03-05T12:00"
    body = as_role("viewer").get(address).content.decode()
    assert "Nothing can be done here" in body
    assert "995.00" in body
    assert "940.00" not in body
    assert "Set aside, pending" not in body
    early = LedgerEntry.objects.earliest("recorded_at").recorded_at - timedelta(seconds=1)
    unknown = as_role("other", "viewer").get(f"{address}&known_at={early:%Y-%m-%dT%H:%M:%S}").content.decode()
    assert "No entries here" in unknown
    assert "995.00" not in unknown


def test_a_t_account_has_debits_left_and_credits_right_between_opening_and_closing(story, as_role):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    body = as_role("viewer").get(page(account) + "?from=2027-03-05&to=2027-03-06").content.decode()
    t_account = body.partition('class="c-t"')[2].partition("</section>")[0]
    debits, _, credits = t_account.partition("Credits")
    assert "Sum of 2" in debits
    assert "996.00" in credits.partition("Closing")[0]
    assert "994.00" in credits.partition("Closing")[2]


def test_a_balance_is_explained_by_recipe_and_by_the_other_side(story, as_role):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    client = as_role("viewer")
    body = client.get(page(account) + "?since=2027-03-01&until=2027-03-03").content.decode()
    why = body.partition("By recipe")[2].partition("Set aside, pending")[0]
    for words in ("Fund wallet", "Commit", "Cash bank", "Committed", "1,000.00", "Largest movements"):
        assert words in why
    backwards = client.get(page(account) + "?since=2027-03-09&until=2027-03-03").content.decode()
    assert "must be later than since" in backwards
    assert client.get(page(account) + "?since=nonsense").status_code == 200


def test_a_chain_shows_what_is_left_to_reverse_and_the_seal_that_covers_it(story, as_role):
    fund = LedgerTransaction.objects.get(key="fund")
    part = recipes.mirrored(recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=usd("40")))
    reverse_posting(transaction=fund, key="part", at=AT, actor=ACTOR, reason="too much", entries=part)
    body = as_role("viewer").get(page(fund)).content.decode()
    chain = body.partition('id="chain"')[2].partition("</section>")[0]
    assert "reverses" in chain
    assert "960.00" in chain
    assert "Seal 1" in body


def test_what_is_left_to_reverse_counts_also_what_the_chain_does_not_show(story, as_role):
    fund = LedgerTransaction.objects.get(key="fund")
    part = recipes.mirrored(recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=usd("1")))
    for number in range(60):
        last = reverse_posting(
            transaction=fund, key=f"part:{number}", at=AT, actor=ACTOR, reason=f"no. {number}", entries=part
        )
    client = as_role("viewer")
    for shown, own in ((fund, "no. 48"), (last, "no. 59")):
        chain = client.get(page(shown)).content.decode().partition('id="chain"')[2].partition("</section>")[0]
        assert "940.00" in chain
        assert "950.00" not in chain
        assert "The chain is longer: 50 of its transactions are shown." in chain
        assert own in chain
    back = client.get(page(LedgerTransaction.objects.get(key="commit:1"))).content.decode()
    assert "The chain is longer" not in back


@pytest.mark.parametrize(
    "query",
    [
        "from=0001-01-01",
        "to=9999-12-31",
        "from=0001-01-01&to=9999-12-31",
        "since=0001-01-01",
        "since=2027-03-01&until=9999-12-31",
        "valid_at=0001-01-01T00:00",
        "valid_at=9999-12-31T23:59:59.999999",
        "known_at=9999-12-31T23:59",
        "valid_at=0001-01-01T00:00%2B23:59",
        "valid_at=9999-12-31T23:59-23:59",
        "valid_at=2027-03-01T00:00%2B23:59",
        "before=0001-01-01T00:00:00~9999-12-31T23:59:59~0~1",
        "from=2027-02-30",
    ],
)
def test_no_day_or_instant_in_an_address_breaks_a_page(story, as_role, query):
    client = as_role("viewer")
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    for address in (page(account), reverse("admin:ledger_trial_balance")):
        assert client.get(f"{address}?{query}").status_code == 200


def test_an_instant_with_an_offset_is_shown_and_exported_in_utc(story, as_role):
    url = reverse("admin:ledger_trial_balance")
    body = as_role("operator").get(f"{url}?valid_at=2027-03-02T01:30%2B02:00").content.decode()
    assert 'value="2027-03-01T23:30:00"' in body
    assert "at=2027-03-01T23%3A30%3A00" in body
    assert "T01:30" not in body


def test_the_trial_balance_proves_itself_at_any_instant_and_by_any_group(story, as_role):
    client, url = as_role("viewer"), reverse("admin:ledger_trial_balance")
    for query in (
        "",
        "?by=class",
        "?by=owner",
        "?by=account",
        "?currency=USD",
        "?by=nonsense&currency=nonsense",
    ):
        body = client.get(url + query).content.decode()
        assert "1,000.00" in body.partition("<tfoot>")[2]
        assert "does not balance" not in body
    then = client.get(f"{url}?valid_at=2027-02-01T00:00").content.decode()
    assert "Every account with a balance stands here" in then
    assert "Nothing can be done here" in then
    assert url in client.get(reverse("admin:index")).content.decode()


def test_who_may_not_see_accounts_sees_no_trial_balance(story, as_role):
    client = as_role()
    url = reverse("admin:ledger_trial_balance")
    assert client.get(url).status_code == 403
    assert url not in client.get(reverse("admin:index")).content.decode()


def test_a_month_is_closed_after_its_consequences_were_shown_in_numbers(story, as_role, clock):
    month = LedgerPeriod.objects.get()
    url = reverse("admin:ledger_ledgerperiod_do", args=[month.pk, "close"])
    client = as_role("operator")
    assert "March 2027 is not over" in client.get(url).content.decode()
    clock(AT + timedelta(days=40))
    form = client.get(url)
    words = form.content.decode()
    for figure in ("1,031.00 USD debit", "Pending transactions: 1", "not released: 1, 5.00 USD"):
        assert figure in words
    month.refresh_from_db()
    assert month.status == "open"
    seen = form.context["form"].initial["fingerprint"]
    assert client.post(url, {"fingerprint": seen, "reason": "month end"}).status_code == 302
    month.refresh_from_db()
    assert month.status == "closing"
    assert as_role("viewer").post(url, {"reason": "again"}).status_code == 403


def test_an_operator_asks_for_reopening_and_nothing_is_open_before_it_is_approved(story, as_role, clock):
    month = begin_closing(month=AT.date(), actor=ACTOR, at=AT + timedelta(days=40))
    url = reverse("admin:ledger_ledgerperiod_do", args=[month.pk, "reopen"])
    assert "Not possible while closing" in as_role("operator").get(url).content.decode()
