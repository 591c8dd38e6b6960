"""Page numbers that stay affordable: counting stops at 10,000 rows."""

from functools import cached_property

from django.core.paginator import Paginator
from django.db.models import QuerySet

LIMIT = 10_000


class CappedPaginator(Paginator):
    """Counts at most `LIMIT` rows and shows no page beyond them; narrow the list to see others."""

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        if not isinstance(rows, QuerySet):
            return len(rows)
        return rows.order_by()[:LIMIT].count()
