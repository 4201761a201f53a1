"""What acts on a terminal or hides in a line is seen, and no line of a block can pass for another."""

from __future__ import annotations

import pytest

from framework.model.text.printable import block, escape, visible

HIDDEN = {
    "\x1b[2J": "\\x1b[2J", "\r": "\\r", "\x85": "\\x85", "\u2028": "\\u2028", "\u202e": "\\u202e", "\u2066": "\\u2066",
    "\u061c": "\\u061c", "\u200b": "\\u200b", "\u200d": "\\u200d", "\u2060": "\\u2060", "\ufeff": "\\ufeff",
    "\xad": "\\xad", "\u180e": "\\u180e", "\U000e0041": "\\U000e0041", "\ufe0f": "\\ufe0f",
    "\U000e0101": "\\U000e0101", "\u3164": "\\u3164", "\u115f": "\\u115f", "\u034f": "\\u034f", "\ufff9": "\\ufff9",
}  # fmt: skip


@pytest.mark.parametrize(("character", "seen"), HIDDEN.items())
def test_what_hides_is_shown(character, seen):
    text = f"job{character}_finished"
    assert visible(text) == escape(text) == f"job{seen}_finished"
    assert block(text) == f"    job{seen}_finished"


def test_what_is_written_in_any_language_stays():
    for text in ("plain", "naïve", "задание", "作業", "日本語", "مهمة", "עבודה", "नौकरी", "e\u0301", "🎉"):
        assert visible(text) == escape(text) == text


def test_every_line_of_a_block_is_indented():
    assert block("a\n2026-01-01 [info] job_finished\n\tb\u2028c") == (
        "    a\n    2026-01-01 [info] job_finished\n    \tb\\u2028c"
    )
    assert escape("a\nb\u200b", keep="\n") == "a\nb\\u200b"
