"""The whole configuration, from the environment; .env.example documents every variable.

What is left unset falls back to something that works on a bare machine: an embedded PostgreSQL and
Redis, and outside production a throw-away secret key. What is wrong is a numbered system check.
"""

import os
import re
from pathlib import Path
from typing import Any

import environ
from kombu import Queue

BASE_DIR = Path(__file__).resolve().parent.parent
UNREADABLE: dict[str, str] = {}
_READABLE: dict[Any, tuple[str, str]] = {
    bool: (r"true|false|yes|no|on|off|1|0", "true or false"),
    int: (r"[0-9]{1,18}", "a whole number, 0 or more"),
    float: (r"[0-9]{1,9}(\.[0-9]{1,9})?", "a number, 0 or more"),
}


class _Environment(environ.Env):
    """An empty variable is an unset one; one that cannot be read is kept for a system check to name."""

    def get_value(self, var: Any, cast: Any = None, default: Any = None, parse_default: bool = False) -> Any:
        text = self.ENVIRON.get(var, "").strip()
        if not text:
            return default
        pattern, wanted = _READABLE.get(cast, (".*", ""))
        if not re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL):
            UNREADABLE[var] = wanted
            return default
        return self.parse_value(text, cast)


env = _Environment()
environ.Env.read_env(BASE_DIR / ".env")

# Environment

ENVIRONMENT = env.str("ENVIRONMENT", default="development")
PRODUCTION = ENVIRONMENT == "production"
DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="" if PRODUCTION else "only-for-development-" + "0" * 40)
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[] if PRODUCTION else ["localhost", "127.0.0.1"])
PUBLIC_URL = env.str("PUBLIC_URL", default="http://127.0.0.1:8000")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# Time

TIME_ZONE = "UTC"
USE_TZ = True
CLOCK_FILE = env.str("CLOCK_FILE", default="")
TICK_SECONDS = env.float("TICK_SECONDS", default=2.0)
POLL_SECONDS = env.float("POLL_SECONDS", default=60.0)

# Applications

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "commerce",
    "commerce.outbox",
    "commerce.providers",
    "commerce.parties",
    "commerce.api",
    "commerce.console",
    "commerce.webhooks",
    "ledger",
    "contracts",
    "billing",
    "payouts",
]
MIDDLEWARE = [
    "commerce.logs.RequestMiddleware",
    "commerce.health.HealthMiddleware",
    "commerce.metrics.MetricsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "commerce.console.security.ContentSecurityPolicyMiddleware",
]
ROOT_URLCONF = "commerce.urls"
WSGI_APPLICATION = "commerce.wsgi.application"
ASGI_APPLICATION = "commerce.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# Database: `migrate` connects as the owner of the tables, everything else as a role that may do less

_TIMEOUTS = (
    f"-c statement_timeout={env.int('STATEMENT_TIMEOUT_MS', default=30_000)}"
    " -c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000"
)
_POSTGRES = {"ENGINE": "django.db.backends.postgresql", "NAME": "", "USER": "", "PASSWORD": ""}


def _server(name: str) -> dict[str, Any]:
    """The connection that a variable describes."""
    address: dict[str, Any] = {}
    if env.str(name, default="").startswith(("postgres://", "postgresql://")):
        address = env.db_url(name)
    else:
        UNREADABLE[name] = "postgres://user:password@host:5432/name"
    return {**_POSTGRES, **address, "OPTIONS": {"options": _TIMEOUTS, **address.get("OPTIONS", {})}}


DATABASES: dict[str, dict[str, Any]]
DATABASE_OWNER: dict[str, Any] = {}
if env.str("DATABASE_URL", default=""):
    DATABASES = {"default": _server("DATABASE_URL")}
    if env.str("DATABASE_OWNER_URL", default=""):
        DATABASE_OWNER = _server("DATABASE_OWNER_URL")
        if DATABASE_OWNER["NAME"] != DATABASES["default"]["NAME"]:
            UNREADABLE["DATABASE_OWNER_URL"] = "the owner's address of the database that DATABASE_URL names"
