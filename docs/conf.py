"""The site, built from the repository's root, so that links are the same in it and in the files: `make docs`."""

import re
import sys
from pathlib import Path

import fastgan

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "fastgan"
version = release = fastgan.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "fastgan"
highlight_language = "none"  # of blocks that name no language
root_doc = "README"
include_patterns = ["*.md", "docs/*.md"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Of a module that is documented as a whole: what it lists in __all__.
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "extra_repr"}

NAVIGATION = """
```{toctree}
:hidden:
docs/guide
docs/install
docs/penalties
docs/codebases
docs/limits
docs/ops
docs/reference
docs/benchmarks
docs/adding_an_op
CONTRIBUTING
CHANGELOG
```
"""
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
CODE_OR_EMPHASIS = re.compile(r"`((?:[^`\n]|\n(?!\s*\n))+)`|(?<!\w)\*\w[\w -]*\*(?!\w)")
SIGN = re.compile(r"[*|\\`]|(?<=\w)_(?!\w)")


def add_navigation(app, name, source):
    """README.md is the first page; it has no directives, which other readers of it would show as they are."""
    if name == root_doc:
        source[0] += NAVIGATION


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings here are plain text: `code` in backticks, and blocks that are indented are to be kept as they are."""
    parts, prose, kept, in_section = [], [], [], False

    def close():
        if prose:
            parts.extend(_escaped("\n".join(prose)).split("\n"))
        if kept:
            parts.extend(["", "::", "", *kept, ""])
        prose.clear()
        kept.clear()

    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            in_section = SECTION.match(line) is not None
            # Napoleon would take what comes before a colon for the type of the result.
            line = ":returns:" if line == "Returns:" else line
        keep = not in_section and (indented or (kept and not line))
        if bool(keep) != bool(kept):
            close()
        (kept if keep else prose).append(line)
    close()
    lines[:] = parts


def _escaped(text):
    """Prose in which nothing but `code` and *emphasis* is marked."""
    pieces, end = [], 0
    for kept in CODE_OR_EMPHASIS.finditer(text):
        pieces += [SIGN.sub(r"\\\g<0>", text[end : kept.start()]), f"``{kept[1]}``" if kept[1] else kept[0]]
        end = kept.end()
    return "".join([*pieces, SIGN.sub(r"\\\g<0>", text[end:])])


def add_index(app, error):
    """A site begins with index.html."""
    if error is None:
        Path(app.outdir, "index.html").write_text('<meta http-equiv="refresh" content="0; url=README.html">\n')


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # napoleon comes after, at 500
    app.connect("build-finished", add_index)
