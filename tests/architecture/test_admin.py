"""Every page of the console obeys the list rules and opens with a bounded number of queries."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import ShowFacets
from django.contrib.auth.models import User
from django.core.exceptions import FieldDoesNotExist
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from commerce.console.base import ConsoleAdmin
from commerce.console.paginator import CappedPaginator

PAGES = sorted(admin.site._registry.items(), key=lambda entry: entry[0]._meta.label)
EDITABLE = {"auth.User", "contracts.Product"}
MOST_QUERIES = 12

every_page = pytest.mark.parametrize(("model", "page"), PAGES, ids=[model._meta.label for model, _ in PAGES])


@every_page
def test_a_page_is_built_on_the_console_and_keeps_its_list_rules(
    model: type[models.Model], page: Any
) -> None:
    assert isinstance(page, ConsoleAdmin)
    assert page.paginator is CappedPaginator
    assert page.show_full_result_count is False
    assert page.show_facets is ShowFacets.NEVER
    assert page.list_per_page == 50
    assert page.list_max_show_all == 0
    assert page.date_hierarchy is None
    assert not page.list_editable
    assert isinstance(page.list_select_related, tuple)
    assert page.ordering == ("-id",) or page.ordering[0].lstrip("-") == model._meta.pk.name
    assert page.actions is None
    for kind in ("list", "row", "detail", "submit_line"):
        assert not getattr(page, f"actions_{kind}", ()), "the skin's own actions run on a plain GET"


@every_page
def test_a_page_searches_exactly_or_by_prefix_on_indexed_columns(
    model: type[models.Model], page: Any
) -> None:
    for lookup in page.search_fields:
        *path, name, kind = lookup.split("__")
        assert kind in ("exact", "startswith"), lookup
        owner: Any = model
        for step in path:
            owner = owner._meta.get_field(step).related_model
        assert _is_indexed(owner, name), f"{owner._meta.label}.{name} has no index that begins with it"
    if page.keyed_by:
        assert any(columns[:2] == list(page.keyed_by) for columns in _indexes(model))


@every_page
def test_a_page_sorts_and_filters_by_what_the_database_can(model: type[models.Model], page: Any) -> None:
    for column in page.sortable_by:
        assert _is_indexed(model, column), column
    for entry in page.list_filter:
        name = entry[0] if isinstance(entry, tuple | list) else entry
        if not isinstance(name, str):
            continue
        field = model._meta.get_field(name)
        assert not field.is_relation, f"{name}: a filter over a relation lists every row of it"
        assert field.choices or isinstance(field, models.BooleanField), f"{name} has no fixed choices"


@every_page
def test_nobody_adds_changes_or_deletes_by_hand(
    model: type[models.Model], page: Any, rf: Any, db: None
) -> None:
    request = rf.get("/")
    request.user = User(username="root", is_superuser=True, is_active=True, is_staff=True)
    assert not page.has_delete_permission(request)
    if model._meta.label not in EDITABLE:
        assert not page.has_add_permission(request)
        assert not page.has_change_permission(request)


@every_page
def test_every_action_asks_for_a_permission_that_exists(model: type[models.Model], page: Any) -> None:
    from commerce.api.scopes import declared_permissions

    names = [action.name for action in page.object_actions]
    assert len(names) == len(set(names))
    for action in page.object_actions:
        app, _, codename = action.permission.partition(".")
        assert codename in declared_permissions(app), action.permission


@every_page
def test_a_list_opens_with_few_queries(model: type[models.Model], page: Any, db: None) -> None:
    User.objects.create_superuser("root", password="x")
    client = Client()
    client.login(username="root", password="x")
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    client.get(url)
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(url)
    assert answer.status_code == 200
    assert len(queries) <= MOST_QUERIES, [query["sql"] for query in queries]
    assert client.get(f"{url}?q=01920000-0000-7000-8000-000000000000").status_code == 200
    assert client.get(f"{url}?q=a:b%20c").status_code == 200


def _indexes(model: type[models.Model]) -> list[list[str]]:
    """Column lists of the model's indexes and unique constraints."""
    found = [
        [name.lstrip("-") for name in index.fields] for index in model._meta.indexes if not index.condition
    ]
    found += [
        list(constraint.fields)
        for constraint in model._meta.constraints
        if isinstance(constraint, models.UniqueConstraint)
    ]
    return found + [list(names) for names in model._meta.unique_together]


def _is_indexed(model: type[models.Model], name: str) -> bool:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return False
    single = field.primary_key or field.unique or field.db_index
    return single or any(columns and columns[0] == name for columns in _indexes(model))
