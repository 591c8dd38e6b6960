"""A form for any payload: its dataclass is the form, field by field, section by section.

`PayloadForm` reads what a person entered into the JSON that the API would get; what is left empty is
left out. It checks only what has no form in JSON; every rule stays with the operation, whose refusals
come back to their fields by JSON pointer.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from django import forms
from django.http import QueryDict
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from commerce.errors import FieldError
from commerce.money import exponent
from commerce.parties.models import Organization
from contracts.admin.choices import ABOUT, HELP, HOLD_REASONS, LABELS, PARTIES, Offered
from contracts.rules import schema
from contracts.rules.operations import REGISTRY
from contracts.rules.schema import Between, Pattern, Server, Share
from contracts.rules.state import NOBODY
from contracts.rules.terms import Amount

ABSENT: Any = object()
Json = dict[str, Any]
SPARE_ROWS, MOST_ROWS = 3, 200
ALWAYS_OPEN = frozenset({"payload.price", "payload.replacement"})
LONG_TEXT = 120


class PercentField(forms.DecimalField):
    """A share, entered in percent: 8.25 is 0.0825."""

    def to_python(self, value: Any) -> Any:
        entered = super().to_python(value)
        return None if entered is None else entered.scaleb(-2)

    def prepare_value(self, value: Any) -> Any:
        return f"{value.scaleb(2).normalize():f}" if isinstance(value, Decimal) else value


class MoneyField(forms.DecimalField):
    """An amount in major units; reads as minor units, `whole` as an amount with its currency."""

    def __init__(self, *, currency: str, whole: bool = False, **options: Any) -> None:
        self.currency, self.whole = currency, whole
        self.digits = exponent(currency) if currency else 2
        super().__init__(decimal_places=self.digits, max_digits=18, **options)

    def clean(self, value: Any) -> Any:
        entered = super().clean(value)
        if entered is None:
            return None
        minor = int(entered.scaleb(self.digits))
        return {"amount_minor": minor, "currency": self.currency} if self.whole else minor

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = value["amount_minor"]
        if isinstance(value, int):
            return f"{Decimal(value).scaleb(-self.digits):.{self.digits}f}"
        return value


class OrganizationField(forms.CharField):
    """An organization by its short name; reads as its id."""

    def clean(self, value: Any) -> Any:
        entered = super().clean(value)
        if not entered:
            return None
        found = Organization.objects.filter(slug=entered).values_list("pk", flat=True).first()
        if found is None:
            raise forms.ValidationError(f"No organization has the short name {entered!r}.", code="not_found")
        return str(found)

    def prepare_value(self, value: Any) -> Any:
        try:
            id_ = UUID(str(value))
        except ValueError:
            return value
        return Organization.objects.filter(pk=id_).values_list("slug", flat=True).first() or value


class InstantField(forms.DateTimeField):
    """An instant in UTC, reads as RFC 3339."""

    def clean(self, value: Any) -> Any:
        entered = super().clean(value)
        return schema.instant(entered.astimezone(UTC)) if entered else None

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, str) and value.endswith("Z"):
            value = datetime.fromisoformat(value)
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}" if isinstance(value, datetime) else value


class DayField(forms.DateField):
    def clean(self, value: Any) -> Any:
        entered = super().clean(value)
        return entered.isoformat() if entered else None


@dataclass(frozen=True)
class Leaf:
    """One field. `many` reads a list."""

    name: str
    field: forms.Field
    initial: Any = None

    kind = "field"

    def fields(self) -> Iterator[tuple[str, forms.Field]]:
        yield self.name, self.field

    def read(self, cleaned: Mapping[str, Any]) -> Any:
        value = cleaned.get(self.name)
        return ABSENT if value is None or value in ("", []) else _as_json(value)

    def show(self, data: Any) -> Iterator[tuple[str, Any]]:
        if data is not ABSENT and data is not None:
            yield self.name, _from_json(self.field, data)
        elif self.initial is not None:
            yield self.name, self.initial


@dataclass(frozen=True)
class Fixed:
    """What nobody is asked: the id of something that this operation makes, a stage, a currency."""

    name: str
    value: Any

    kind = "fixed"

    def fields(self) -> Iterator[tuple[str, forms.Field]]:
        yield self.name, forms.CharField(widget=forms.HiddenInput, required=False)

    def read(self, cleaned: Mapping[str, Any]) -> Any:
        return cleaned.get(self.name) or ABSENT

    def show(self, data: Any) -> Iterator[tuple[str, Any]]:
        yield self.name, self.value if data in (ABSENT, None) else data


@dataclass(frozen=True)
class Group:
    """A section. An optional one that is left empty is left out."""

    name: str
    title: str
    about: str
    children: "dict[str, Node]"
    optional: bool = False

    kind = "group"

    def fields(self) -> Iterator[tuple[str, forms.Field]]:
        for child in self.children.values():
            yield from child.fields()

    def read(self, cleaned: Mapping[str, Any]) -> Any:
        found = {key: child.read(cleaned) for key, child in self.children.items()}
        found = {key: value for key, value in found.items() if value is not ABSENT}
        own = [key for key in found if not isinstance(self.children[key], Fixed)]
        return ABSENT if self.optional and not own else found

    def show(self, data: Any) -> Iterator[tuple[str, Any]]:
        given = data if isinstance(data, Mapping) else {}
        for key, child in self.children.items():
            yield from child.show(given.get(key, ABSENT))


@dataclass(frozen=True)
class Rows:
    """A list of objects as a table; rows that are left empty are left out."""

    name: str
    title: str
    rows: Sequence[Group]
    optional: bool = True

    kind = "rows"

    def fields(self) -> Iterator[tuple[str, forms.Field]]:
        for row in self.rows:
            yield from row.fields()

    def read(self, cleaned: Mapping[str, Any]) -> Any:
        found = [value for row in self.rows if (value := row.read(cleaned)) is not ABSENT]
        return found or ABSENT

    def show(self, data: Any) -> Iterator[tuple[str, Any]]:
        given = data if isinstance(data, list) else []
        for number, row in enumerate(self.rows):
            yield from row.show(given[number] if number < len(given) else ABSENT)


Node = Leaf | Fixed | Group | Rows


class PayloadForm(forms.Form):
    """The fields of one payload under names such as `payload.price.rate`."""

    tree: Group

    def payload(self) -> Json:
        """What was entered, as JSON. Call it on a valid form."""
        return dict(self.tree.read(self.cleaned_data))

    def blame(self, errors: Iterable[FieldError], fallback: str) -> None:
        """Put each refusal at its field; what has none is said above the form."""
        unplaced = True
        for error in errors:
            name = error.pointer.strip("/").replace("/", ".")
            while name and name not in self.fields:
                name = name.rpartition(".")[0]
            visible = name and not isinstance(self.fields[name].widget, forms.HiddenInput)
            self.add_error(name if visible else None, error.detail)
            unplaced = False
        if unplaced:
            self.add_error(None, fallback)

    @property
    def sections(self) -> Json:
        """The tree with bound fields, as the template draws it."""
        return self._drawn(self.tree)

    @property
    def envelope(self) -> list[forms.BoundField]:
        """The fields that are not the payload's."""
        return [bound for bound in self.visible_fields() if not bound.name.startswith("payload.")]

    def _drawn(self, node: Node) -> Json:
        if isinstance(node, Leaf | Fixed):
            return {"kind": node.kind, "field": self[node.name]}
        if isinstance(node, Rows):
            drawn = [self._drawn(row) for row in node.rows]
            flat = all(child["kind"] in ("field", "fixed") for row in drawn[:1] for child in row["children"])
            return {
                "kind": "rows", "title": node.title, "rows": drawn, "flat": flat, "open": _touched(drawn)
            }  # fmt: skip
        children = [self._drawn(child) for child in node.children.values()]
        return {
            "kind": "group",
            "title": node.title,
            "about": node.about,
            "optional": node.optional,
            "children": children,
            "open": node.name in ALWAYS_OPEN or _touched(children),
        }


