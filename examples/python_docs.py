"""Ask the documentation of Python's own standard library: the docstrings of the interpreter that runs this.

    python examples/python_docs.py ["your own question" ...]

The first run embeds everything; a second one embeds only what changed, which is nothing.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tarragon import Document, Index

MODULES = """
    argparse base64 bisect collections configparser contextlib copy csv dataclasses datetime difflib fnmatch functools
    getpass glob hashlib heapq html http.server io itertools json logging math os os.path pathlib pickle random re
    sched secrets shlex shutil statistics string subprocess tempfile textwrap threading time timeit urllib.parse uuid
    warnings zipfile
"""

QUESTIONS = [
    "How do I remove a directory and everything in it?",
    "run an external program and capture its output",
    "What gives me the most common elements of a list?",
    "cache the results of a function",
    "split a shell command line into words",
]


def documents() -> Iterator[Document]:
    """One Markdown document per module: a heading for each class, method and function, its docstring below."""
    for name in MODULES.split():
        module = importlib.import_module(name)
        parts = [f"# {name}", inspect.getdoc(module) or "", *describe(module, name)]
        yield Document(f"{name}.md", "\n\n".join(parts), {"module": name, "package": name.split(".")[0]})


def describe(owner: ModuleType | type, path: str, level: int = 2) -> Iterator[str]:
    """Headings and docstrings of the public members, and of the members of classes."""
    for name, member in sorted(vars(owner).items()):
        documented = inspect.isroutine(member) or inspect.isclass(member)
        if name.startswith("_") or not documented or not inspect.getdoc(member):
            continue
        if isinstance(owner, ModuleType) and getattr(member, "__module__", None) not in (owner.__name__, None):
            continue
        yield f"{'#' * level} {path}.{name}{signature(member)}"
        yield inspect.getdoc(member) or ""
        if inspect.isclass(member) and level == 2:
            yield from describe(member, f"{path}.{name}", level + 1)


def signature(member: object) -> str:
    """The parameters, where they can be told."""
    try:
        return str(inspect.signature(member)) if callable(member) else ""
    except (TypeError, ValueError):
        return ""


def main() -> None:
    """Sync the index, then answer."""
    folder = Path(__file__).parent / "python-docs.tarragon"
    with Index.open(folder) as index:
        report = index.sync(documents())
        status = index.status()
        print(
            f"{status.documents} modules, {status.chunks} chunks: {report.chunks_embedded} embedded on "
            f"{report.device or 'no device'} in {report.seconds:.0f} s, {report.documents_unchanged} modules unchanged"
        )
        for question in sys.argv[1:] or QUESTIONS:
            print(f"\n? {question}")
            for hit in index.search(question, k=3):
                passage = " ".join(hit.text.split())
                print(f"  {hit.score:.2f}  {hit.document_id}[{hit.start}:{hit.end}]  {passage[:110]}")


if __name__ == "__main__":
    main()
