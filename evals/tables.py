"""Our own results: a file each, named by data set, configuration and commit; and the tables that are made from them.

python -m evals.tables          writes the tables into README.md and evals/README.md
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tarragon import SearchRecipe

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "evals" / "results"

SHOWN = (("scifact", False), ("squad11-dev", False), ("awsdocs-3k", True))
"""Data sets of the tables, and whether their documents are cut into chunks."""

SHORT = {
    "scifact": "SciFact ({documents:,} abstracts, {queries:,} claims)",
    "squad11-dev": "SQuAD-dev ({documents:,} paragraphs, {queries:,} questions)",
    "awsdocs-3k": "AWS documentation ({documents:,} pages in {chunks:,} chunks, {queries:,} customer questions)",
}
LONG = {"scifact": "SciFact", "squad11-dev": "SQuAD-dev", "awsdocs-3k": "AWS documentation, chunked"}
LEGS = {"dense": "dense", "bm25": "BM25", "hybrid": "hybrid"}
METRICS = ("nDCG@10", "R@10", "R@100", "RR@10")
MODEL = "all-MiniLM-L6-v2"


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it; ``unknown`` outside of a repository."""
    try:
        named = _git("rev-parse", "--short=8", "HEAD")
        return named + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def result_path(folder: Path, result: Mapping[str, Any]) -> Path:
    """Where a result of `evals.run` is kept, such as ``scifact.whole.all-MiniLM-L6-v2.calibrated.1a2b3c4d.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = f"chunks{result['recipe']['chunk_tokens']}" if result["chunked"] else "whole"
    model = Path(result["model"]).name.replace(".", "-")
    return folder / f"{result['dataset']}.{cut}.{model}.{result['search']['fusion']}.{result['commit']}.json"


def latest(folder: Path, dataset: str, *, chunked: bool) -> dict[str, Any]:
    """The result that was made last with the default settings. Raises `FileNotFoundError` if there is none."""
    found = []
    for path in sorted(folder.glob(f"{dataset}.*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        about = (result["dataset"], result["chunked"], result["model"], result["search"]["fusion"])
        if about == (dataset, chunked, MODEL, SearchRecipe().fusion) and set(LEGS) <= set(result["legs"]):
            found.append(result)
    if not found:
        raise FileNotFoundError(
            f"{folder} has no result of {dataset}: python -m evals.run .../{dataset} --results {folder}"
        )
    return max(found, key=lambda result: str(result["made"]))


def figure(value: float, digits: int) -> str:
    """As the tables write it: without the 0 before the point."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("0")


def short_table(folder: Path = RESULTS) -> str:
    """nDCG@10 of every leg, for README.md."""
    lines = ["| | dense | BM25 | hybrid |", "|---|---:|---:|---:|"]
    for dataset, chunked in SHOWN:
        result = latest(folder, dataset, chunked=chunked)
        values = [figure(result["legs"][leg]["nDCG@10"], 3) for leg in LEGS]
        best = max(range(len(values)), key=lambda place: values[place])
        cells = [f"**{value}**" if place == best else value for place, value in enumerate(values)]
        lines.append(f"| {SHORT[dataset].format(**result)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def long_table(folder: Path = RESULTS) -> str:
    """Every metric of every leg, for evals/README.md."""
    lines = [f"| | leg | {' | '.join(METRICS)} |", f"|---|---|{'---:|' * len(METRICS)}"]
    for dataset, chunked in SHOWN:
        result = latest(folder, dataset, chunked=chunked)
        for number, (leg, name) in enumerate(LEGS.items()):
            values = [figure(result["legs"][leg][metric], 4) for metric in METRICS]
            lines.append(
                f"| {'' if number else LONG[dataset]} | {name} | {' | '.join(values)} |".replace("|  |", "| |")
            )
    return "\n".join(lines)


def with_table(page: str, table: str) -> str:
    """The page with the table that has this head replaced. Raises `ValueError` if it has none."""
    head = table.splitlines()[0]
    lines = page.splitlines()
    if head not in lines:
        raise ValueError(f"the page has no table with the head {head}")
    start = lines.index(head)
    end = next((place for place in range(start, len(lines)) if not lines[place].startswith("|")), len(lines))
    return "\n".join([*lines[:start], *table.splitlines(), *lines[end:]]) + "\n"


def pages(folder: Path = RESULTS) -> Sequence[tuple[Path, str]]:
    """Each page with its table as the results have it."""
    made = ((ROOT / "README.md", short_table(folder)), (ROOT / "evals" / "README.md", long_table(folder)))
    return [(path, with_table(path.read_text(encoding="utf-8"), table)) for path, table in made]


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
        print(f"{path} written")
