"""`manage.py apikey issue|revoke|list`: keys of integrations. The plain key is printed once, at issue."""

from argparse import ArgumentParser
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.utils import timezone

from commerce import clock
from commerce.api.models import ApiKey
from commerce.api.scopes import SCOPES
from commerce.api.services import issue_key, revoke_key
from commerce.errors import NotFound
from commerce.management.ops import Exit, OpsCommand, positive


class Command(OpsCommand):
    help = "Issue, revoke and list API keys."
    writes = True

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        issue = verbs.add_parser("issue", help="make a key and print it, once")
        issue.add_argument("--organization", required=True, metavar="SLUG")
        issue.add_argument("--scope", action="append", required=True, choices=sorted(SCOPES))
        issue.add_argument("--label", required=True)
        issue.add_argument("--days", type=positive, default=365, help="until it expires")
        revoke = verbs.add_parser("revoke", help="end a key now")
        revoke.add_argument("prefix")
        revoke.add_argument("--reason", required=True)
        listing = verbs.add_parser("list", help="who has which keys")
        listing.add_argument("--organization", metavar="SLUG")

    def run(self, **options: Any) -> Exit:
        verbs: dict[str, Callable[..., Exit]] = {
            "issue": self._issue,
            "revoke": self._revoke,
            "list": self._list,
        }
        return verbs[options["verb"]](**options)

    def _issue(self, *, organization: str, scope: list[str], label: str, days: int, **_: Any) -> Exit:
        owners = ApiKey._meta.get_field("organization").related_model._default_manager
        owner = owners.filter(slug=organization).first()
        if owner is None:
            raise NotFound(f"There is no organization {organization!r}.")
        key, plain = issue_key(
            organization=owner,
            scopes=scope,
            label=label,
            expires_at=timezone.now() + timedelta(days=days),
            actor=self.actor,
            at=clock.now(),
        )
        self.show({**_row(key), "key": plain}, plain)
        self.say("Keep it now: only its hash is stored.")
        return Exit.DONE

    def _revoke(self, *, prefix: str, reason: str, **_: Any) -> Exit:
        key = ApiKey.objects.filter(prefix=prefix).first()
        if key is None:
            raise NotFound(f"There is no key with the prefix {prefix!r}.")
        key = revoke_key(key=key, actor=self.actor, at=clock.now(), reason=reason)
        self.show(_row(key), f"revoked {key}")
        return Exit.DONE

    def _list(self, *, organization: str | None, **_: Any) -> Exit:
        keys = ApiKey.objects.select_related("organization").order_by("organization__slug", "-id")
        if organization:
            keys = keys.filter(organization__slug=organization)
        rows = [_row(key) for key in keys]
        lines = [
            f"{r['prefix']}  {r['status']:8} {r['organization']:20} {r['label']:24} {' '.join(r['scopes'])}"
            for r in rows
        ]
        self.show(rows, "\n".join(lines) or "no keys")
        return Exit.DONE


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "prefix": key.prefix,
        "organization": key.organization.slug,
        "label": key.label,
        "scopes": key.scopes,
        "status": key.status,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }
