from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tarragon.errors import UnreadableDocument
from tarragon.sources import FileSource, FolderSource
from tarragon.sources.convert import available, convert

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OLE = bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 504


@pytest.fixture
def library() -> None:
    pytest.importorskip("markitdown")


def pdf(content: str, *, trailer: str = "") -> bytes:
    """A one-page PDF by hand: five objects, a cross-reference table and a trailer."""
    stream = content.encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<< /Size 6 /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (trailer.encode(), len(data))
    return data + b"xref\n0 6\n0000000000 65535 f \n" + table + end


def docx(path: Path, body: str) -> Path:
    """The least that is a Word document: types, one relationship, the text."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType="application/'
            'vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType='
            '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" Type="{OFFICE}/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>')
    return path


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableDocument) as caught:
        convert(path)
    assert caught.value.data["path"] == str(path)
    return str(caught.value)


@pytest.mark.usefixtures("library")
def test_pdf(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf("BT /F1 12 Tf 72 720 Td (Rotate the signing_key yearly.) Tj ET"))
    assert convert(path) == "Rotate the signing_key yearly.\n"


@pytest.mark.usefixtures("library")
def test_docx_keeps_headings_and_tables_and_escapes_nothing(tmp_path: Path) -> None:
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("key_1", "v*2"))
    body = paragraph("Guide", "Heading1") + paragraph("Use snake_case * here.") + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    text = convert(docx(tmp_path / "a.docx", body))
    assert text.startswith("# Guide\n\nUse snake_case * here.\n\n|")
    assert "| key_1 | v*2 |" in text


@pytest.mark.usefixtures("library")
def test_pptx_keeps_titles_text_and_notes(tmp_path: Path) -> None:
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    for number in (1, 2):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = f"Slide title {number}"
        slide.placeholders[1].text = f"body_text {number}"
    slide.notes_slide.notes_text_frame.text = "say this"
    deck.save(tmp_path / "a.pptx")
    assert convert(tmp_path / "a.pptx") == (
        "# Slide title 1\nbody_text 1\n\n# Slide title 2\nbody_text 2\n\n### Notes:\nsay this\n"
    )


@pytest.mark.usefixtures("library")
def test_document_without_text(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf("0 0 100 100 re f"))
    assert "scan.pdf holds no text (scanned?)" in refusal(path)
    assert refusal(docx(tmp_path / "empty.docx", "<w:p/>")).endswith("empty.docx holds no text")


@pytest.mark.usefixtures("library")
def test_encrypted_pdf(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    key = "00" * 32
    encryption = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{key}> /U <{key}> /P -4 >> /ID [<{key}> <{key}>]"
    path.write_bytes(pdf("BT /F1 12 Tf (x) Tj ET", trailer=encryption))
    assert "encrypted; remove its password" in refusal(path)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.pdf", b"this is no PDF", "cannot be converted"),
        ("a.pdf", b"", "cannot be converted"),
        ("a.docx", b"this is no archive", "cannot be converted"),
        ("a.pptx", b"PK\x03\x04 cut off", "cannot be converted"),
        ("a.docx", OLE, "encrypted, or in an old Office format"),
        ("a.pptx", OLE, "encrypted, or in an old Office format"),
    ],
)
def test_broken_file_names_its_path_and_the_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(f"{path}: {reason}")


@pytest.mark.usefixtures("library")
def test_limits_and_absence_are_those_of_every_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    assert "vanished" in refusal(path)
    path.write_bytes(pdf(""))
    with pytest.raises(UnreadableDocument, match="larger than max_bytes=10"):
        convert(path, max_bytes=10)


@pytest.mark.usefixtures("library")
def test_folder_and_file_sources_convert(tmp_path: Path) -> None:
    docx(tmp_path / "A.DOCX", paragraph("Hello"))
    for source in (FolderSource(tmp_path), FileSource(tmp_path / "A.DOCX")):
        (item,) = source.items()
        document = item.load()
        assert (document.id, document.text, document.format) == ("A.DOCX", "Hello\n", "markdown")
        assert source.skipped() == {}


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(""))
    (tmp_path / "b.md").write_text("text")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [name for name in sys.modules if name.partition(".")[0] in ("markitdown", "mammoth", "pptx")]:
        monkeypatch.delitem(sys.modules, name)
    assert not available()
    source = FolderSource(tmp_path)
    items = [*source.items(), *FileSource(tmp_path / "a.pdf").items()]
    assert [item.document_id for item in items] == ["a.pdf", "b.md", "a.pdf"]
    for item in (items[0], items[2]):
        with pytest.raises(UnreadableDocument, match=r"pip install 'tarragon\[documents\]'"):
            item.load()


def test_listing_imports_no_library(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(""))
    (tmp_path / "a.html").write_text("<p>x")
    code = (
        "import sys; from tarragon.sources import open_source; list(open_source(sys.argv[1]).items()); "
        "print(sorted({'markitdown', 'bs4', 'markdownify', 'pdfminer', 'mammoth', 'onnxruntime'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
