"""`manage.py events`: the catalogue of events, its schemas, and the page that is written from it."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings

from commerce.errors import InvalidInput
from commerce.management.ops import Exit, OpsCommand
from commerce.outbox import catalog, catalog_docs

PAGE = Path(settings.BASE_DIR) / "docs" / "events.md"


class Command(OpsCommand):
    help = "Print the catalogue of events: as lines, or with --json with the schema of every payload."

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("types", nargs="*", metavar="type", help="only these, for example invoice.paid")
        parser.add_argument("--write", action="store_true", help="write docs/events.md")

    def run(self, **options: Any) -> Exit:
        if options["write"]:
            PAGE.write_text(catalog_docs.as_markdown())
            self.say(f"{PAGE.relative_to(settings.BASE_DIR)} is written.")
            return Exit.DONE
        wanted = set(options["types"])
        if unknown := wanted - {type_.name for type_ in catalog.event_types()}:
            raise InvalidInput(f"Not in the catalogue: {', '.join(sorted(unknown))}.", pointer="/types")
        shown = [one for one in catalog_docs.as_json() if not wanted or one["type"] in wanted]
        lines = (f"{one['type']:40} {one['version']:>3}  {one['summary']}" for one in shown)
        self.show(shown, "\n".join(lines))
        return Exit.DONE
