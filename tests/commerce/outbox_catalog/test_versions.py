"""Older events are read as of today, newer ones wait for the release that wrote them; no row changes."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from commerce.errors import UnknownVersion
from commerce.outbox import append, catalog, drain, on, registry
from commerce.outbox.models import OutboxEvent, OutboxStream
from tests.commerce.outbox_catalog.conftest import THING, declare

AT = datetime(2027, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Counted:
    count: int
    steps: tuple[int, ...]


NOW = {"count": 0, "steps": []}


def step(version: int) -> Any:
    """Each version adds one and says so."""

    def forward(payload: dict[str, Any]) -> dict[str, Any]:
        return {"count": payload["count"] + 1, "steps": [*payload["steps"], version]}

    return forward


@pytest.fixture
def counted(own_catalogue: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    for version in range(1, 5):
        catalog.upcast("thing.counted", from_version=version)(step(version))
    declare("thing.counted", payload=Counted, example=NOW, version=5)


def event_of(version: int, payload: dict[str, Any] = NOW) -> OutboxEvent:
    return OutboxEvent(type="thing.counted", version=version, payload=payload)


def write(id_: str, version: int | None = None, payload: dict[str, Any] = NOW) -> OutboxEvent:
    with transaction.atomic():
        return append("thing", id_, "thing.counted", payload, at=AT, version=version)


@pytest.mark.usefixtures("counted")
def test_an_older_event_goes_through_every_version_in_order() -> None:
    event = event_of(2)
    event.group = "g"
    read = catalog.current(event)
    assert (read.key, read.group) == (event.key, "g"), "it is still this delivery"
    assert (read.version, read.payload) == (5, {"count": 3, "steps": [2, 3, 4]})
    assert (event.version, event.payload) == (2, NOW), "the event itself stays as it was written"


@pytest.mark.usefixtures("counted")
def test_an_event_of_today_is_read_as_it_is() -> None:
    event = event_of(5)
    assert catalog.current(event) is event


@pytest.mark.usefixtures("counted")
def test_an_event_of_a_version_to_come_is_refused_and_the_error_says_what_to_do() -> None:
    with pytest.raises(UnknownVersion, match="deploy the release that wrote it, then resume") as refused:
        catalog.current(event_of(6))
    assert not refused.value.retryable


def test_what_the_catalogue_does_not_list_passes_through() -> None:
    event = OutboxEvent(type="thing.unlisted", version=7, payload={"a": 1})
    assert catalog.current(event) is event
    assert catalog.verify("thing", "thing.unlisted", None, {"a": 1}) == 1


@given(first=st.integers(1, 5), count=st.integers(), between=st.integers(1, 5))
def test_bringing_forward_is_composition_and_does_nothing_to_what_is_of_today(
    first: int, count: int, between: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_types", {})
        patch.setattr(catalog, "_upcasters", {("thing.counted", v): step(v) for v in range(1, 5)})
        payload = {"count": count, "steps": []}

        def read(version: int, until: int, given: dict[str, Any]) -> dict[str, Any]:
            catalog._types.clear()
            declare("thing.counted", payload=Counted, example=NOW, version=until)
            return catalog.current(event_of(version, given)).payload

        middle = max(first, between)
        whole = read(first, 5, payload)
        assert whole == read(middle, 5, read(first, middle, payload))
        assert whole == {"count": count + 5 - first, "steps": list(range(first, 5))}
        assert read(5, 5, whole) == whole
        assert payload == {"count": count, "steps": []}


@pytest.mark.usefixtures("counted")
@pytest.mark.django_db(transaction=True)
def test_an_append_is_of_the_present_version_and_a_copy_of_the_one_it_had() -> None:
    on("thing.counted", group="g")(lambda event: None)
    assert write("1").version == 5
    assert write("1", version=2).version == 2
    assert list(OutboxEvent.objects.order_by("id").values_list("version", flat=True)) == [5, 2]


@pytest.mark.usefixtures("counted")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        ({"count": "1", "steps": []}, "/count must be a whole number"),
        ({"count": 1}, "/steps is missing"),
        ({"count": 1, "steps": [], "colour": "red"}, "/colour is not declared"),
    ],
)
def test_a_payload_that_the_catalogue_does_not_describe_is_never_written(
    payload: dict[str, Any], fault: str
) -> None:
    on("thing.counted", group="g")(lambda event: None)
    with pytest.raises(ImproperlyConfigured, match=f"thing.counted: {fault}"):
        write("1", payload=payload)
    with pytest.raises(ImproperlyConfigured, match="happens to thing, not to person"), transaction.atomic():
        append("person", "1", "thing.counted", NOW, at=AT)
    with pytest.raises(UnknownVersion):
        write("1", version=6)
    assert not OutboxEvent.objects.exists()
    assert not OutboxStream.objects.exists()


@pytest.mark.usefixtures("counted")
@pytest.mark.django_db(transaction=True)
def test_a_handler_reads_an_older_event_as_of_today_and_the_row_stays() -> None:
    seen: list[tuple[int, Any]] = []
    on("thing.counted", group="g")(lambda event: seen.append((event.version, event.payload)))
    event = write("1", version=4)
    drain()
    assert seen == [(5, {"count": 1, "steps": [4]})]
    event.refresh_from_db()
    assert (event.version, event.payload) == (4, NOW)
    assert event.published_at


@pytest.mark.usefixtures("counted")
@pytest.mark.django_db(transaction=True)
def test_a_newer_event_parks_its_stream_alone_and_is_handled_after_the_release() -> None:
    seen: list[str] = []
    on("thing.counted", group="g")(lambda event: seen.append(event.aggregate_id))
    catalog._types.clear()
    declare("thing.counted", payload=Counted, example=NOW, version=6)
    write("new")
    catalog._types.clear()
    declare("thing.counted", payload=Counted, example=NOW, version=5)
    write("old")
    drain()
    assert seen == ["old"]
    parked = OutboxStream.objects.get(parked_at__isnull=False)
    assert (parked.aggregate_id, parked.cursor) == ("new", 0)
    assert "deploy the release that wrote it" in parked.parked_reason


@pytest.mark.usefixtures("own_catalogue")
def test_a_declaration_that_cannot_be_true_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"The example of thing\.done: /secret is missing"):
        declare(example={name: value for name, value in THING.items() if name != "secret"})
    with pytest.raises(ImproperlyConfigured, match="Thing has no field buyer_id"):
        declare(audience="buyer_id")
    assert catalog.event_types() == []
    declare()
    declare()
    with pytest.raises(ImproperlyConfigured, match=r"thing\.done is in the catalogue already"):
        declare(version=2)
    catalog.upcast("thing.done", from_version=1)(step(1))
    with pytest.raises(ImproperlyConfigured, match="has an upcaster from version 1 already"):
        catalog.upcast("thing.done", from_version=1)(step(1))


@pytest.mark.usefixtures("own_catalogue")
def test_readers_are_named_once_and_see_only_what_is_public() -> None:
    told = declare("thing.told", audience="owners")
    payload = {**THING, "owners": [THING["thing_id"]] * 2}
    assert told.readers(payload) == [THING["thing_id"]]
    assert told.outgoing(payload) == {name: payload[name] for name in ("thing_id", "owners", "price_minor")}
    kept = declare("thing.kept")
    assert (kept.public, kept.outgoing(payload), kept.readers(payload)) == ((), {}, [])
