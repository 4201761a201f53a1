"""Text that others wrote, made safe to look at: what acts on a terminal or hides in a line shows as an escape."""

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
    """Whether nothing in it needs an escape, as far as that is quickly seen."""
    return text.isascii() and text.isprintable()


def visible(text: str) -> str:
    r"""The text on one line, with `\x1b` and the like for what acts or hides."""
    return text if is_plain(text) else HIDDEN.sub(_escaped, text)


def block(text: str) -> str:
    """The same of several lines, each indented: none of them can pass for a line of its own."""
    return "    " + _HIDDEN_IN_BLOCKS.sub(_escaped, text).replace("\n", "\n    ")


def escape(text: str, *, keep: str = "") -> str:
    r"""As `visible`, stricter: everything but printable characters and the ordinary space; lone surrogates, too."""
    if is_plain(text):
        return text
    return "".join(c if c in keep or (c.isprintable() and not HIDDEN.match(c)) else _code(c) for c in text)


def _escaped(found: re.Match[str]) -> str:
    return _code(found.group())


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
