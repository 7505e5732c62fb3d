"""What mkdocs has to be told about the pages in docs/; named in mkdocs.yml."""

from __future__ import annotations

import re

#: In docs/ the reason why a snippet is not run by the tests stands behind its language. The site's Markdown knows no
#: such form, and would not see the snippet.
_REASON = re.compile(r"^```python no-run.*$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Returns a page's text as the site's Markdown understands it."""
    return _REASON.sub("```python", markdown)
