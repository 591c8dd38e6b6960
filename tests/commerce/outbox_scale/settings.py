"""The product's settings and handlers whose effects can be counted, for real workers and beats."""

import os

from commerce.settings import *  # noqa: F403
from commerce.settings import CELERY_BROKER_TRANSPORT_OPTIONS, CELERY_BROKER_URL, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.commerce.outbox_scale"]
if CELERY_BROKER_URL.startswith("filesystem:"):
    folder = os.environ["SCALE_FOLDER"]
    CELERY_BROKER_TRANSPORT_OPTIONS |= {
        "data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}/control",
        "polling_interval": 0.02,
    }  # fmt: skip
