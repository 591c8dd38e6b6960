"""Content-Security-Policy: what a page of ours may load and run.

The console's skin compiles its templates in the browser, which costs it 'unsafe-eval'; inline
scripts stay forbidden everywhere. The API serves data and gets the empty policy.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

_PAGE = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self'{scripts}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
CONSOLE = _PAGE.format(scripts=" 'unsafe-eval'")
DOCS = _PAGE.format(scripts="")
NOTHING = "default-src 'none'; frame-ancestors 'none'"


class ContentSecurityPolicyMiddleware:
    """Adds the policy by path, and forbids caching of what was shown to somebody who logged in."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", policy(request.path))
        if not request.path.startswith("/static/"):
            response.headers.setdefault("Cache-Control", "no-store")
        return response


def policy(path: str) -> str:
    if path.startswith("/admin/"):
        return CONSOLE
    return DOCS if path.startswith("/api/docs/") else NOTHING
