"""Five: the leaf."""

from __future__ import annotations

from tests.typing.services.shop.billing import Billing
from tests.typing.services.shop.media import Media


class Shop(Billing, Media): ...
