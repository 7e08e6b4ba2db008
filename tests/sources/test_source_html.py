from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tarragon.errors import UnreadableDocument
from tarragon.sources import FileSource
from tarragon.sources.html import html_to_markdown


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    warnings.simplefilter("error")


def test_headings_emphasis_and_links() -> None:
    html = "<h1>Top</h1><p>A <b>bold</b> <a href='/x'>link</a>.</p><h3>Deep\n down</h3><p>end</p>"
    assert html_to_markdown(html) == "# Top\n\nA **bold** [link](/x).\n\n### Deep down\n\nend\n"


def test_nothing_is_escaped() -> None:
    assert html_to_markdown("<p>snake_case * 2 [x] a|b #1 &lt;T&gt;</p>") == "snake_case * 2 [x] a|b #1 <T>\n"


def test_code_keeps_its_lines_and_language() -> None:
    code = "def f():\n    return 1\n\n\n\n\ndef g(a_b):\n    # x\n    return '*'"
    html = f'<p>See:</p><pre><code class="language-python">{code}\n</code></pre><p>and <code>a_b</code></p>'
    assert html_to_markdown(html) == f"See:\n\n```python\n{code}\n```\n\nand `a_b`\n"


def test_fence_is_longer_than_any_in_the_code() -> None:
    assert html_to_markdown("<pre>```\nx\n\n\n\ny\n```</pre>") == "````\n```\nx\n\n\n\ny\n```\n````\n"


def test_empty_code_is_no_fence() -> None:
    assert html_to_markdown("<p>a</p><pre> \n</pre><p>b</p>") == "a\n\nb\n"


def test_table() -> None:
    html = "<table><thead><tr><th>k</th><th>v</th></tr></thead><tbody><tr><td>a_1</td><td>2</td></tr></tbody></table>"
    assert html_to_markdown(html) == "| k | v |\n| --- | --- |\n| a_1 | 2 |\n"


def test_what_is_no_content_is_dropped_and_navigation_is_kept() -> None:
    html = (
        "<?xml version='1.0'?><!DOCTYPE html><!-- note --><html><head><meta name=a content=b><style>p{}</style>"
        "<script>var x</script></head><body><nav>Menu</nav><script>y()</script><noscript>enable</noscript>"
        "<template><p>later</p></template><svg><title>icon</title></svg><p>text</p><style>q{}</style></body></html>"
    )
    assert html_to_markdown(html) == "Menu\n\ntext\n"


def test_title_is_the_heading_unless_there_is_an_h1() -> None:
    page = "<html><head><title> My\n page </title></head><body>{}<p>x</p></body></html>"
    assert html_to_markdown(page.format("<h2>Part</h2>")) == "# My page\n\n## Part\n\nx\n"
    assert html_to_markdown(page.format("<h1>Own</h1>")) == "# Own\n\nx\n"
    assert html_to_markdown("<title></title><p>x</p>") == "x\n"


def test_head_that_is_never_closed_loses_nothing() -> None:
    assert html_to_markdown("<html><head><title>T</title><p>body text") == "# T\n\nbody text\n"


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("<p>a<p>b<p>c", "<p>a</p><p>b</p><p>c</p>"),
        (
            "<ul><li>a<li>b<ul><li>x<li>y</ul><li>c</ul>",
            "<ul><li>a</li><li>b<ul><li>x</li><li>y</li></ul></li><li>c</li></ul>",
        ),
        ("<ol><li><p>a<li><p>b</ol>", "<ol><li><p>a</p></li><li><p>b</p></li></ol>"),
        ("<dl><dt>a<dd>1<dt>b<dd>2</dl>", "<dl><dt>a</dt><dd>1</dd><dt>b</dt><dd>2</dd></dl>"),
        (
            "<table><tr><th>k<th>v<tr><td>1<td>2</table>",
            "<table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table>",
        ),
        (
            "<table><thead><tr><th>k<tbody><tr><td>1<tr><td>2</table>",
            "<table><thead><tr><th>k</th></tr></thead><tbody><tr><td>1</td></tr><tr><td>2</td></tr></tbody></table>",
        ),
    ],
)
def test_end_tags_may_be_left_out(short: str, full: str) -> None:
    assert html_to_markdown(short) == html_to_markdown(full)


def test_many_open_paragraphs() -> None:
    assert html_to_markdown("<p>x" * 3000) == "\n\n".join(["x"] * 3000) + "\n"


def test_blank_lines_are_collapsed() -> None:
    text = html_to_markdown("a<br><br><br><br>b<div><div></div></div><p></p><p>c</p>")
    assert [line.strip() for line in text.split("\n")] == ["a", "", "b", "", "c", ""]


def test_images_in_the_page_itself_leave_their_description() -> None:
    html = '<p><img alt="logo" src="data:image/png;base64,AAAA"> <img alt="map" src="map.png"></p>'
    assert html_to_markdown(html) == "logo ![map](map.png)\n"


@pytest.mark.parametrize(
    "text", ["plain.html", "http://example.com/page", "", "a < b & c", "<![foo", "<?xml version='1.0'?><a>x</a>"]
)
def test_odd_input_neither_warns_nor_fails(text: str) -> None:
    assert html_to_markdown(text).endswith("\n")


def test_nesting_without_end_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "deep.html"
    path.write_text("<div>" * 5000 + "x")
    (item,) = FileSource(path).items()
    with pytest.raises(UnreadableDocument, match=r"deep\.html: HTML is nested too deeply"):
        item.load()
