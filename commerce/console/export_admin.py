"""Exports in the console: ask for one, watch it being made, fetch its file."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.models import ADDITION, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from rest_framework import serializers
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console import exports
from commerce.console.api import file_response
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.export_formats import decimal
from commerce.console.export_links import may_export
from commerce.console.format import NOTHING, badge, instant
from commerce.console.models import Export, ExportFormat
from commerce.console.panels import in_words
from commerce.console.registry import register_panel
from commerce.errors import CommerceError, NotFound
from commerce.logs import request_id

REFRESH_SECONDS = 2


def request_form(source: exports.Source) -> type[forms.Form]:
    """The source's parameters as a person fills them in, and the format."""
    fields: dict[str, forms.Field] = {
        "format": forms.ChoiceField(choices=ExportFormat.choices, widget=UnfoldAdminSelectWidget)
    }
    query: Any = source.query()
    for name, field in query.fields.items():
        options = {
            "required": field.required,
            "help_text": field.help_text,
            "initial": None if field.default is serializers.empty else field.default,
        }
        if isinstance(field, serializers.ChoiceField):
            choices = [*([] if field.required else [("", "any")]), *field.choices.items()]
            fields[name] = forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget, **options)
        elif isinstance(field, serializers.DateTimeField):
            options["help_text"] = field.help_text or "UTC"
            widget = UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"})
            fields[name] = forms.DateTimeField(widget=widget, **options)
        else:
            fields[name] = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget, **options)
    return type("ExportForm", (forms.Form,), fields)


@admin.register(Export)
class ExportAdmin(ConsoleAdmin):
    """Files of rows for spreadsheets and other systems. A file is removed after some days; its hash stays."""

    icon = "download"
    list_display = ("what", "shown_format", "state", "progress", "by", "requested", "expires")
    list_filter = ("status", "format")
    list_select_related = ("organization",)
    search_fields = ("id__exact",)
    search_help_text = "The export's id."
    fields = (
        "what", "shown_format", "state", "progress", "whose", "shown_parameters", "by", "requested",
        "completed", "expires", "shown_size", "hash", "error",
    )  # fmt: skip

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("new/<str:name>/", view(self.new_view), name="console_export_new"),
            path("<uuid:pk>/file/", view(self.file_view), name="console_export_file"),
            *super().get_urls(),
        ]

    def get_exported(self) -> Sequence[str]:
        return [source.name for source in exports.sources()]

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().change_view(request, object_id, *args, **kwargs)
        found = getattr(response, "context_data", None) or {}
        if isinstance(found.get("original"), Export) and found["original"].is_under_way:
            response["Refresh"] = str(REFRESH_SECONDS)
        return response

    def new_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """GET: what would be exported. POST: ask for it."""
        try:
            source = exports.source_named(name)
        except CommerceError as error:
            raise Http404 from error
        if not may_export(request, source):
            raise PermissionDenied
        kind = request_form(source)
        status = 200
        if request.method == "POST":
            form = kind(request.POST)
            if form.is_valid():
                try:
                    export = self._requested(request, source, form.cleaned_data)
                except CommerceError as error:
                    form.add_error(None, str(error))
                    status = error.status
                else:
                    return HttpResponseRedirect(reverse("admin:console_export_change", args=[export.pk]))
            else:
                status = 422
        else:
            given = {name.removesuffix("__exact"): value for name, value in request.GET.items()}
            form = kind(initial={name: given[name] for name in kind.base_fields if name in given})
        context = {
            **self.admin_site.each_context(request),
            "title": f"Export: {source.label}",
            "opts": self.opts,
            "source": source,
            "columns": ", ".join(column.label for column in source.columns),
            "form": form,
            "back": reverse("admin:console_export_changelist"),
        }
        return TemplateResponse(request, "console/export_new.html", context, status=status)

    def _requested(self, request: HttpRequest, source: exports.Source, data: dict[str, Any]) -> Export:
        given = {name: value for name, value in data.items() if value not in (None, "")}
        format = given.pop("format")
        parameters = {n: v.isoformat() if hasattr(v, "isoformat") else v for n, v in given.items()}
        actor = Actor.for_user(request.user, request_id.get())
        with transaction.atomic():
            export = exports.request_export(
                source=source.name, format=format, parameters=parameters, actor=actor, at=clock.now()
            )
            LogEntry.objects.log_actions(
                user_id=actor.user.pk,
                queryset=[export],
                action_flag=ADDITION,
                change_message=f"Export: {source.label}",
                single_object=True,
            )
        return export

    def file_view(self, request: HttpRequest, pk: Any) -> HttpResponse | FileResponse:
        export = self.get_object(request, str(pk))
        if export is None:
            raise Http404
        try:
            return file_response(export, actor=Actor.for_user(request.user, request_id.get()))
        except NotFound as error:
            raise Http404(str(error)) from error
        except CommerceError as error:
            raise PermissionDenied(str(translate(error))) from error

    @admin.display(description="Export")
    def what(self, obj: Export) -> str:
        return exports.source_named(obj.source).label

    @admin.display(description="Format")
    def shown_format(self, obj: Export) -> str:
        return obj.get_format_display()

    @admin.display(description="State")
    def state(self, obj: Export) -> SafeString:
        return badge(obj.status, "plain" if obj.status == Export.Status.EXPIRED else "")

    @admin.display(description="Rows")
    def progress(self, obj: Export) -> str:
        if obj.is_under_way and obj.rows_total is not None:
            return f"{obj.rows_done:,} of {obj.rows_total:,}"
        return f"{obj.rows_done:,}" if obj.sha256 else "—"

    @admin.display(description="Whose rows")
    def whose(self, obj: Export) -> str:
        return str(obj.organization) if obj.organization else "everybody's"

    @admin.display(description="Asked for")
    def shown_parameters(self, obj: Export) -> SafeString:
        return in_words(obj.parameters) if obj.parameters else SafeString("everything")

    @admin.display(description="By")
    def by(self, obj: Export) -> str:
        return obj.requested_by

    @admin.display(description="Requested")
    def requested(self, obj: Export) -> SafeString:
        return instant(obj.requested_at)

    @admin.display(description="Completed")
    def completed(self, obj: Export) -> SafeString:
        return instant(obj.completed_at)

    @admin.display(description="File is kept until")
    def expires(self, obj: Export) -> SafeString:
        return instant(obj.expires_at)

    @admin.display(description="Size")
    def shown_size(self, obj: Export) -> str:
        return "—" if obj.size is None else filesizeformat(obj.size)

    @admin.display(description="SHA-256")
    def hash(self, obj: Export) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.sha256) if obj.sha256 else NOTHING