else:
    from commerce.embedded import APPLICATION_ROLE, ensure_postgres

    DATABASE_OWNER = {**_POSTGRES, **ensure_postgres(), "OPTIONS": {"options": _TIMEOUTS}}
    DATABASES = {"default": {**DATABASE_OWNER, "USER": APPLICATION_ROLE}}
if env.str("DATABASE_NAME", default=""):
    DATABASES["default"]["NAME"] = env.str("DATABASE_NAME")
if env.int("DB_POOL", default=0):
    _pool = {"min_size": 1, "max_size": env.int("DB_POOL"), "timeout": 10}
    DATABASES["default"]["OPTIONS"] = {**DATABASES["default"]["OPTIONS"], "pool": _pool}
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["TEST"] = {"NAME": "test_commerce" + env.str("TEST_DB_SUFFIX", default="")}

# The broker and Celery

if env.str("BROKER_URL", default=""):
    CELERY_BROKER_URL = env.str("BROKER_URL")
elif env.str("REDIS_URL", default=""):
    CELERY_BROKER_URL = env.str("REDIS_URL")
else:
    from commerce.embedded import ensure_redis

    CELERY_BROKER_URL = f"redis+socket://{ensure_redis()}?virtual_host={env.int('REDIS_DB', default=0)}"
_BROKER = CELERY_BROKER_URL.partition(":")[0]
# Whoever publishes a wake-up gives up soon: a request must not wait for a broker that is down or hangs.
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {"max_retries": 0}
if _BROKER in ("redis", "rediss", "redis+socket"):
    CELERY_BROKER_TRANSPORT_OPTIONS |= {
        "visibility_timeout": 600,  # longer than any task that is acknowledged at its end
        "socket_connect_timeout": 1,
        "socket_timeout": 3,
    }
elif _BROKER in ("amqp", "amqps"):
    CELERY_BROKER_TRANSPORT_OPTIONS |= {"confirm_publish": True}
    CELERY_BROKER_HEARTBEAT = 30
# Workers wait for a broker as long as it takes; the default gives up within the hour.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_SOFT_TIME_LIMIT = 60
CELERY_TASK_TIME_LIMIT = 90
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1000
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 500_000  # kilobytes
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 20
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULER = "commerce.beat.Scheduler"
CELERY_TIMEZONE = "UTC"
CELERY_DB_REUSE_MAX = 500

# A queue per kind of work, so that one that is slow holds up no other; "outbox.drain" goes by its lane.
# A worker takes all of them unless told otherwise (-Q, -X).
_QUEUES: dict[str, tuple[str, ...]] = {
    "outbox": ("outbox.publish",),
    "provider-openmeter": ("billing.poll_invoices", "billing.check_drift"),
    "provider-modern_treasury": ("billing.poll_incoming_payments", "payouts.poll"),
    "webhooks": ("webhooks.deliver",),
    "schedule": (
        *("commerce.heartbeat", "contracts.take_effect", "ledger.release_due", "billing.advance"),
        *("contracts.run_schedule", "contracts.release_holds", "payouts.advance"),
        *("parties.poll", "webhooks.fan_out"),
    ),
    "bulk": (
        *("ledger.keep", "ledger.finish_closings", "commerce.expire_approvals", "webhooks.keep"),
        *("console.expire_exports", "api.forget_old_answers", "outbox.make_partitions", "contracts.run_bulk"),
    ),
    "exports": ("console.run_exports",),
}
CELERY_TASK_QUEUES = [Queue(name, routing_key=name) for name in _QUEUES]
CELERY_TASK_DEFAULT_QUEUE = "schedule"
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_TASK_ROUTES = [
    "commerce.outbox.tasks.route",
    {task: {"queue": queue} for queue, tasks in _QUEUES.items() for task in tasks},
]

# Providers

