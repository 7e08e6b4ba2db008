"""PDF, DOCX and PPTX → Markdown with markitdown's converters, which the extra ``documents`` installs."""

from __future__ import annotations

import importlib.util
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from tarragon.errors import MissingDependency, UnreadableDocument
from tarragon.sources.reading import DEFAULT_MAX_BYTES, read_bytes

_LIBRARIES = ("markitdown", "mammoth", "pdfplumber", "pptx")
_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
_SLIDE_NUMBERS = re.compile(r"^<!-- Slide number: \d+ -->$", re.MULTILINE)


def available() -> bool:
    """Whether the extra is installed. Imports nothing."""
    return all(importlib.util.find_spec(name) is not None for name in _LIBRARIES)


def convert(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> str:
    """The content of a local PDF, DOCX or PPTX file as Markdown. Nothing is fetched and no plugin is loaded.

    Raises:
        MissingDependency: The extra is not installed.
        UnreadableDocument: The file cannot be read or converted, or holds no text.
    """
    suffix = Path(path).suffix.lower()
    converter = _converter(suffix)
    data = read_bytes(str(path), max_bytes=max_bytes)
    try:
        markdown = _run(converter, data, suffix)
    except Exception as error:  # the libraries raise whatever a broken file makes them raise
        raise UnreadableDocument(f"{path}: {_reason(data, error)}", path=str(path)) from error
    if not markdown:
        scanned = " (scanned?); run OCR over it or exclude it" if suffix == ".pdf" else ""
        raise UnreadableDocument(f"{path} holds no text{scanned}", path=str(path))
    return markdown + "\n"


def _converter(suffix: str) -> Any:
    if not available():
        raise MissingDependency(
            f'reading {suffix} files needs the extra "documents": pip install "tarragon[documents]"', extra="documents"
        )
    # The converters themselves: `MarkItDown` loads a model to guess the type, and tries others if the right one fails.
    from markitdown.converters import DocxConverter, PdfConverter, PptxConverter

    converters: dict[str, Any] = {".pdf": PdfConverter, ".docx": DocxConverter, ".pptx": PptxConverter}
    return converters[suffix]()


def _run(converter: Any, data: bytes, suffix: str) -> str:
    from markitdown import StreamInfo

    options = {"strict": True, "escape_asterisks": False, "escape_underscores": False, "escape_misc": False}
    markdown: str = converter.convert(BytesIO(data), StreamInfo(extension=suffix), **options).markdown
    text = _SLIDE_NUMBERS.sub("", markdown.replace("\f", "\n\n"))
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _reason(data: bytes, error: Exception) -> str:
    """Why the conversion failed, with the way out where there is one."""
    if "Password" in f"{type(error).__name__} {type(error.__cause__).__name__} {type(error.__context__).__name__}":
        return "encrypted; remove its password or exclude it"
    if data.startswith(_OLE):
        return "encrypted, or in an old Office format; save it as .docx or .pptx without a password, or exclude it"
    return f"cannot be converted ({type(error).__name__}: {error})".replace(": )", ")")
