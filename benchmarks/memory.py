"""Memory while ingesting, beyond the loaded model: does it grow with the corpus?

    python -m benchmarks.memory SOURCE [--index DIR] [--json OUT]

Loads the model and encodes once, then syncs the source while a thread samples the resident memory of this process every
20 ms. File pages that the engine maps count as resident here, although the system can drop them at any time; what
belongs to the process alone is shown beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import markdown_table, publish
from tarragon import Index, Progress
from tarragon.protocols import EncoderInput

TENTHS = 10
INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident bytes of this process at a moment: all, and those that are no file's."""

    chunks: int
    resident: int
    anonymous: int


def sample(chunks: int) -> Sample:
    """Read /proc/self/status; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith("kB")}
    return Sample(chunks, sizes["VmRSS"], sizes["RssAnon"])


def measure(source: str, folder: Path) -> tuple[Sample, list[Sample], float]:
    """(before, while syncing, seconds)."""
    samples: list[Sample] = []
    done = threading.Event()
    embedded = 0
    with Index.open(folder) as index:
        index.encoder.encode_documents([EncoderInput("warm up " * 300)] * 8)
        before = sample(0)

        def watch() -> None:
            while not done.wait(INTERVAL):
                samples.append(sample(embedded))

        def note(progress: Progress) -> None:
            nonlocal embedded
            embedded = progress.chunks_embedded

        started = time.perf_counter()
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            index.sync(source, progress=note)
        finally:
            done.set()
            thread.join()
        return before, samples, time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--index", type=Path, help="keep the index here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        before, samples, seconds = measure(options.source, options.index or Path(temporary) / "memory.tarragon")
    last = len(samples) - 1
    ends = sorted({last * tenth // TENTHS for tenth in range(1, TENTHS + 1)})
    rows = [[samples[end].chunks, *peaks(samples[: end + 1], before)] for end in ends]
    headers = ["chunks embedded", "peak MiB beyond the loaded model", "of it the process's own"]
    title = f"model loaded: {before.resident >> 20} MiB; then {seconds:.0f} s\n\n"
    publish(
        {"before": before.resident, "rows": rows, "seconds": seconds},
        title + markdown_table(headers, rows),
        options.json,
    )


def peaks(samples: Sequence[Sample], before: Sample) -> list[int]:
    """Highest so far of both kinds of memory, in MiB above what it was before."""
    resident = max(one.resident for one in samples) - before.resident
    anonymous = max(one.anonymous for one in samples) - before.anonymous
    return [resident >> 20, anonymous >> 20]


if __name__ == "__main__":
    main()
