"""Text that may hold anything, such as names of files, in documents."""

from typing import Any


def readable(value: Any) -> str:
    """`value` as text in one line; what cannot be printed, or be encoded, is written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
