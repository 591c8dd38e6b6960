"""The addresses of contracts and of the catalogue."""

from rest_framework.routers import SimpleRouter

from contracts.api.catalogue import OfferViewSet, ProductViewSet
from contracts.api.contracts import ContractViewSet
from contracts.api.platform_terms import PlatformTermsViewSet
from contracts.api.service import ServiceEventViewSet

router = SimpleRouter()
router.register("contracts", ContractViewSet, basename="contract")
router.register("products", ProductViewSet, basename="product")
router.register("offers", OfferViewSet, basename="offer")
router.register("platform-terms", PlatformTermsViewSet, basename="platform-terms")
router.register("service-events", ServiceEventViewSet, basename="service-event")
urlpatterns = router.urls
