"""The API's own pages: the OpenAPI document and its documentation, served without any outside host."""

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from commerce.api.problems import missing_slash

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    re_path(r"^v1/.*[^/]$", missing_slash),
]