def payload_form(
    payload: Any,
    offered: Offered,
    *,
    data: Any = None,
    initial: Json | None = None,
    fixed: Json | None = None,
    without: frozenset[str] = frozenset(),
    entered: QueryDict | None = None,
    more: bool = False,
    base: type[forms.Form] = forms.Form,
) -> PayloadForm:
    """The form of a payload's dataclass for one contract; `initial` is JSON of it, `fixed` is not asked.

    `entered` is what a form with fewer fields had: the form is shown again, with it filled in. `more`
    gives every table some rows more than it had.
    """
    had = frozenset(data if data is not None else entered or ())
    builder = _Builder(offered, fixed or {}, without, had, more)
    tree = builder.group("payload", payload, optional=False, given=initial or {})
    kind: Any = type("OperationForm", (PayloadForm, base), dict(tree.fields()) | {"tree": tree})
    shown = dict(tree.show(initial or ABSENT))
    for name, values in entered.lists() if entered is not None else ():
        several = isinstance(kind.base_fields.get(name), forms.MultipleChoiceField)
        shown[name] = values if several else values[-1]
    form: PayloadForm = kind(data, initial=shown)
    own = [name for name in form.fields if not name.startswith("payload.")]
    form.order_fields([name for name in form.fields if name not in own] + own)
    return form


