"""A chatbot over a documentation folder that stays fresh while you edit, and cites where each answer stands.

    python chatbot.py docs/ [--base-url http://localhost:8000/v1 --model NAME]

Before each answer the folder is synced: what has not changed costs a look at its time stamps, what has is embedded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import LLM
from llama_index.retrievers.tarragon import TarragonRetriever
from quoting_llm import language_model

from tarragon import Index
from tarragon.protocols import DenseEncoder


class Chatbot:
    """LlamaIndex's chat engine over a folder.

    Args:
        index: Open; holds the folder.
        folder: The documents.
        llm: Answers.
        k: Passages that it is shown.
    """

    def __init__(self, index: Index, folder: Path, llm: LLM, k: int = 4) -> None:
        self._index, self._folder = index, folder
        self._retriever = TarragonRetriever(index, similarity_top_k=k, on_stale="drop")
        self._engine = CondensePlusContextChatEngine.from_defaults(self._retriever, llm=llm)

    def ask(self, question: str) -> Iterator[str]:
        """The answer, word by word, then its sources."""
        report = self._index.sync(self._folder, progress=False)
        if report.chunks_embedded or report.documents_deleted:
            yield f"({report.chunks_embedded} passages read anew, {report.documents_deleted} documents gone)\n"
        response = self._engine.stream_chat(question)
        answer = ""
        for part in response.response_gen:
            answer += part
            yield part
        for number, source in enumerate(response.source_nodes, start=1):
            node = source.node
            quoted = node.get_content()
            mark = "*" if answer.strip() and answer.strip() in quoted else " "
            yield f"\n{mark}[{number}] {node.ref_doc_id}[{node.start_char_idx}:{node.end_char_idx}] {_line(quoted)}"
        yield "\n"


def _line(text: str, most: int = 60) -> str:
    """The beginning of a passage, on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def chat(bot: Chatbot, questions: Iterable[str], say: Callable[[str], object]) -> None:
    """Answer questions until there are none."""
    for question in questions:
        if question.strip():
            for part in bot.ask(question.strip()):
                say(part)


def _typed(stream: TextIO) -> Iterator[str]:
    if stream.isatty():
        print("Ask about the documents; Ctrl-D ends.")
    yield from stream


def main(arguments: list[str] | None = None, encoder: DenseEncoder | None = None) -> None:
    """Chat as asked on the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--index", type=Path, help="where to keep the index; by default it is made anew")
    parser.add_argument("--base-url", help="of an OpenAI-compatible endpoint; without one, the best sentence is quoted")
    parser.add_argument("--model", default="", help="at that endpoint")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.index or Path(temporary) / "docs.tarragon"
        with Index.open(place, encoder=encoder) as index:
            bot = Chatbot(index, options.folder, language_model(options.base_url, options.model))
            chat(bot, _typed(sys.stdin), lambda part: print(part, end="", flush=True))


if __name__ == "__main__":
    main()
