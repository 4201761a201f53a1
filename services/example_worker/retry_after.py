"""The `Retry-After` header (RFC 9110, 10.2.3): seconds or a date."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def parse_retry_after(value: str | None, *, now: datetime, longest: float) -> float | None:
    """Seconds to wait, from 0 to `longest`; None where the header is missing or means nothing.

    Args:
        value: the header.
        now: when the answer was made; take its `Date`, a subscriber's clock may differ from ours.
        longest: a subscriber must not park a job for years.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(longest, float(text))
    moment = parse_http_date(text)
    return None if moment is None else min(longest, max(0.0, (moment - now).total_seconds()))


def parse_http_date(value: str | None) -> datetime | None:
    """An HTTP-date as a moment in UTC, or None."""
    try:
        moment = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
