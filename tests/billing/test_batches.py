"""Working through many rows: a bad one holds up none, and a worker out of time stops at once."""

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from billing.services.batches import each


def test_what_fails_is_left_and_the_rest_is_done() -> None:
    assert each([1, 0, 2], lambda n: 1 / n, what="number") == 2


def test_a_worker_out_of_time_begins_no_other_item() -> None:
    begun = []

    def cut_off(item: int) -> None:
        begun.append(item)
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        each([1, 2, 3], cut_off, what="number")
    assert begun == [1]
