"""When to ask the bank again whether money that came in was pulled back."""

from datetime import datetime, timedelta

LOOK_BACK = timedelta(days=5)
RETURN_WINDOW = timedelta(days=60)
SHORTEST = timedelta(days=1)


def next_look(completed_at: datetime, at: datetime) -> datetime | None:
    """The look after one at `at`: rarer the older the payment is, the last when its window closes.

    Until LOOK_BACK the list of recent payments is read anyway. None when the last look was taken.
    """
    end = completed_at + RETURN_WINDOW
    if at >= end:
        return None
    pause = max(SHORTEST, (at - completed_at) / 5)
    return min(max(completed_at + LOOK_BACK, at + pause), end)
