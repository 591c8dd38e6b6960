"""The doors for webhooks. They answer within a second: 2xx once stored, else a problem document."""

import logging

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from commerce import clock
from commerce.errors import CommerceError
from commerce.providers import modern_treasury, openmeter
from commerce.providers.services import receive_webhook

log = logging.getLogger(__name__)

LARGEST_BODY = 256 * 1024


@csrf_exempt
def modern_treasury_webhook(request: HttpRequest) -> HttpResponse:
    return _receive(request, modern_treasury.NAME)


@csrf_exempt
def openmeter_webhook(request: HttpRequest) -> HttpResponse:
    return _receive(request, openmeter.NAME)


def _receive(request: HttpRequest, provider: str) -> HttpResponse:
    if request.method != "POST":
        response = _problem(405, "method_not_allowed", "Webhooks are POSTed.")
        response["Allow"] = "POST"
        return response
    if request.content_type not in ("application/json", "application/cloudevents+json"):
        return _problem(415, "unsupported_media_type", "The body must be application/json.")
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > LARGEST_BODY:
        return _problem(413, "too_large", "The body is larger than 256 KiB.")
    try:
        receive_webhook(provider=provider, body=request.body, headers=request.headers, at=clock.now())
    except CommerceError as error:
        log.warning("webhook refused", extra={"provider": provider, "code": error.code})
        # Whatever is wrong with a delivery is wrong with its form: 401 for the signature, else 400.
        return _problem(401 if error.status == 401 else 400, error.code, error.detail)
    return HttpResponse(status=204)


def _problem(status: int, code: str, detail: str) -> JsonResponse:
    return JsonResponse(
        {"type": "about:blank", "title": "Webhook refused", "status": status, "code": code, "detail": detail},
        status=status,
        content_type="application/problem+json",
    )
