"""The site of both packages: `make docs`."""

import importlib.util
import logging
import os
import sys
import zlib
from importlib.metadata import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import ste

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path += [str(DOCS / "extensions"), str(ROOT / "tests")]

# Only after ste has checked whether ste-core is installed: the site documents its Python part in any case.
if importlib.util.find_spec("ste_core") is None:
    sys.path.append(str(ROOT / "packages" / "ste-core" / "src"))

project = "ste"
author = "the ste authors"
project_copyright = f"2026, {author}"
version = release = ste.__version__
# From the packages' metadata, the only place that states the address.
REPOSITORY = dict(entry.split(", ") for entry in metadata("ste-py").get_all("Project-URL", []))["Repository"]

extensions = [
    "breathe",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "demo",
    "differences",
    "head",
    "pictures",
    "reference",
    "surrogates",
    "tables",
]
exclude_patterns = ["extensions", "inventories", "bench", "matrix", "demo", "peers"]

nitpicky = True
nitpick_ignore_regex = [
    ("cpp:identifier", r"(at|c10|std)(::.*)?|u?int\d+_t"),  # names of torch and of C++, which have no inventory
]

autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "substitution"]
myst_substitutions = {"repository": f"[repository]({REPOSITORY})"}
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# Otherwise each guide that runs prints a line, and each kernel, which listens on a port, a warning.
logging.getLogger("traitlets").setLevel(logging.WARNING)
os.environ["IPYTHONDIR"] = str(ROOT / "build" / "ipython")
kernels = ROOT / "build" / "ipython" / "profile_default" / "ipython_kernel_config.py"
kernels.parent.mkdir(parents=True, exist_ok=True)
kernels.write_text(
    "get_config().IPKernelApp.log_level = 'ERROR'\nget_config().InlineBackend.figure_formats = {'svg'}\n"
)

# The build runs Doxygen.
breathe_projects_source = {"ste-core": (str(ROOT / "packages" / "ste-core" / "include" / "ste"), ["ops.h"])}
breathe_default_project = "ste-core"
breathe_doxygen_config_options = {
    "ENABLE_PREPROCESSING": "YES",
    "MACRO_EXPANSION": "YES",
    "EXPAND_ONLY_PREDEF": "YES",
    "PREDEFINED": "STE_API=",
    "WARN_AS_ERROR": "FAIL_ON_WARNINGS",
}


def inventory(name: str) -> str:
    """A file for intersphinx with the names that these pages use, so that a build needs no network."""
    names = (DOCS / "inventories" / f"{name}.txt").read_bytes()
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    file = ROOT / "build" / "inventories" / f"{name}.inv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(head.encode() + zlib.compress(names))
    return str(file)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3", inventory("python")),
    "torch": ("https://docs.pytorch.org/docs/stable", inventory("torch")),
}

# Copy neither the prompts nor the output of an example.
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"ste {version}"
html_theme_options = {
    "footer_icons": [{"name": "The repository", "url": REPOSITORY, "html": "Repository", "class": ""}],
}
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
html_show_sourcelink = False


def every_page(_: Sphinx, env: BuildEnvironment) -> list[str]:
    """What is written again: Sphinx's search forgets the index entries of a page that is not."""
    return sorted(env.found_docs)


def setup(app: Sphinx) -> None:
    app.connect("env-updated", every_page)
