"""A chatbot over a documentation folder that stays fresh while you edit, and cites where each answer stands.

    python chatbot.py docs/ [--index docs.tarragon] [--base-url http://localhost:8000/v1 --model NAME]

Before each answer the folder is synced: what has not changed costs a look at its time stamps, what has is embedded.
Below each answer are the passages that the model was shown, as path[start:end] in characters of the file; a * marks
those that hold the very words of the answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import LLM
from llama_index.core.schema import NodeWithScore
from llama_index.retrievers.tarragon import TarragonRetriever
from quoting_llm import language_model

from tarragon import Index
from tarragon.errors import SourceProblem, TarragonError
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
        # drop: where a sync is refused, what has changed or gone is left out and not quoted
        self._retriever = TarragonRetriever(index, similarity_top_k=k, on_stale="drop")
        self._engine = CondensePlusContextChatEngine.from_defaults(self._retriever, llm=llm)

    def ask(self, question: str) -> Iterator[str]:
        """What has changed in the folder, the answer word by word, its sources."""
        yield from self._sync()
        response = self._engine.stream_chat(question)
        answer = ""
        for part in response.response_gen:
            answer += part
            yield part
        yield from self._sources(response.source_nodes, _flat(answer))
        yield "\n"

    def _sync(self) -> Iterator[str]:
        try:
            report = self._index.sync(self._folder, progress=False)
        except SourceProblem as error:  # many files gone at once, say, which is taken for a mistake
            yield f"(not brought up to date, and what has changed is left out: {error})\n"
            return
        if report.chunks_embedded or report.documents_deleted:
            yield f"({report.chunks_embedded} passages embedded, {report.documents_deleted} documents gone)\n"
        for failure in report.failures:
            yield f"({failure.document_id} cannot be read: {failure.reason})\n"

    def _sources(self, nodes: list[NodeWithScore], answer: str) -> Iterator[str]:
        headings = {hit.chunk_id: " > ".join(hit.heading) for hit in self._retriever.last_hits or ()}
        for number, found in enumerate(nodes, start=1):
            node, text = found.node, _flat(found.node.get_content())
            mark = "*" if answer and answer in text else " "
            span = f"{node.ref_doc_id}[{node.start_char_idx}:{node.end_char_idx}]"
            yield f"\n{mark}[{number}] {span} {headings[node.node_id]}\n     {_shortened(text)}"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str, most: int = 110) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def main(arguments: list[str] | None = None, encoder: DenseEncoder | None = None) -> None:
    """Answer the questions on stdin."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--index", type=Path, help="where to keep the index; without, it is made anew")
    parser.add_argument("--base-url", help="of an OpenAI-compatible endpoint; without, the best sentence is quoted")
    parser.add_argument("--model", help="at that endpoint")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    llm = language_model(options.base_url, options.model)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with Index.open(options.index or Path(temporary, "docs.tarragon"), encoder=encoder) as index:
                bot = Chatbot(index, options.folder, llm)
                print("Ask about the documents; Ctrl-D ends.")
                for question in filter(str.strip, sys.stdin):
                    for part in bot.ask(question.strip()):
                        print(part, end="", flush=True)
        except TarragonError as error:
            parser.exit(1, f"error: {error}\n")
        except KeyboardInterrupt:
            parser.exit(130, "\n")


if __name__ == "__main__":
    main()
