"""Where providers deliver their webhooks."""

from django.urls import path

from commerce.providers import views

urlpatterns = [
    path("modern-treasury/", views.modern_treasury_webhook, name="webhook-modern-treasury"),
    path("openmeter/", views.openmeter_webhook, name="webhook-openmeter"),
]
