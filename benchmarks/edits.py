"""What an edited folder costs: a real documentation set at several dates, synced into one index, date after date.

    python -m benchmarks.edits DATED [--words] [--queries 100] [--json OUT]

``DATED`` holds one folder a date, each the whole documentation as it stood; they are taken in the order of their names.
After each date everything that the index holds, and its answers, are compared with those of an index built anew. The
model runs once for each text, so that the builds for comparison cost nothing; what the one index asks for is counted
where it asks. ``--words`` takes an encoder without a model.

Characters edited are characters inserted. A document that both dates have is compared line by line; in lines that were
replaced, word by word (runs of letters and digits, runs of white space, single signs). What stands only in the later
text counts with its length, so a changed letter counts as its whole word, moved text as inserted, and what was deleted
not at all; the ratio with deleted characters counted too is given beside. A document that only the later date has
counts whole.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from benchmarks.memo import MemoisedEncoder
from benchmarks.report import markdown_table, publish
from benchmarks.stored import MODES, REQUIRED_COSINE, compare, stored_passages
from tarragon import Index
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.protocols import DenseEncoder
from tarragon.sources import open_source
from tarragon.testing import WordEncoder

BAR = 5.0
"""Characters that may be embedded for each that was edited."""

_WORD = re.compile(r"\w+|\s+|[^\w\s]")


# --- counting what was edited -----------------------------------------------------------------------------------------
def edited_characters(before: str, after: str) -> tuple[int, int]:
    """Characters inserted and deleted on the way from one text to the other, by lines and then by words."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    counts = [_edited_words("".join(old[first]), "".join(new[second])) for first, second in _differing(old, new)]
    return sum(inserted for inserted, _ in counts), sum(deleted for _, deleted in counts)


def _edited_words(before: str, after: str) -> tuple[int, int]:
    old, new = _WORD.findall(before), _WORD.findall(after)
    places = list(_differing(old, new))
    inserted = sum(len(word) for _, place in places for word in new[place])
    return inserted, sum(len(word) for place, _ in places for word in old[place])


def _differing(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[slice, slice]]:
    for tag, start, end, new_start, new_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            yield slice(start, end), slice(new_start, new_end)


@dataclass(frozen=True, slots=True)
class Edits:
    """What differs between two dates.

    Attributes:
        changed: Ids of the documents that both have, with other texts.
        new: Ids of those that only the later has.
        gone: How many only the earlier has.
        characters_changed: Inserted into the changed documents.
        characters_deleted: Deleted from them.
        characters_new: Of the new documents.
    """

    changed: frozenset[str]
    new: frozenset[str]
    gone: int
    characters_changed: int
    characters_deleted: int
    characters_new: int

    @classmethod
    def between(cls, before: Mapping[str, str], after: Mapping[str, str]) -> Edits:
        """From one date to the next: texts by document id."""
        changed = frozenset(id_ for id_ in before.keys() & after.keys() if before[id_] != after[id_])
        new = frozenset(after.keys() - before.keys())
        counts = [edited_characters(before[id_], after[id_]) for id_ in changed]
        return cls(
            changed,
            new,
            len(before.keys() - after.keys()),
            sum(inserted for inserted, _ in counts),
            sum(deleted for _, deleted in counts),
            sum(len(after[id_]) for id_ in new),
        )


