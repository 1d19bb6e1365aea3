"""What the pages have in common: templates, one style sheet, and a policy that lets a browser load nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Return the templates; what is put into them is text, never markup, unless it says so."""
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    return Environment(
        loader=PackageLoader("cohortex.report"), autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )


def source(templates: Environment, name: str) -> Markup:
    """Return a file beside the templates as it is, to be put into a page whole."""
    loader = templates.loader
    assert loader is not None
    return Markup(loader.get_source(templates, name)[0])


def joined(templates: Environment, *names: str) -> Markup:
    """Return several files beside the templates as one."""
    return Markup("\n").join(source(templates, name) for name in names)


def store_of(config: Mapping[str, Any]) -> str:
    """Return the name under which a browser keeps the ratings of a cohort; it tells nothing of where that lies."""
    told = "\n".join(str(config.get(key, "")) for key in ("input", "output", "work"))
    return f"cohortex-ratings-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def policy(style: str, script: str = "", files: bool = False) -> str:
    """Return the content security policy: nothing from anywhere, but for this page's own style, script and pictures.

    With `files` also scripts and volumes from where the page comes from, as the viewer has them: a browser does not check the sums of files
    that it opens without a server.
    """

    def own(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'" if text else "'none'"

    scripts, connect = (f"'self' {own(script)}", "connect-src 'self'; ") if files else (own(script), "")
    return f"default-src 'none'; {connect}img-src data:; style-src {own(style)}; script-src {scripts}; base-uri 'none'; form-action 'none'"
