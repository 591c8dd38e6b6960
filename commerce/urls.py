"""All routes: the admin console, the API with its documentation, and the providers' webhooks."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("webhooks/", include("commerce.providers.urls")),
    path("api/", include("commerce.api.urls")),
    path("api/v1/", include("commerce.console.api")),
    path("api/v1/", include("commerce.parties.api")),
    path("api/v1/", include("commerce.webhooks.api")),
    path("api/v1/", include("contracts.api.urls")),
    path("api/v1/", include("billing.api")),
    path("api/v1/", include("ledger.api")),
    path("api/v1/", include("payouts.api")),
    path("api/v1/", include("commerce.console.approvals_api")),
]

handler400 = "commerce.api.problems.bad_request"
handler403 = "commerce.api.problems.permission_denied"
handler404 = "commerce.api.problems.not_found"
handler500 = "commerce.api.problems.server_error"
