"""Settings of the documentation: `nox -s docs`, or `sphinx-build -W docs build/docs`."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from docstring import to_rest

import lv_core

project = "lv"
author = "The lv authors"
project_copyright = "The lv authors, MIT licence"
version = release = lv_core.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Single backquotes in docstrings are code.
default_role = "code"

# Names that this site does not describe: of other libraries (their inventories would need a
# network), and internal ones that types of public names mention.
nitpick_ignore_regex = [
    ("py:.*", r"(?!lv_(core|priors)\.).*"),
    ("py:.*", r"lv_core\.schedule\._Ramp"),
    ("py:.*", r"lv_core\.(rows|variational\.(state|settings)|evidence\.(sandwich|joint))\..*"),
    ("py:.*", r"lv_core\.interop\..*Target"),
    ("py:.*", r"lv_core\.kernels\.(welford|dual_averaging|tempering)\..*"),
]

html_theme = "furo"
html_title = f"lv {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
maximum_signature_line_length = 80
python_display_short_literal_types = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style")]


def _words_for_types(text: str | None) -> str | None:
    """Returns a signature in which long types go by the names that the library has for them."""
    if text is None:
        return None
    for long, short in (
        (
            r"~?(?:torch\.\w+\.)*Generator \| ~?[\w.]*Shard \| ~?[\w.]*Rows \| "
            r"~?[\w.]*Draws \| None",
            "Source",
        ),
        (r"~?(?:collections\.abc\.)?Callable\[\[~?[\w.]*Tensor\], ~?[\w.]*Tensor\]", "LogDensity"),
        (r"~?(?:collections\.abc\.)?Callable\[\[int\], float\]", "Schedule"),
        (r"float \| ~?[\w.]*Tensor \| Schedule", "StepSize"),
        (r"~?jaxtyping\.", ""),
        (r"~?torch\.(?:_tensor\.)?Tensor", "Tensor"),
    ):
        text = re.sub(long, short, text)
    return text


def _signature(
    app: object,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    return _words_for_types(signature), _words_for_types(returned)


def _docstring(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = to_rest(lines)
    if what == "attribute" and lines and ": " in lines[0]:
        # Napoleon takes what stands before a colon in the first line for a type.
        lines[:1] = [part.strip() for part in re.split(r"(?<=:) ", lines[0], maxsplit=1)]


def _skip(app: object, what: str, name: str, obj: object, skip: bool, options: object) -> bool:
    """Leaves out fields of named tuples that the class describes itself, and hooks of torch."""
    unnamed = (inspect.getdoc(obj) or "").startswith("Alias for field number")
    return skip or unnamed or name == "extra_repr"


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx's application
    """Connects the hooks above."""
    app.connect("autodoc-process-signature", _signature)
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-skip-member", _skip)
