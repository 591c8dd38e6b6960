"""The first products of the catalogue: a server by the month, and burst hours by the meter."""

from typing import Any

from django.db import migrations

from commerce.ids import uuid7

PRODUCTS = (
    {"code": "h100-server", "name": "H100 server", "kind": "recurring", "unit": "server_month", "meter": ""},
    {
        "code": "h100-burst",
        "name": "H100 burst hours",
        "kind": "usage",
        "unit": "device_hour",
        "meter": "h100_burst_hours",
    },
)


def create_products(apps: Any, schema_editor: Any) -> None:
    for product in PRODUCTS:
        apps.get_model("contracts", "Product").objects.create(id=uuid7(), **product)


class Migration(migrations.Migration):
    dependencies = [("contracts", "0002_guards")]
    operations = [migrations.RunPython(create_products, migrations.RunPython.noop)]
