"""Offers of sellers with their stock, and the units that contract lines have reserved."""

import django.db.models.deletion
import django.db.models.expressions
import django_fsm
from django.db import migrations, models

import commerce.ids
from commerce import guards

COUNT = """
CREATE FUNCTION contracts_count_units() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  more_held bigint := CASE WHEN NEW.status = 'held' THEN NEW.quantity ELSE 0 END;
  more_committed bigint := CASE WHEN NEW.status = 'committed' THEN NEW.quantity ELSE 0 END;
BEGIN
  IF TG_OP = 'UPDATE' THEN
    more_held := more_held - CASE WHEN OLD.status = 'held' THEN OLD.quantity ELSE 0 END;
    more_committed := more_committed - CASE WHEN OLD.status = 'committed' THEN OLD.quantity ELSE 0 END;
  END IF;
  IF more_held <> 0 OR more_committed <> 0 THEN
    UPDATE contracts_stock SET held = held + more_held, committed = committed + more_committed
     WHERE id = (SELECT stock_id FROM contracts_offer WHERE id = NEW.offer_id);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER count_units AFTER INSERT OR UPDATE ON contracts_reservation
  FOR EACH ROW EXECUTE FUNCTION contracts_count_units();
"""
COUNT_UNDO = """
DROP TRIGGER count_units ON contracts_reservation;
DROP FUNCTION contracts_count_units;
"""


