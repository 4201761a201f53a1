"""The relay's own settings: `RELAY_*`."""

from __future__ import annotations

from pydantic import BaseModel, Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Subscriber(BaseModel):
    """Where a subscriber's events go: `RELAY_SUBSCRIBERS__SHOP__URL` and `RELAY_SUBSCRIBERS__SHOP__SECRET`."""

    url: HttpUrl
    secret: SecretStr


class RelaySettings(BaseSettings):
    """Settings of the relay, read by every worker process when it starts.

    Attributes:
        subscribers: by name, in lower case.
        timeout: seconds that a subscriber has to answer; keep it below the queue's timeout.
        max_retry_after: seconds; a subscriber that asks for a longer pause gets this one.
    """

    model_config = SettingsConfigDict(env_prefix="RELAY_", env_nested_delimiter="__")

    subscribers: dict[str, Subscriber] = {}
    timeout: float = Field(default=10.0, gt=0)
    max_retry_after: float = Field(default=3600.0, gt=0)
