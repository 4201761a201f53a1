"""Foreign text made safe to display: characters that act on a terminal or are invisible become escapes."""

from __future__ import annotations

import re
from typing import Final

# C0 and C1 controls, DEL, line separators, the marks that reorder text, and what Unicode calls ignorable by default:
# zero-width characters, tags, variation selectors, fillers.
_HIDDEN: Final = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
HIDDEN: Final = re.compile(f"[{_HIDDEN}]")
_HIDDEN_IN_BLOCKS: Final = re.compile(f"(?![\t\n])[{_HIDDEN}]")


def is_plain(text: str) -> bool:
    """Return True if a quick check shows that no character needs an escape; False = perhaps."""
    return text.isascii() and text.isprintable()


def visible(text: str) -> str:
    r"""Return the text on one line, with escapes such as `\x1b` for characters that act or are invisible."""
    return text if is_plain(text) else HIDDEN.sub(_escaped, text)


def block(text: str) -> str:
    """Return a text of several lines with such escapes; each line is indented, so none looks like a log line."""
    return "    " + _HIDDEN_IN_BLOCKS.sub(_escaped, text).replace("\n", "\n    ")


def escape(text: str, *, keep: str = "") -> str:
    """Return the text with escapes for all but printable characters, the space and `keep`: stricter than `visible`.

    Lone surrogates become escapes, too.
    """
    if is_plain(text):
        return text
    return "".join(c if c in keep or (c.isprintable() and not HIDDEN.match(c)) else _code(c) for c in text)


def _escaped(found: re.Match[str]) -> str:
    return _code(found.group())


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