class Migration(migrations.Migration):
    dependencies = [("contracts", "0005_platform_terms"), ("parties", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="Offer",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("code", models.SlugField(help_text="The seller's own name for it.", max_length=60)),
                ("version", models.PositiveSmallIntegerField(default=1)),
                ("currency", models.CharField(max_length=3)),
                ("price", models.JSONField()),
                ("valid_from", models.DateTimeField(help_text="Lines may be added from then on.")),
                (
                    "valid_to",
                    models.DateTimeField(blank=True, help_text="And no more from then on.", null=True),
                ),
                ("min_term_months", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("sla_policy", models.CharField(blank=True, default="", max_length=60)),
                ("tax_code", models.CharField(blank=True, default="", max_length=60)),
                (
                    "terms",
                    models.TextField(
                        blank=True, default="", help_text="In the seller's words.", max_length=5000
                    ),
                ),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[("draft", "Draft"), ("live", "Live"), ("withdrawn", "Withdrawn")],
                        default="draft",
                        max_length=12,
                    ),
                ),
                ("created_at", models.DateTimeField()),
                ("published_at", models.DateTimeField(blank=True, null=True)),
                ("withdrawn_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (
                    ("edit_offer", "Can create and revise offers"),
                    ("publish_offer", "Can publish offers"),
                    ("withdraw_offer", "Can withdraw offers"),
                ),
            },
        ),
        migrations.CreateModel(
            name="Reservation",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("line_id", models.UUIDField()),
                ("quantity", models.PositiveIntegerField()),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[("held", "Held"), ("committed", "Committed"), ("released", "Released")],
                        default="held",
                        max_length=12,
                    ),
                ),
                ("held_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField(blank=True, help_text="Of a hold.", null=True)),
                ("committed_at", models.DateTimeField(blank=True, null=True)),
                ("released_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (("release_reservation", "Can release held units"),),
            },
        ),
        migrations.CreateModel(
            name="ReservedUnit",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("unit_id", models.CharField(max_length=200)),
            ],
        ),
        migrations.CreateModel(
            name="Stock",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "capacity",
                    models.PositiveBigIntegerField(
                        blank=True, help_text="Without limit when empty.", null=True
                    ),
                ),
                ("held", models.PositiveBigIntegerField(default=0)),
                ("committed", models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.RemoveConstraint(model_name="product", name="usage_products_have_a_meter"),
        migrations.AddField(
            model_name="product",
            name="description",
            field=models.TextField(blank=True, default="", max_length=2000),
        ),
        migrations.AlterField(
            model_name="product",
            name="kind",
            field=models.CharField(
                choices=[("recurring", "Recurring"), ("usage", "Usage"), ("one_off", "One-off")],
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="product",
            name="unit",
            field=models.CharField(
                choices=[
                    ("server_month", "server-month"),
                    ("gpu_month", "GPU-month"),
                    ("rack_month", "rack-month"),
                    ("gb_month", "GB-month"),
                    ("device_hour", "device-hour"),
                    ("gpu_hour", "GPU-hour"),
                    ("gb", "GB"),
                    ("request", "request"),
                    ("each", "each"),
                ],
                max_length=20,
            ),
        ),
        migrations.AddConstraint(
            model_name="product",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("kind", "usage"), models.Q(("meter", ""), _negated=True)),
                    models.Q(models.Q(("kind", "usage"), _negated=True), ("meter", "")),
                    _connector="OR",
                ),
                name="usage_products_have_a_meter",
                violation_error_message="A usage product needs a meter, others have none.",
            ),
        ),
        migrations.AddField(
            model_name="offer",
            name="product",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="offers", to="contracts.product"
            ),
        ),
        migrations.AddField(
            model_name="offer",
            name="seller",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="offers", to="parties.organization"
            ),
        ),
        migrations.AddField(
            model_name="offer",
            name="supersedes",
            field=models.OneToOneField(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="superseded_by",
                to="contracts.offer",
            ),
        ),
        migrations.AddField(
            model_name="reservation",
            name="contract",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="reservations",
                to="contracts.contract",
            ),
        ),
        migrations.AddField(
            model_name="reservation",
            name="offer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="reservations", to="contracts.offer"
            ),
        ),
        migrations.AddField(
            model_name="reservedunit",
            name="reservation",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="units", to="contracts.reservation"
            ),
        ),
        migrations.AddField(
            model_name="reservedunit",
            name="seller",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="parties.organization"
            ),
        ),
        migrations.AddConstraint(
            model_name="stock",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("capacity", None),
                    (
                        "capacity__gte",
                        django.db.models.expressions.CombinedExpression(
                            models.F("held"), "+", models.F("committed")
                        ),
                    ),
                    _connector="OR",
                ),
                name="stock_within_capacity",
            ),
        ),
        migrations.AddField(
            model_name="offer",
            name="stock",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="offers", to="contracts.stock"
            ),
        ),
        migrations.AddIndex(
            model_name="reservation",
            index=models.Index(
                condition=models.Q(("status", "held")), fields=["expires_at"], name="reservation_expiring"
            ),
        ),
        migrations.AddIndex(
            model_name="reservation", index=models.Index(fields=["offer", "-id"], name="reservation_of_offer")
        ),
        migrations.AddIndex(
            model_name="reservation",
            index=models.Index(fields=["status", "-id"], name="reservation_by_status"),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status__in", ("held", "committed"))),
                fields=("contract", "line_id", "offer"),
                name="reservation_open_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.CheckConstraint(
                condition=models.Q(("quantity__gte", 1)), name="reservation_quantity_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="reservation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("expires_at__isnull", False), ("status", "held")),
                    models.Q(models.Q(("status", "held"), _negated=True), ("expires_at", None)),
                    _connector="OR",
                ),
                name="reservation_holds_expire",
            ),
        ),
        migrations.AddConstraint(
            model_name="reservedunit",
            constraint=models.UniqueConstraint(fields=("seller", "unit_id"), name="unit_reserved_once"),
        ),
        migrations.AddIndex(
            model_name="offer", index=models.Index(fields=["status", "-id"], name="offer_by_status")
        ),
        migrations.AddIndex(
            model_name="offer", index=models.Index(fields=["seller", "-id"], name="offer_of_seller")
        ),
        migrations.AddIndex(
            model_name="offer", index=models.Index(fields=["product", "-id"], name="offer_of_product")
        ),
        migrations.AddConstraint(
            model_name="offer",
            constraint=models.UniqueConstraint(
                fields=("seller", "code", "version"), name="offer_version_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="offer",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "live")), fields=("stock",), name="offer_live_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="offer",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "draft")), fields=("stock",), name="offer_draft_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="offer",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("supersedes", None), ("version", 1)),
                    models.Q(("supersedes__isnull", False), ("version__gt", 1)),
                    _connector="OR",
                ),
                name="offer_supersedes_one",
            ),
        ),
        migrations.AddConstraint(
            model_name="offer",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("valid_to", None), ("valid_to__gt", models.F("valid_from")), _connector="OR"
                ),
                name="offer_window_sound",
            ),
        ),
        migrations.AddConstraint(
            model_name="offer",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("published_at", None), ("status", "draft"), ("withdrawn_at", None)),
                    models.Q(("published_at__isnull", False), ("status", "live"), ("withdrawn_at", None)),
                    models.Q(("status", "withdrawn"), ("withdrawn_at__isnull", False)),
                    _connector="OR",
                ),
                name="offer_instants_follow_status",
            ),
        ),
        migrations.RunSQL(COUNT, COUNT_UNDO),
        guards.updatable_only("contracts_stock", ["capacity", "held", "committed"]),
        guards.updatable_only("contracts_offer", ["status", "published_at", "withdrawn_at"]),
        guards.state_guard(
            "contracts_offer",
            "status",
            initial=["draft"],
            pairs=[("draft", "live"), ("draft", "withdrawn"), ("live", "withdrawn")],
        ),
        guards.updatable_only(
            "contracts_reservation", ["quantity", "status", "expires_at", "committed_at", "released_at"]
        ),
        guards.state_guard(
            "contracts_reservation",
            "status",
            initial=["held"],
            pairs=[("held", "committed"), ("held", "released"), ("committed", "released")],
        ),
    ]
