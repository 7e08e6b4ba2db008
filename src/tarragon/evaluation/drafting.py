"""Drafts of questions: which passages are asked about, and what is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tarragon.errors import AnsweringFailed
from tarragon.evaluation.answers import Passage
from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.journal import Journal
from tarragon.evaluation.prompting import Prompt
from tarragon.identity import digest
from tarragon.index import Index
from tarragon.serving import PAGE, served_payloads

LEAST = 60
"""Characters of a passage that is asked about: shorter ones are headings and scraps."""

WORDS = 6
"""Of a question that is made of words."""

ALONE = 2
"""Most of them that no other passage has, where there are others: else every question would look for an identifier."""

_WORD = re.compile(r"[^\W\d_][\w'’]*")
_SENTENCE = re.compile(r"[^\n.!?。！？]+[.!?。！？]*")


@dataclass(frozen=True, slots=True)
class Draft:
    """A question that may become one of a golden set.

    Attributes:
        passage: That it is about.
        text: The question; empty: there is none.
        answer: Of it; empty: not known.
        span: Where in the passage's text the answer stands; None: nowhere.
    """

    passage: Passage
    text: str
    answer: str = ""
    span: tuple[int, int] | None = None


def sample_passages(index: Index, count: int, *, seed: int = 0) -> list[Passage]:
    """Chunks of an index, long enough to be asked about, evenly over its documents; the same for the same seed.

    Looks at twenty times as many as are asked for, so that documents with few chunks have theirs too.
    """
    with index._opened.reading() as version:
        if version is None:
            return []
        order = iter(sorted(version.store.ids(), key=lambda id_: digest("sample", str(seed), id_.bytes)))
        found: list[Passage] = []
        while page := list(islice(order, PAGE)):
            payloads = served_payloads(version, page)
            for id_ in page:
                payload = payloads.get(id_)
                if payload is not None and payload["end"] - payload["start"] >= LEAST:
                    text = payload["content"][payload["offset"] :]
                    found.append(Passage(payload["document_id"], str(id_), payload["start"], payload["end"], text))
            if len(found) >= 20 * count:
                break
    turn: Counter[str] = Counter()
    ranked = []
    for place, passage in enumerate(found):
        ranked.append((turn[passage.document_id], place, passage))
        turn[passage.document_id] += 1
    return [passage for _, _, passage in sorted(ranked, key=lambda entry: entry[:2])[:count]]


# --- without a model --------------------------------------------------------------------------------------------------
def extracted(passages: Sequence[Passage]) -> list[Draft]:
    """The rarest words of the sentence that has most of them, in their order; the sentence is the span.

    In the manner of the inverse cloze task: Lee, Chang and Toutanova, "Latent Retrieval for Weakly Supervised Open
    Domain Question Answering", 2019. Rare is what few of the passages have. Made for
    languages that put spaces between words; of others there are fewer, or none.
    """
    spread = Counter(word for passage in passages for word in set(_words(passage.text)))
    return [_rarest(passage, spread) for passage in passages]


def _rarest(passage: Passage, spread: Counter[str]) -> Draft:
    best: tuple[float, int, re.Match[str], list[str]] | None = None
    for match in _SENTENCE.finditer(passage.text):
        words = _words(match.group())
        order = sorted(words, key=lambda word: (spread[word], word))
        alone = [word for word in order if spread[word] == 1]
        shared = [word for word in order if spread[word] > 1]
        rare = [*alone[:ALONE], *shared, *alone[ALONE:]][:WORDS]
        worth = sum(1 / spread[word] for word in rare) if len(rare) >= 3 else 0.0
        if worth and (best is None or (worth, -match.start()) > best[:2]):
            best = worth, -match.start(), match, [word for word in words if word in rare]
    if best is None:
        return Draft(passage, "")
    sentence = best[2].group()
    start = best[2].start() + len(sentence) - len(sentence.lstrip())
    return Draft(passage, " ".join(best[3]), sentence.strip(), (start, start + len(sentence.strip())))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.lower() for word in _WORD.findall(text)))


# --- with a model -----------------------------------------------------------------------------------------------------
def written(model: ChatModel, prompt: Prompt, journal: Journal, passage: Passage) -> Draft:
    """A question that a model writes, or one that the journal has. Without text if the model cannot be read."""
    where = passage.document_id, str(passage.start), passage.text.encode("utf-8", "surrogatepass")
    key = digest("question", *where, model.name, prompt.digest).hex()
    kept = journal.records.get(key)
    if kept is None:
        try:
            said, _ = model.json(prompt.filled(document=passage.document_id, passage=passage.text), _read)
        except AnsweringFailed:
            return Draft(passage, "")
        kept = {"key": key, "model": model.name, "prompt": prompt.digest, "document": passage.document_id, **said}
        journal.add(kept)
    return Draft(passage, kept["question"].strip(), kept["answer"].strip(), _quoted(passage.text, kept["quote"]))


def _read(said: dict[str, Any]) -> dict[str, str]:
    for name in ("question", "answer", "quote"):
        if not isinstance(said.get(name), str):
            raise ValueError(f"{name!r} must be a text, not {said.get(name)!r}")
    return {name: said[name] for name in ("question", "answer", "quote")}


def _quoted(text: str, quote: str) -> tuple[int, int] | None:
    """Where a quote stands, whatever its white space and case."""
    words = quote.split()
    found = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE) if words else None
    return found.span() if found else None