@dataclass
class _Builder:
    offered: Offered
    fixed: Json
    without: frozenset[str]
    had: frozenset[str]
    more: bool

    def group(self, name: str, kind: Any, *, optional: bool, given: Any, title: str = "") -> Group:
        children: dict[str, Node] = {}
        given = given if isinstance(given, Mapping) else {}
        hints = get_type_hints(kind, include_extras=True)
        for item in dataclasses.fields(kind):
            top = name == "payload"
            if (top and item.name in self.without) or Server() in get_args(hints[item.name]):
                continue
            if top and item.name in self.fixed:
                children[item.name] = Fixed(f"{name}.{item.name}", self.fixed[item.name])
                continue
            node = self.node(f"{name}.{item.name}", item, hints[item.name], optional, given.get(item.name))
            if node is not None:
                children[item.name] = node
        return Group(name, title, ABOUT.get(name.rpartition(".")[2], ""), children, optional)

    def node(self, path: str, item: Any, hint: Any, loose: bool, given: Any) -> Node | None:
        """The node of one field; `loose`: in a section that may be left empty, nothing is preset."""
        bare, rules = _bare(hint)
        nullable = _nullable(hint)
        default = None if item.default in (dataclasses.MISSING, NOBODY, "") else item.default
        has_default = (
            item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        )
        label = LABELS.get(item.name) or _label(item.name)
        if item.name == "replacement" and not self.offered.target:
            return None
        if dataclasses.is_dataclass(bare) and bare is not Amount:
            optional = nullable or loose or has_default
            return self.group(path, bare, optional=optional, given=given, title=label)
        if get_origin(bare) is schema.Patch:
            return self.group(path, get_args(bare)[0], optional=True, given=given, title=label)
        if get_origin(bare) is dict and self.offered.target:
            rule = REGISTRY[self.offered.target.operation]
            return self.group(
                path, rule.payload, optional=False, given=given, title="What it should have said"
            )
        if get_origin(bare) is tuple and dataclasses.is_dataclass(_bare(get_args(bare)[0])[0]):
            return self.rows(path, _bare(get_args(bare)[0])[0], given, label)
        if item.name in ("currency", "op_version") and path != "payload.currency":
            return None
        if item.name in self.offered.made:
            return Fixed(path, self.offered.new_id)
        required = not (has_default or loose or nullable)
        preset = None if loose or nullable else default
        return Leaf(path, self.leaf(path, bare, rules, label, required, preset is None), preset)

    def rows(self, path: str, kind: Any, given: Any, title: str) -> Rows:
        had = {name[len(path) + 1 :].partition(".")[0] for name in self.had if name.startswith(f"{path}.")}
        count = max(len(had), (len(given) if isinstance(given, list) else 0) + SPARE_ROWS)
        count = min(count + (SPARE_ROWS if self.more else 0), MOST_ROWS)
        groups = [self.group(f"{path}.{number}", kind, optional=True, given=None) for number in range(count)]
        return Rows(path, title, groups)

    def leaf(
        self, path: str, bare: Any, rules: Sequence[Any], label: str, required: bool, blank: bool
    ) -> forms.Field:
        name = path.rpartition(".")[2]
        own = "" if name == "rate" and _is_share(rules) else HELP.get(name, "")
        help_text = " ".join(part for part in (own, self.offered.now(path)) if part)
        options: Json = {"label": label, "required": required, "help_text": help_text}
        choices = self.offered.choices(name)
        many = get_origin(bare) is tuple or _is_scope(bare)
        if choices is not None and many:
            if not options["help_text"]:
                every = "All, when nothing is chosen." if choices else "All: there is no line yet."
                options["help_text"] = every if _is_scope(bare) else "Any number."
            return _Several(choices, all_when_none=required and _is_scope(bare), options=options)
        if choices is not None:
            return _select(choices, blank or not required, options, coerce=int if bare is int else str)
        if name in PARTIES:
            options["help_text"] = options["help_text"] or "The organization's short name, as in its address."
            return OrganizationField(max_length=64, widget=UnfoldAdminTextInputWidget, **options)
        if get_origin(bare) is Literal:
            said = HOLD_REASONS if name == "reason" else LABELS
            words = [(choice, said.get(choice) or choice.replace("_", " ")) for choice in get_args(bare)]
            return _select(words, blank, options)
        if bare is bool:
            return _YesNo(blank, options)
        if bare is Amount or (bare is int and name.endswith("_minor")):
            options["label"] = f"{label} ({self.offered.currency})" if self.offered.currency else label
            return MoneyField(
                currency=self.offered.currency,
                whole=bare is Amount,
                widget=UnfoldAdminDecimalFieldWidget,
                **options,
            )
        if bare is int:
            low, high = _bounds(rules)
            return forms.IntegerField(
                min_value=low, max_value=high, widget=UnfoldAdminIntegerFieldWidget, **options
            )
        if bare is Decimal and (name == "percent" or _is_share(rules)):
            options["label"] = "Percent" if name == "percent" else f"{label} (%)"
            return PercentField(
                max_digits=16, decimal_places=12, widget=UnfoldAdminDecimalFieldWidget, **options
            )
        if bare is Decimal:
            if name == "rate" and self.offered.currency:
                options["label"] = f"{label} ({self.offered.currency})"
            return forms.DecimalField(
                max_digits=30, decimal_places=12, widget=UnfoldAdminDecimalFieldWidget, **options
            )
        if bare is datetime:
            options["help_text"] = options["help_text"] or "UTC"
            return InstantField(
                widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"}), **options
            )
        if bare is date:
            return DayField(widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}), **options)
        if get_origin(bare) is tuple:
            options["help_text"] = options["help_text"] or "Separated by commas."
            return _Words(max_length=4000, widget=UnfoldAdminTextInputWidget, **options)
        if bare in (str, UUID):
            pattern = next((rule for rule in rules if isinstance(rule, Pattern)), None)
            if pattern and not options["help_text"]:
                options["help_text"] = f"{pattern.hint[:1].upper()}{pattern.hint[1:]}."
            long = name in ("notes", "note", "detail")
            widget = UnfoldAdminTextareaWidget(attrs={"rows": 2}) if long else UnfoldAdminTextInputWidget()
            return forms.CharField(max_length=500, widget=widget, **options)
        options["help_text"] = options["help_text"] or "JSON."
        return forms.JSONField(widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}), **options)