MODERN_TREASURY_BASE_URL = env.str("MODERN_TREASURY_BASE_URL", default="https://app.moderntreasury.com")
MODERN_TREASURY_ORGANIZATION_ID = env.str("MODERN_TREASURY_ORGANIZATION_ID", default="")
MODERN_TREASURY_API_KEY = env.str("MODERN_TREASURY_API_KEY", default="")
MODERN_TREASURY_WEBHOOK_KEYS = env.list("MODERN_TREASURY_WEBHOOK_KEY", default=[])
MODERN_TREASURY_INTERNAL_ACCOUNT_ID = env.str("MODERN_TREASURY_INTERNAL_ACCOUNT_ID", default="")
OPENMETER_BASE_URL = env.str("OPENMETER_BASE_URL", default="https://openmeter.cloud")
OPENMETER_TOKEN = env.str("OPENMETER_TOKEN", default="")
OPENMETER_WEBHOOK_SECRETS = env.list("OPENMETER_WEBHOOK_SECRET", default=[])
PROVIDER_TIMEOUT_SECONDS = env.float("PROVIDER_TIMEOUT_SECONDS", default=10.0)
SANDBOX_URL = env.str("SANDBOX_URL", default="")

# Outgoing webhooks

# Networks besides the public internet that webhooks may go to, such as 127.0.0.0/8, by http too.
WEBHOOK_ALLOWED_NETWORKS = env.list("WEBHOOK_ALLOWED_NETWORKS", default=[])
# Days that messages are kept after their end, with their attempts; the database keeps the latter for 30.
WEBHOOK_LOG_DAYS = env.int("WEBHOOK_LOG_DAYS", default=90)

# Policy

SEASONING_DAYS = env.int("SEASONING_DAYS", default=7)
PAYOUT_APPROVAL_LIMIT_MINOR = env.int("PAYOUT_APPROVAL_LIMIT_MINOR", default=10_000_000)
# So many contracts one person may change at once alone.
BULK_APPROVAL_LIMIT = env.int("BULK_APPROVAL_LIMIT", default=100)
EXPORTS_DIR = env.str("EXPORTS_DIR", default="")
EXPORTS_KEEP_DAYS = env.int("EXPORTS_KEEP_DAYS", default=7)

# Web

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = not PRODUCTION
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
SESSION_COOKIE_AGE = 8 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PRODUCTION
CSRF_COOKIE_HTTPONLY = True
SECURE_SSL_REDIRECT = PRODUCTION
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$"]
if env.bool("BEHIND_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = PRODUCTION
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["commerce.api.auth.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["commerce.api.auth.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["commerce.api.parsers.StrictJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "commerce.api.pagination.IdCursorPagination",
    "DEFAULT_SCHEMA_CLASS": "commerce.api.schema.Schema",
    "EXCEPTION_HANDLER": "commerce.api.problems.exception_handler",
    "PAGE_SIZE": 50,
    "URL_FORMAT_OVERRIDE": None,  # what is no parameter of an address is refused, this one too
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Commerce API",
    "DESCRIPTION": "Contracts, usage, invoices, wallets, settlements and payouts of a compute marketplace.",
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [],  # enums stay where they are used, without a name each
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}
UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Commerce",
    "SITE_HEADER": "Commerce",
    "SITE_SYMBOL": "account_balance",
    "SITE_URL": "",
    "ENVIRONMENT": "commerce.console.theme.environment",
    "DASHBOARD_CALLBACK": "commerce.console.dashboard.dashboard",
    "SIDEBAR": {
        "show_search": True,
        "command_search": True,
        "navigation": "commerce.console.theme.navigation",
    },
    "COMMAND": {"search_callback": "commerce.console.theme.search", "show_history": False},
    "STYLES": ["commerce.console.theme.stylesheet"],
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "commerce.console.theme.favicon"}],
}

# Logs

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
if LOG_LEVEL not in LOG_LEVELS:
    UNREADABLE["LOG_LEVEL"] = f"one of {', '.join(LOG_LEVELS)}"
    LOG_LEVEL = "INFO"
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "commerce.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "modern_treasury": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
    },
}

# Relay

# Longer than CELERY_TASK_TIME_LIMIT: no worker is still at work on a stream that it no longer holds.
OUTBOX_LEASE_SECONDS = env.float("OUTBOX_LEASE_SECONDS", default=120.0)
# What a scraper of /metrics shows as its bearer token; without one there are no metrics.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
CRASH_AT = os.environ.get("CRASH_AT", "")
