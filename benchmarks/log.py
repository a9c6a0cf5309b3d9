"""Adds what a benchmark measured to LOG.md, newest first."""

import os
import textwrap
from datetime import date
from pathlib import Path

LOG = Path(__file__).with_name("LOG.md")
HEAD = "Newest first; failures stay.\n"


def add(title: str, text: str) -> None:
    """Write an entry of today.

    Args:
        title: What was measured.
        text: What came out.
    """
    before, head, after = LOG.read_text().partition(HEAD)
    if not head:
        raise SystemExit(f"{LOG} has no line {HEAD!r} to write below")
    partial = LOG.with_suffix(".partial")
    partial.write_text(
        f"{before}{head}\n## {date.today()}, {title}\n\n{textwrap.fill(text, 120, break_on_hyphens=False)}\n{after}"
    )
    os.replace(partial, LOG)