def _file_panel(export: Export, request: HttpRequest) -> SafeString:
    if export.is_under_way:
        total = export.rows_total
        done = (
            format_html('value="{}" max="{}"', export.rows_done, max(total, 1)) if total is not None else ""
        )
        begun = "Counting rows." if export.status == Export.Status.RUNNING else "Waits for a worker."
        words = f"{export.rows_done:,} of {total:,} rows." if total is not None else begun
        bar = '<progress class="c-progress" {}></progress><p>{} This page refreshes itself.</p>'
        return format_html(bar, done, words)
    if export.status != Export.Status.COMPLETED:
        return SafeString("")
    if not request.user.has_perm(exports.source_named(export.source).permission):
        return format_html("<p>{}</p>", "You may not see such rows.")
    return format_html(
        '<p class="c-buttons"><a class="c-button c-primary" href="{}">Download {}</a></p>',
        reverse("admin:console_export_file", args=[export.pk]),
        export.filename,
    )


def _totals_panel(export: Export, request: HttpRequest) -> SafeString:
    if not export.totals or not request.user.has_perm(exports.source_named(export.source).permission):
        return SafeString("")
    columns = [column for column in exports.source_named(export.source).columns if column.total]
    rows = (
        (currency, *(f"{decimal(sums.get(column.name, 0), currency):,}" for column in columns))
        for currency, sums in sorted(export.totals.items())
    )
    return table(["Currency", *(f">{column.label}" for column in columns)], rows)


register_panel("console.export", title="File", render=_file_panel, order=10)
register_panel("console.export", title="Totals", render=_totals_panel, order=20)