# --- measuring --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Cost:
    """Texts of one group of documents at one date.

    Attributes:
        documents: How many.
        edited: Characters inserted into them.
        deleted: Characters deleted from them.
        texts: Distinct texts that were embedded for them.
        embedded: Characters of those.
        whole: Characters of all their chunks, as if each document that changed were embedded whole.
    """

    documents: int = 0
    edited: int = 0
    deleted: int = 0
    texts: int = 0
    embedded: int = 0
    whole: int = 0

    def __add__(self, other: Cost) -> Cost:
        mine, theirs = asdict(self), asdict(other)
        return Cost(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def ratio(self) -> float:
        """Characters embedded for each that was edited."""
        return self.embedded / self.edited if self.edited else 0.0

    @property
    def ratio_with_deleted(self) -> float:
        """The same for each that was inserted or deleted."""
        return self.embedded / (self.edited + self.deleted) if self.edited else 0.0

    @property
    def whole_ratio(self) -> float:
        """Characters embedded for each that was inserted, had each document been embedded whole."""
        return self.whole / self.edited if self.edited else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ratios = {name: getattr(self, name) for name in ("ratio", "ratio_with_deleted", "whole_ratio")}
        return {**asdict(self), **ratios}


def measure(dated: Path, encoder: DenseEncoder, queries: int, space: Path) -> dict[str, Any]:
    """Sync each date into one index; see the module."""
    memo = MemoisedEncoder(encoder)
    dates = []
    before: dict[str, str] = {}
    with Index.open(space / "edited.tarragon", encoder=memo) as index:
        for folder in sorted(path for path in dated.iterdir() if path.is_dir()):
            texts = {item.document_id: item.load().text for item in open_source(folder).items()}
            known = {passage.text for passage in stored_passages(index).values()}
            memo.forget()
            report = index.sync(folder, max_delete=1.0, progress=False)
            asked = set(memo.asked) - known
            with Index.open(space / f"{folder.name}.tarragon", encoder=memo) as built_anew:
                built_anew.sync(folder, progress=False)
                difference = compare(index, built_anew, make_queries(texts, queries))
            edits = Edits.between(before, texts)
            costs = _costs(index, edits, asked)
            dates.append(
                {
                    "date": folder.name,
                    "documents": len(texts),
                    "gone": edits.gone,
                    "report": report.to_dict(),
                    "costs": {name: cost.to_dict() for name, cost in costs.items()},
                    "difference": asdict(difference),
                    "same_data": difference.same_data,
                    "equal": difference.equal,
                }
            )
            print(f"{folder.name}: {report.chunks_embedded} texts embedded", file=sys.stderr)
            before = texts
    return {
        "benchmark": "edits",
        "source": dated.resolve().name,
        "model": encoder.name,
        "queries": queries,
        "dates": dates,
        **_all(dates),
    }


def make_queries(texts: Mapping[str, str], count: int) -> list[str]:
    """Headings and sentences at even distances through all documents."""
    lines = [line.strip("#*- `") for id_ in sorted(texts) for line in texts[id_].splitlines()]
    good = [line for line in lines if 3 <= len(line.split()) <= 30 and not re.search(r"[{}|<>=]|https?:", line)]
    return [good[place * len(good) // count] for place in range(min(count, len(good)))]


def _costs(index: Index, edits: Edits, asked: set[str]) -> dict[str, Cost]:
    """By group of documents; a text that both groups have counts with the changed ones."""
    groups = {"changed": edits.changed, "new": edits.new}
    texts: dict[str, list[str]] = {name: [] for name in groups}
    for passage in stored_passages(index).values():
        for name, ids in groups.items():
            if passage.payload["document_id"] in ids:
                texts[name].append(passage.text)
    changed, new = asked & set(texts["changed"]), asked & set(texts["new"]) - set(texts["changed"])
    return {
        "changed": Cost(
            documents=len(edits.changed),
            edited=edits.characters_changed,
            deleted=edits.characters_deleted,
            texts=len(changed),
            embedded=_length(changed),
            whole=_length(texts["changed"]),
        ),
        "new": Cost(
            documents=len(edits.new),
            edited=edits.characters_new,
            texts=len(new),
            embedded=_length(new),
            whole=_length(texts["new"]),
        ),
    }


def _length(texts: Sequence[str] | set[str]) -> int:
    return sum(map(len, texts))


def _all(dates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All dates but the first, which is a build."""
    names = [field.name for field in fields(Cost)]
    totals = {group: Cost() for group in ("changed", "new")}
    for date in dates[1:]:
        for group in totals:
            totals[group] += Cost(**{name: date["costs"][group][name] for name in names})
    together = totals["changed"] + totals["new"]
    return {
        "totals": {**{group: cost.to_dict() for group, cost in totals.items()}, "all": together.to_dict()},
        "bar": BAR,
        "equal": all(date["equal"] for date in dates),
    }


def render(result: Mapping[str, Any]) -> str:
    """A row for each date, and the sums."""
    rows = []
    for date in result["dates"]:
        report, difference, changed = date["report"], date["difference"], date["costs"]["changed"]
        counts = [report[f"documents_{name}"] for name in ("changed", "added", "deleted")]
        rows.append(
            [
                date["date"],
                " / ".join(map(str, counts)),
                f"{report['chunks_embedded']:,} of {difference['chunks']:,}",
                f"{report['characters_embedded']:,}",
                f"{changed['ratio']:.2f}" if changed["edited"] else "",
                "same" if date["same_data"] else "OTHER",
                " / ".join(f"{difference['answers'][mode]} ({difference['beyond_ties'][mode]})" for mode in MODES),
            ]
        )
    headers = ["date", "documents changed / new / deleted", "texts embedded", "characters embedded"]
    headers += ["for each inserted into a changed document", "stored data, against a build anew"]
    headers += [f"other answers of {result['queries']}, {' / '.join(MODES)} (beyond ties)"]
    names = {"changed": "changed documents", "new": "new documents", "all": "together"}
    sums = [
        [
            names[group],
            cost["documents"],
            *(f"{cost[name]:,}" for name in ("edited", "deleted", "embedded")),
            *(f"{cost[name]:.2f}" for name in ("ratio", "ratio_with_deleted", "whole_ratio")),
        ]
        for group, cost in result["totals"].items()
    ]
    sum_headers = ["after the first date", "documents", "characters inserted", "deleted", "embedded"]
    sum_headers += ["embedded for each inserted", "for each inserted or deleted", "documents whole, for each inserted"]
    cosine = min(date["difference"]["least_cosine"] for date in result["dates"])
    return "\n".join(
        [
            f"{result['source']}, {len(result['dates'])} dates, {result['model']}",
            "",
            markdown_table(headers, rows),
            "",
            markdown_table(sum_headers, sums),
            "",
            f"The bar is {result['bar']:.1f} for each inserted. Least cosine between the vectors {cosine:.7f}, "
            f"required {REQUIRED_COSINE}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if the index differs from a build anew, or the bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edits", description="An edited folder, date by date.")
    parser.add_argument("dated", type=Path, help="a folder with one folder a date")
    parser.add_argument("--words", action="store_true", help="an encoder without a model, to be quick")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--model", help="name or local folder; the bundled one by default")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is by default")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    options = parser.parse_args(arguments)
    encoder: DenseEncoder = (
        WordEncoder() if options.words else SentenceTransformerEncoder(options.model, device=options.device)
    )
    with tempfile.TemporaryDirectory(prefix="tarragon-edits-") as folder:
        result = measure(options.dated, encoder, options.queries, Path(folder))
    publish(result, render(result), options.json)
    return 0 if result["equal"] and result["totals"]["all"]["ratio"] <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
