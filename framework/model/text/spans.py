"""Durations for people."""

from __future__ import annotations

from collections.abc import Sequence

_SIZES = (86400, 3600, 60, 1)


def span(seconds: float, units: Sequence[str] = ("d", "h", "m", "s"), gap: str = "") -> str:
    """Return a duration with at most two units: `0.4s`, `12s`, `3m5s`, `2h`, `3d4h`.

    Args:
        units: the names of days, hours, minutes and seconds.
        gap: what stands between the parts.
    """
    if seconds < 10:
        return f"{seconds:.2g}{gap}{units[-1]}"
    whole = int(seconds)
    at = next(at for at, size in enumerate(_SIZES) if whole >= size)
    parts = [f"{whole // _SIZES[at]}{gap}{units[at]}"]
    if at + 1 < len(_SIZES) and (rest := whole % _SIZES[at] // _SIZES[at + 1]):
        parts.append(f"{rest}{gap}{units[at + 1]}")
    return gap.join(parts)