class _Several(forms.MultipleChoiceField):
    """Some of the choices; none chosen is all of them, which is left out where it is so anyway."""

    def __init__(self, choices: Sequence[tuple[str, str]], all_when_none: bool, options: Json) -> None:
        self.all_when_none = all_when_none
        widget = UnfoldAdminSelectMultipleWidget(attrs={"size": max(2, min(6, len(choices)))})
        options["required"] = False
        super().__init__(choices=choices, widget=widget, **options)

    def clean(self, value: Any) -> Any:
        return super().clean(value) or ("all" if self.all_when_none else None)

    def prepare_value(self, value: Any) -> Any:
        return [] if value == "all" else value


class _YesNo(forms.TypedChoiceField):
    def __init__(self, blank: bool, options: Json) -> None:
        choices = [*([("", "—")] if blank else []), ("yes", "yes"), ("no", "no")]
        super().__init__(
            choices=choices,
            coerce=lambda word: word == "yes",
            empty_value=None,
            widget=UnfoldAdminSelectWidget,
            **options,
        )

    def prepare_value(self, value: Any) -> Any:
        return {True: "yes", False: "no"}.get(value, value)


class _Words(forms.CharField):
    def clean(self, value: Any) -> Any:
        return [word.strip() for word in super().clean(value).split(",") if word.strip()]

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list | tuple) else value


