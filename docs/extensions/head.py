"""Gives each page a description: the beginning of its first paragraph, as search engines show it."""

import html
import textwrap
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]  # it comes with Sphinx, and its stubs would not
from sphinx.application import Sphinx

LENGTH = 160  # characters that are shown


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    paragraphs = doctree.findall(nodes.paragraph) if doctree else ()
    text = next(
        (p.astext() for p in paragraphs if isinstance(p.parent, nodes.section)),
        f"{context.get('title') or app.config.project}: straight-through estimators for PyTorch",
    )
    shown = html.escape(textwrap.shorten(text, LENGTH, placeholder=" …"))
    context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{shown}">'


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True}
