"""Hook of mkdocs: links that leave docs/ are for readers of the repository; on the site they are plain text."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Keep the words of a link to a file that the site does not hold."""
    return OUTSIDE.sub(r"\1", markdown)
