"""Which months of entries have left the database and which came back, for whom to ask for which file."""

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce.console.base import ConsoleAdmin
from commerce.console.format import badge, instant
from commerce.console.registry import register_panel
from ledger import services
from ledger.models import LedgerArchive, LedgerTransaction


@admin.register(LedgerArchive)
class LedgerArchiveAdmin(ConsoleAdmin):
    """Months whose entries are in files instead. Balances need none of them; statements begin after them."""

    icon = "archive"
    list_display = ("name", "what", "counted_entries", "counted_transactions", "noted", "actor")
    list_display_links = ("name",)
    ordering = ("-id",)
    fields = (
        "name", "what", "counted_entries", "counted_transactions", "first_recorded", "last_recorded", "file",
        "content_hash", "begins", "noted", "actor",
    )  # fmt: skip

    @admin.display(description="Month of recording")
    def name(self, obj: LedgerArchive) -> str:
        return f"{obj.month:%B %Y}"

    @admin.display(description="What")
    def what(self, obj: LedgerArchive) -> SafeString:
        return badge(obj.step)

    @admin.display(description="Entries")
    def counted_entries(self, obj: LedgerArchive) -> str:
        return f"{obj.entries:,}"

    @admin.display(description="Transactions")
    def counted_transactions(self, obj: LedgerArchive) -> str:
        return f"{obj.transactions:,}"

    @admin.display(description="First recorded")
    def first_recorded(self, obj: LedgerArchive) -> SafeString:
        return instant(obj.first_recorded_at)

    @admin.display(description="Last recorded")
    def last_recorded(self, obj: LedgerArchive) -> SafeString:
        return instant(obj.last_recorded_at)

    @admin.display(description="SHA-256 of the file, uncompressed")
    def content_hash(self, obj: LedgerArchive) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.sha256)

    @admin.display(description="From then on, entries begin at")
    def begins(self, obj: LedgerArchive) -> SafeString:
        return instant(obj.horizon)

    @admin.display(description="Noted")
    def noted(self, obj: LedgerArchive) -> SafeString:
        return instant(obj.noted_at)


def _archived_panel(transaction: LedgerTransaction, request: HttpRequest) -> SafeString:
    if not services.is_archived(transaction):
        return SafeString("")
    says = '<p class="c-notice c-warn" role="status">Its entries, recorded in {}, are in a file.</p>'
    return format_html(says, f"{transaction.recorded_at:%B %Y}")


register_panel("ledger.ledgertransaction", title="Archived", render=_archived_panel, order=1)
