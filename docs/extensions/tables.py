"""Gives tables what site.css draws them by: the classes of what their cells say, and labels for a narrow page.

The pages are tables of Markdown, which can be read without the site, and have no classes.

- A cell that begins with ✓, ✗ or ⊘ gets its colour. A table with such cells in more than one column is a matrix: on a
  narrow page it scrolls within itself, under a first column that stays in sight.
- Any other table of three columns or more is stacked there: each row is a block, in which each cell has the label of
  its column.
- One of nine columns or more is set smaller.
"""

from docutils import nodes  # type: ignore[import-untyped]  # it comes with Sphinx, and its stubs would not
from sphinx.application import Sphinx

CLASSES = {"✓": "pass", "✗": "wrong", "⊘": "refused"}
STACKED, DENSE = 3, 9  # columns


def colour(table: nodes.table) -> set[int]:
    """The columns with a cell that has a colour."""
    marked = set()
    for row in table.findall(nodes.row):
        for column, entry in enumerate(row.findall(nodes.entry)):
            if kind := CLASSES.get(entry.astext()[:1]):
                entry["classes"].append(kind)
                marked.add(column)
    return marked


def label(table: nodes.table) -> None:
    """Put a copy of each column's head into its cells, but those of the first: it is seen in the narrow form alone."""
    (head,) = table.findall(nodes.thead)
    heads = list(head.findall(nodes.entry))
    for row in next(table.findall(nodes.tbody)).findall(nodes.row):
        for name, entry in list(zip(heads, row.findall(nodes.entry)))[1:]:
            if entry.astext() and name.astext():
                copy = [child.deepcopy() for child in name[0].children]
                entry[0].insert(0, nodes.inline("", "", *copy, nodes.Text(": "), classes=["label"]))


def prepare(app: Sphinx, doctree: nodes.document) -> None:
    for table in doctree.findall(nodes.table):
        columns = next(table.findall(nodes.tgroup))["cols"]
        if columns >= DENSE:
            table["classes"].append("dense")
        if len(colour(table)) > 1:
            table["classes"].append("matrix")
        elif columns >= STACKED:
            table["classes"].append("stacked")
            label(table)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", prepare)
    return {"parallel_read_safe": True}
