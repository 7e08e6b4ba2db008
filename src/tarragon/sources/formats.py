"""What a file name says about its content: how its text is structured, and whether it is text at all."""

from __future__ import annotations

from tarragon.types import Format


def _listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
"""Converted to Markdown without an extra."""

CONVERTED_SUFFIXES = frozenset({".pdf", ".docx", ".pptx"})
"""Converted to Markdown by the extra ``documents``."""

_MARKDOWN = frozenset({".md", ".markdown", ".mdx", ".mdown", ".mkd", ".qmd", ".rmd"})
_RST = frozenset({".rst", ".rest"})
_TEXT = _listed(
    """
    .txt .text .log .csv .tsv .jsonl .ndjson .adoc .asciidoc .org .tex .bib .textile .wiki .srt .vtt .po .pot
    .eml .diff .patch .ics .vcf
    """
)
_CODE = _listed(
    """
    .py .pyi .pyx .pxd .js .mjs .cjs .ts .mts .cts .tsx .jsx .java .kt .kts .groovy .gradle .c .h .cc .cpp .cxx
    .hh .hpp .hxx .cu .cuh .cs .fs .fsx .vb .go .rs .rb .php .swift .scala .sh .bash .zsh .fish .ps1 .psm1 .bat
    .cmd .sql .r .jl .lua .pl .pm .ex .exs .erl .hrl .hs .ml .mli .clj .cljs .cljc .edn .dart .zig .nim .cr .v
    .vhd .sv .sol .f .f90 .f95 .pas .asm .s .lisp .el .scm .rkt .elm .vue .svelte .astro .yaml .yml .toml .ini
    .cfg .conf .properties .env .json .json5 .jsonc .ipynb .xml .xsd .xsl .xslt .svg .plist .css .scss .sass
    .less .styl .proto .thrift .avsc .graphql .gql .tf .tfvars .hcl .nix .bzl .cmake .mk .make .dockerfile .j2
    .jinja .erb .hbs .twig .tmpl
    """
)
_CODE_NAMES = _listed(
    """
    dockerfile containerfile makefile gnumakefile rakefile gemfile procfile vagrantfile jenkinsfile justfile
    brewfile cmakelists.txt
    """
)
_AMBIGUOUS = frozenset({".ts"})
"""TypeScript, or an MPEG transport stream: only the bytes can tell."""

TEXT_SUFFIXES = (_MARKDOWN | _RST | _TEXT | _CODE | HTML_SUFFIXES) - _AMBIGUOUS
"""Text by their suffix: a folder does not look into these before it lists them."""

BINARY_SUFFIXES = _listed(
    """
    .png .jpg .jpeg .gif .bmp .tif .tiff .webp .ico .icns .heic .avif .psd .ai .raw .mp3 .wav .flac .ogg .opus
    .m4a .aac .wma .mp4 .m4v .mkv .mov .avi .webm .wmv .flv .mpg .mpeg .zip .gz .tgz .bz2 .tbz2 .xz .txz .zst
    .lz4 .7z .rar .tar .jar .war .ear .whl .egg .deb .rpm .apk .dmg .iso .img .msi .cab .exe .dll .so .dylib .a
    .o .lib .obj .class .pyc .pyo .pyd .wasm .bin .db .sqlite .sqlite3 .mdb .parquet .arrow .feather .orc .avro
    .npy .npz .pkl .pickle .pt .pth .ckpt .onnx .safetensors .gguf .h5 .hdf5 .tflite .ttf .otf .woff .woff2 .eot
    .doc .xls .xlsx .ppt .odt .ods .odp .pages .numbers .epub .mobi .pst .swf .blend .glb .stl .fbx .ply
    """
)
"""Binary by their suffix: never opened."""


def suffix_of(name: str) -> str:
    """The last suffix in lower case with its dot; empty where there is none, as in ``.bashrc``."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem.strip(".") else ""


def format_of(name: str) -> Format:
    """How the text behind this file name or document id is structured.

    HTML, PDF, DOCX and PPTX are converted to Markdown when they are read, so that is their format. A name without a
    known suffix is read as Markdown, of which plain text is the simplest case.
    """
    suffix = suffix_of(name)
    if suffix in _CODE or name.rpartition("/")[2].lower() in _CODE_NAMES:
        return "code"
    if suffix in _RST:
        return "rst"
    return "text" if suffix in _TEXT else "markdown"
