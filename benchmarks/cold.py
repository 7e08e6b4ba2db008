"""Cold: how long until a new process has its first answer, and how much memory it takes.

    python -m benchmarks.cold SOURCE... --queries FILE... [--chunks 100000]

Each round is a process of its own that imports the package, opens an index, and asks one question whose vector is
known, as a service does whose model runs elsewhere; then a second one. Files are in the page cache. The control is a
process that only imports NumPy. Memory is read from ``/proc``, so this needs Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large import add_corpus_options, large_index, spread_queries
from benchmarks.report import conclude, markdown_table, spread_dict
from benchmarks.timing import Spread

MOST_IMPORT, MOST_FIRST, MOST_MEMORY = 0.3, 0.05, 1.3
"""Bars: seconds of the import, seconds of the first query, resident bytes for each byte of the vectors."""

STEPS = ("import", "open", "first query", "second query")

_RESIDENT = """
def resident():
    import re
    with open("/proc/self/status") as file:  # what getrusage says is the parent's, if that was larger
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])
"""

_CHILD = """
import json, sys, time
clock = time.perf_counter
begun = clock()
import tarragon
imported = clock()
heavy = sorted({"torch", "transformers", "onnxruntime", "sentence_transformers"} & set(sys.modules))
path, vectors, query, other = sys.argv[1:]
import numpy as np
rows = np.load(vectors)
class Stored:
    name, device, max_tokens, tokenizer = "cloud", "cpu", 256, None
    dimensions = rows.shape[1]
    identity = {"kind": "cloud", "dimensions": str(rows.shape[1]), "max_tokens": "256"}
    def encode_documents(self, inputs): raise NotImplementedError
    def encode_queries(self, texts, prompt=None): raise NotImplementedError
opening = clock()
index = tarragon.Index.open(path, encoder=Stored())
opened = clock()
first = index.search(query, 10, vector=rows[0])
answered = clock()
second = index.search(other, 10, vector=rows[1])
done = clock()
print(json.dumps({
    "import": imported - begun, "open": opened - opening, "first query": answered - opened,
    "second query": done - answered, "resident": resident(),
    "heavy": heavy, "hits": [hit.chunk_id for hit in first],
}))
"""

_CONTROL = """
import json, time
begun = time.perf_counter()
import numpy
print(json.dumps({"import": time.perf_counter() - begun, "resident": resident()}))
"""


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    queries = spread_queries(options.queries, 2)
    path, vectors = (options.keep or folder) / "large.tarragon", folder / "vectors.npy"
    with large_index(options, folder) as large:
        rows = large.encoder.encode_queries(queries).vectors
        np.save(vectors, rows)
        expected = [hit.chunk_id for hit in large.index.search(queries[0], 10, vector=rows[0])]
        described = large.describe()
        size = large.index.status().chunks * 4 * large.encoder.dimensions
    runs, controls = [], []
    for number in range(-1, options.repeats):  # the first one fills the page cache
        run, control = _run(_CHILD, str(path), str(vectors), *queries), _run(_CONTROL)
        if number >= 0:
            runs.append(run)
            controls.append(control)
    return {
        "benchmark": "cold",
        **described,
        "vectors_bytes": size,
        "seconds": {step: spread_dict(Spread.of([run[step] for run in runs])) for step in STEPS},
        "numpy_import": spread_dict(Spread.of([run["import"] for run in controls])),
        "resident": spread_dict(Spread.of([run["resident"] for run in runs])),
        "numpy_resident": spread_dict(Spread.of([run["resident"] for run in controls])),
        "heavy": sorted({name for run in runs for name in run["heavy"]}),
        "same_hits": all(run["hits"] == expected for run in runs),
    }


def _run(code: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT + code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"a cold process failed: {done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def failures(result: Mapping[str, Any]) -> list[str]:
    """What was checked and is not so; empty if the times count."""
    wrong = [f"the import brings {name}" for name in result["heavy"]]
    return wrong + ([] if result["same_hits"] else ["a new process finds other hits"])


def render(result: Mapping[str, Any]) -> str:
    """Milliseconds of each step, and memory."""
    rows = [[step, _milliseconds(spread)] for step, spread in result["seconds"].items()]
    rows.append(["import of NumPy alone, in its own process", _milliseconds(result["numpy_import"])])
    resident, control = (result[name]["median"] / 2**20 for name in ("resident", "numpy_resident"))
    vectors = result["vectors_bytes"] / 2**20
    return "\n".join(
        [
            result["description"],
            "",
            markdown_table(["", "ms"], rows),
            "",
            f"Most memory {resident:.0f} MiB, of NumPy alone {control:.0f}; the vectors are {vectors:.0f} "
            f"({resident / vectors:.2f} x). What of the index is mapped counts where it was touched.",
            f"Bars: import {1e3 * MOST_IMPORT:.0f} ms, first query {1e3 * MOST_FIRST:.0f} ms, memory {MOST_MEMORY:g} x "
            "the vectors.",
        ]
    )


def _milliseconds(spread: Mapping[str, float]) -> str:
    return str(Spread(*(1e3 * value for value in spread.values())))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=str(__doc__).split("\n")[0])
    add_corpus_options(parser, chunks=100_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-cold-") as folder:
        result = measure(options, Path(folder))
    return conclude(result, render(result), options.json, failures(result))


if __name__ == "__main__":
    sys.exit(main())
