"""Ids are UUIDs of version 7, and their order is the order in which they were made."""

import threading
import time
import uuid

import pytest

from commerce import ids
from commerce.ids import uuid7


def test_an_id_is_a_version_7_uuid_of_this_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    id_ = uuid7()
    assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
    assert before <= id_.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert [str(id_) for id_ in made] == sorted(str(id_) for id_ in made)


def test_threads_never_make_the_same_id_and_each_sees_its_own_in_order() -> None:
    made: list[list[uuid.UUID]] = [[] for _ in range(8)]

    def make(mine: list[uuid.UUID]) -> None:
        mine.extend(uuid7() for _ in range(2_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    everything = [id_ for mine in made for id_ in mine]
    assert len({id_.int >> 64 for id_ in everything}) == len(everything) == 16_000


def test_a_system_clock_set_back_does_not_turn_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)
    assert uuid7() > first


def test_what_cannot_be_guessed_is_random() -> None:
    tails = {uuid7().int & (2**62 - 1) for _ in range(1_000)}
    assert len(tails) == 1_000
