"""The API application: keys, and the answers given under idempotency keys."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "commerce.api"
    label = "api"
    verbose_name = "API"
