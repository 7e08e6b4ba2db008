"""HTML → Markdown, so that headings, lists, tables and code keep their structure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tarragon.errors import UnreadableDocument

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

_DROPPED = ("script", "style", "noscript", "template", "svg")
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_FENCE = re.compile(r"[ >]*(`{3,})")
_IMPLIED_ENDS = {
    "p": {"p"},
    "li": {"li", "p"},
    "dt": {"dt", "dd", "p"},
    "dd": {"dt", "dd", "p"},
    "td": {"td", "th", "p"},
    "th": {"td", "th", "p"},
    "tr": {"tr", "td", "th", "p"},
    "tbody": {"thead", "tbody", "tr", "td", "th", "p"},
    "tfoot": {"thead", "tbody", "tr", "td", "th", "p"},
}
"""Tag → the open tags that its start ends. HTML lets authors leave these ends out, and ``html.parser`` ignores it."""


def html_to_markdown(text: str) -> str:
    """The content of an HTML page as Markdown.

    Headings become ``#`` headings, ``<pre>`` becomes a fence, tables become Markdown tables, and nothing is escaped.
    Scripts, styles, templates, drawings and images written into the page itself are dropped. The title stands on top as
    a heading unless the page has an ``<h1>``.

    Raises:
        UnreadableDocument: The page cannot be parsed, or is nested too deeply.
    """
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    try:
        # The line end and the missing XML declaration keep bs4 from warning of what is none of our business.
        soup = BeautifulSoup(_XML_DECLARATION.sub("", text, count=1) + "\n", "html.parser")
        title = _prune(soup)
        _end_implied(soup)
        markdown = _render(soup)
    except ParserRejectedMarkup as error:
        raise UnreadableDocument(f"cannot be parsed as HTML: {error}") from error
    except RecursionError as error:
        raise UnreadableDocument("HTML is nested too deeply to be converted; simplify or exclude it") from error
    if title and soup.find("h1") is None:
        markdown = f"# {title}\n\n{markdown}"
    return "\n".join(_single_blanks(markdown.strip().split("\n"))) + "\n"


def _prune(soup: BeautifulSoup) -> str:
    """Take out what is not content. Returns the title."""
    from bs4.element import Declaration, ProcessingInstruction

    for tag in soup.find_all(_DROPPED):
        tag.decompose()
    for node in soup.find_all(string=lambda node: isinstance(node, (Declaration, ProcessingInstruction))):
        node.extract()
    for image in soup.find_all("img", src=re.compile(r"^\s*data:")):
        image.replace_with(str(image.get("alt") or ""))
    titles = soup.find_all("title")
    title = " ".join(titles[0].get_text().split()) if titles else ""
    for tag in titles:
        tag.decompose()
    return title


def _end_implied(soup: BeautifulSoup) -> None:
    """Move each element out of those that its start ends, with all that follows it there."""
    for tag in soup.find_all(list(_IMPLIED_ENDS)):
        while tag.parent is not None and tag.parent.name in _IMPLIED_ENDS[tag.name]:
            tag.parent.insert_after(tag, *list(tag.next_siblings))


def _render(soup: BeautifulSoup) -> str:
    from markdownify import ATX, MarkdownConverter

    class Converter(MarkdownConverter):
        def convert_pre(self, el: Tag, text: str, parent_tags: set[str]) -> str:
            """As a fence that is longer than any in the code itself."""
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", text))])
            code = text.strip("\n")
            return f"\n\n{fence}{_language(el)}\n{code}\n{fence}\n\n" if code.strip() else ""

    converter: Any = Converter(heading_style=ATX, escape_asterisks=False, escape_underscores=False, escape_misc=False)
    return str(converter.convert_soup(soup))


def _language(pre: Tag) -> str:
    """The language that the page names in a class, such as ``language-python``."""
    for tag in (pre, pre.find("code")):
        for name in tag.get_attribute_list("class") if tag else ():
            found = re.fullmatch(r"(?:language|lang|highlight-source)-([\w+#.-]+)", name or "")
            if found:
                return found[1]
    return ""


def _single_blanks(lines: list[str]) -> Iterator[str]:
    """The lines without repeated blank ones, except inside fences."""
    fence, blank = "", False
    for line in lines:
        opened = _FENCE.match(line)
        if opened and (not fence or opened[1] == fence):
            fence = "" if fence else opened[1]
        if fence or line.strip() or not blank:
            yield line
        blank = not line.strip()
