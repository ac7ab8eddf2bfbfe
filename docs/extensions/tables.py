"""Adds to tables what site.css needs: classes for what their cells say, and labels for a narrow page.

The tables are Markdown, which is readable without the site but has no classes.

- A cell that begins with ✓, ✗ or ⊘ gets a color. A table with such cells in more than one column is a matrix: on a
narrow page it scrolls within itself, beside a first column that stays in sight.
- On a narrow page, any other table is stacked if it has three or more columns, or a long word in its first: each row
is a block, in which each cell has the label of its column. In a table that is not stacked, no word of the first column
is broken.
- A table with nine or more columns is set in smaller type.
"""

from docutils import nodes  # type: ignore[import-untyped]  # it comes with Sphinx, and its stubs would not
from sphinx.application import Sphinx

CLASSES = {"✓": "pass", "✗": "wrong", "⊘": "refused"}
STACKED, DENSE = 3, 9  # columns
LONG = 14  # characters of a word


def colour(table: nodes.table) -> set[int]:
    """The columns with a colored cell."""
    marked = set()
    for row in table.findall(nodes.row):
        for column, entry in enumerate(row.findall(nodes.entry)):
            if kind := CLASSES.get(entry.astext()[:1]):
                entry["classes"].append(kind)
                marked.add(column)
    return marked


def label(table: nodes.table) -> None:
    """Copy each column's head into its cells: only the narrow form shows it. In the first column, a number needs it."""
    heads = [entry for head in table.findall(nodes.thead) for entry in head.findall(nodes.entry)]
    for row in next(table.findall(nodes.tbody)).findall(nodes.row):
        for column, (name, entry) in enumerate(zip(heads, row.findall(nodes.entry))):
            if entry.astext() and name.astext() and (column or entry.astext().isdigit()):
                copy = [child.deepcopy() for child in name[0].children]
                entry[0].insert(0, nodes.inline("", "", *copy, nodes.Text(": "), classes=["label"]))


def longest_word(table: nodes.table) -> int:
    """The characters of the longest word in the first column."""
    first = [next(row.findall(nodes.entry)) for row in table.findall(nodes.row)]
    return max(len(word) for entry in first for word in ["", *entry.astext().split()])


def prepare(app: Sphinx, doctree: nodes.document) -> None:
    for table in doctree.findall(nodes.table):
        columns = next(table.findall(nodes.tgroup))["cols"]
        if columns >= DENSE:
            table["classes"].append("dense")
        if len(colour(table)) > 1:
            table["classes"].append("matrix")
        elif columns >= STACKED or longest_word(table) > LONG:
            table["classes"].append("stacked")
            label(table)
        else:
            table["classes"].append("whole-words")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", prepare)
    return {"parallel_read_safe": True}