def _select(
    choices: Sequence[tuple[str, str]], blank: bool, options: Json, *, coerce: Callable[[str], Any] = str
) -> forms.ChoiceField:
    shown = [*([("", "—")] if blank else []), *choices]
    return forms.TypedChoiceField(
        choices=shown, coerce=coerce, empty_value=None, widget=UnfoldAdminSelectWidget, **options
    )


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without Annotated and None, and the rules that were on it."""
    rules: tuple[Any, ...] = ()
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, *found = get_args(hint)
            rules += tuple(found)
        elif origin in (Union, types.UnionType) and _nullable(hint) and len(get_args(hint)) == 2:
            hint = next(option for option in get_args(hint) if option is not types.NoneType)
        else:
            return hint, rules


def _nullable(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _nullable(get_args(hint)[0])
    return get_origin(hint) in (Union, types.UnionType) and types.NoneType in get_args(hint)


def _is_scope(bare: Any) -> bool:
    return get_origin(bare) in (Union, types.UnionType)


def _is_share(rules: Sequence[Any]) -> bool:
    return any(isinstance(rule, Between) and (rule.low, rule.high) in _SHARE_BOUNDS for rule in rules)


_SHARE_BOUNDS = {(rule.low, rule.high) for rule in get_args(Share) if isinstance(rule, Between)}


def _bounds(rules: Sequence[Any]) -> tuple[int | None, int | None]:
    for rule in rules:
        if isinstance(rule, Between):
            return rule.low, rule.high
    return None, None


def _label(name: str) -> str:
    words = name.removesuffix("_minor").removesuffix("_id").removesuffix("_at").replace("_", " ")
    return words[:1].upper() + words[1:]


def _as_json(value: Any) -> Any:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else value


def _from_json(field: forms.Field, data: Any) -> Any:
    """A value as the field's `prepare_value` takes it."""
    return Decimal(str(data)) if isinstance(field, PercentField) else data


def _touched(drawn: Sequence[Json]) -> bool:
    """Whether something within holds a value or an error, so that it must be seen."""
    for node in drawn:
        if node["kind"] in ("group", "rows"):
            if node["open"]:
                return True
        elif node["kind"] == "field":
            bound = node["field"]
            if bound.errors or bound.value() not in (None, "", [], "no"):
                return True
    return False
