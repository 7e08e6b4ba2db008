"""``kill -9`` while a sync is at work, again and again; each time the next sync must end where a fresh build does.

    python -m benchmarks.kills [--kills 200] [--seed 0] [--json OUT]

A nursery process loads the model once, on one thread and without ever touching the engine. Each attempt is a fork of it
that opens the index, syncs a small folder that was just edited, and gets a real SIGKILL: at a random moment of its
whole run, or, since most of that run is the model's, at a random moment of the writing that follows an embedding. Now
and then the sync that would repair the damage is killed too. Then this process looks at what was left, syncs, and
compares all chunk ids, payloads, vectors and answers with those of an index built anew from the same folder.

A sync that ended before its kill does not count. Edits are changes, new files, deletions, renames, and files put back
as they were before, time stamp and all. A third of the kills hits a first sync or one that deletes half of the folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.memo import MemoisedEncoder
from benchmarks.report import markdown_table, publish
from benchmarks.stored import MODES, REQUIRED_COSINE, Difference, compare, stored_passages
from tarragon import Index, IndexRecipe, syncing
from tarragon.canaries import probes
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.errors import IndexNotFound, TarragonError
from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput

Kind: TypeAlias = Literal["first", "edit", "delete"]
Aim: TypeAlias = Literal["whole run", "writing"]

KINDS: Mapping[Kind, float] = {"edit": 0.65, "delete": 0.2, "first": 0.15}
"""What the killed sync has to do, and how often."""

DOCUMENTS = 16
RECIPE = IndexRecipe(chunk_tokens=32)
WINDOW_CHARACTERS = 1_500
"""Far below the package's own, so that a small folder too is written in several steps."""

AGAIN = 0.25
"""How often the sync after a killed one is killed too, before anything is compared."""

CALIBRATIONS = 3
RECALIBRATE = 20
"""Attempts between measuring anew how long a sync takes: another load of the machine is another duration."""

QUERIES = 6


# --- the folder that is synced ----------------------------------------------------------------------------------------
class EditedFolder:
    """A folder of small Markdown files that changes at random.

    Args:
        path: The folder; made here.
        chance: Decides everything.
    """

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path = path
        self._chance = chance
        self._made = 0
        self._former: dict[Path, tuple[str, int]] = {}
        path.mkdir(parents=True)
        self.grow(DOCUMENTS)

    @property
    def texts(self) -> dict[str, str]:
        """What is in the folder now, by file name."""
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(self.path.iterdir())}

    def sentences(self) -> list[str]:
        """Those of all files that are no headings."""
        lines = (line for text in self.texts.values() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    def grow(self, documents: int) -> None:
        """Add files until there are so many."""
        while len(self._files()) < documents:
            self._add()

    def edit(self) -> None:
        """A few edits of all kinds."""
        self.grow(DOCUMENTS // 2)
        for _ in range(self._chance.randint(2, 5)):
            self._chance.choice([self._change, self._change, self._add, self._remove, self._rename, self._put_back])()

    def shrink(self) -> None:
        """Delete half of the files."""
        for path in self._chance.sample(self._files(), len(self._files()) // 2):
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.path.iterdir())

    def _pick(self) -> Path:
        return self._chance.choice(self._files())

    def _sentence(self) -> str:
        self._made += 1
        words = self._chance.choices(_WORDS, k=self._chance.randint(8, 16))
        return f"Note {self._made} says that the {' '.join(words)}."

    def _add(self) -> None:
        self._made += 1
        parts = [f"# Page {self._made}", self._sentence()]
        for _ in range(self._chance.randint(1, 3)):
            parts += [f"## Part {self._chance.choice('ABCD')}", self._sentence()]
        self._write(self.path / f"page-{self._made}.md", "\n\n".join(parts) + "\n")

    def _change(self) -> None:
        path = self._pick()
        lines = path.read_text(encoding="utf-8").splitlines()
        self._former[path] = "\n".join(lines) + "\n", path.stat().st_mtime_ns
        place = self._chance.choice([i for i, line in enumerate(lines) if line and not line.startswith("#")])
        lines[place] = self._chance.choice([self._sentence(), f"{self._sentence()}\n\n{lines[place]}"])
        self._write(path, "\n".join(lines) + "\n")

    def _remove(self) -> None:
        if len(self._files()) > 2:
            self._pick().unlink()

    def _rename(self) -> None:
        self._made += 1
        path = self._pick()
        path.rename(path.with_name(f"page-{self._made}.md"))

    def _put_back(self) -> None:
        """The former content under the former time stamp, in the same inode: nothing but the content shows it."""
        known = [path for path in sorted(self._former) if path.exists()]
        if known:
            path = self._chance.choice(known)
            text, stamp = self._former[path]
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(stamp, stamp))

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        stamp = time.time_ns() - 3_600 * 10**9 + self._made * 10**7  # old enough to be trusted, and new
        os.utime(path, ns=(stamp, stamp))


_WORDS = [
    first + second for first in ("ba", "ce", "di", "fo", "gu", "ha", "je") for second in ("ran", "sel", "tin", "vor")
]


# --- the nursery, in a process of its own -----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Task:
    """What a fork is to do."""

    index: Path
    folder: Path


class _Announcing(MemoisedEncoder):
    """Says when the model has run."""

    def __init__(self, inner: DenseEncoder, events: Connection) -> None:
        super().__init__(inner)
        self._events = events

    def keep(self, texts: Sequence[str]) -> None:
        """Run the model on these now, so that no fork has to."""
        super().encode_documents([EncoderInput(text) for text in texts])

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        made = super().encode_documents(inputs)
        if made.tokens:
            self._events.send("embedded")
        return made


def _nurse(control: Connection, events: Connection) -> None:
    """Load the model, then fork for each task, until the other end closes."""
    import torch

    warnings.simplefilter("ignore")  # Python and torch warn of forks with threads; none of them is at work here
    torch.set_num_threads(1)
    model = SentenceTransformerEncoder(device="cpu")
    model.encode_documents([EncoderInput("warm up " * 20)])
    encoder = _Announcing(model, events)
    encoder.keep(probes())  # the same in each fork, and longer than all that is to be killed
    syncing.WINDOW_CHARACTERS = WINDOW_CHARACTERS
    control.send("ready")
    while True:
        try:
            task = control.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            os._exit(_run(task, encoder, events))
        control.send(child)
        control.recv()  # only now may the process id be given to others
        control.send(os.waitpid(child, 0)[1])


def _run(task: Task, encoder: DenseEncoder, events: Connection) -> int:
    try:
        events.send("begins")
        with Index.open(task.index, recipe=RECIPE, encoder=encoder) as index:
            index.sync(task.folder, max_delete=1.0, progress=False)
        events.send("ended")
    except BaseException:
        traceback.print_exc()
        events.send("failed")
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt.

    Attributes:
        killed: Whether it was still at work when the signal came.
        seconds: Until its end.
        writing: Seconds between the moments in which the model had run, and from the last one to the end.
    """

    killed: bool
    seconds: float
    writing: tuple[float, ...]


class Nursery:
    """Made by `nursery`.

    Args:
        control: To the process that forks.
        events: From its forks.
    """

    def __init__(self, control: Connection, events: Connection) -> None:
        self._control = control
        self._events = events

    def sync(self, task: Task, *, embeddings: int = 0, delay: float | None = None) -> Run:
        """Sync in a fork, and kill it so many seconds after its begin, or after the model has run so many times.

        One that failed by itself counts as not killed; whoever syncs next in this process meets the same error.
        """
        self._control.send(task)
        child = self._control.recv()
        moments = [self._next_event("begins")]
        while delay is not None and len(moments) <= embeddings and moments[-1] is not None:
            moments.append(self._next_event("embedded"))
        if delay is not None and moments[-1] is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        while delay is None and moments[-1] is not None:
            moments.append(self._next_event("embedded"))
        self._control.send("reap")
        status = self._control.recv()
        ended = time.perf_counter()
        while self._events.poll():
            self._events.recv()
        begun, *others = [*(moment for moment in moments if moment is not None), ended]
        writing = tuple(later - earlier for earlier, later in pairwise(others))
        return Run(status == signal.SIGKILL, ended - begun, writing)

    def _next_event(self, expected: str) -> float | None:
        """When it came; None if the sync ended instead."""
        while True:
            event = self._events.recv()
            if event == expected:
                return time.perf_counter()
            if event in ("ended", "failed"):
                return None


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A process with the model loaded."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    events, announcing = context.Pipe(duplex=False)
    former = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
    process = context.Process(target=_nurse, args=(theirs, announcing), daemon=True)
    process.start()
    if former is None:
        del os.environ["TOKENIZERS_PARALLELISM"]
    else:
        os.environ["TOKENIZERS_PARALLELISM"] = former
    theirs.close()
    try:
        assert ours.recv() == "ready"
        yield Nursery(ours, events)
    finally:
        ours.close()
        process.join(10)
        process.kill()


# --- killing and comparing --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Left:
    """What was found after a kill, before anything was repaired.

    Attributes:
        state: ``no index``, ``as before``, ``in between`` or ``as wanted``, by the chunk ids in the store.
        unfinished: Documents that the ledger calls unfinished.
        silent: Whether a search found nothing although there was an index before.
        foreign: Hits with a text that their document had neither before nor after.
        mixed: Documents that were found with texts of two of their versions.
    """

    state: str
    unfinished: int
    silent: bool
    foreign: int
    mixed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kill.

    Attributes:
        kind: Of sync that was killed first.
        aim: At what its kill was aimed.
        kills: How many syncs were killed before the one that repaired.
        left: What they left.
        difference: From a fresh build, after the next sync.
        ghosts: Hits, after that sync, with a text that their document does not have.
        embedded_again: Texts that one more sync embedded; it should be none.
        unfinished: Documents that are unfinished even then.
    """

    kind: Kind
    aim: Aim
    kills: int
    left: Left
    difference: Difference
    ghosts: int
    embedded_again: int
    unfinished: int

    @property
    def good(self) -> bool:
        """Whether nothing is lost, left over, wrong or different."""
        left = self.left.silent or self.left.foreign or self.left.mixed
        return self.difference.equal and not (left or self.ghosts or self.embedded_again or self.unfinished)


class Killer:
    """Kills syncs of one folder into one index, and judges what comes of it.

    Args:
        space: An empty folder.
        nursery: Where the syncs run.
        encoder: The same model in this process.
        seed: Of all chance.
    """

    def __init__(self, space: Path, nursery: Nursery, encoder: DenseEncoder, seed: int) -> None:
        self._space = space
        self._nursery = nursery
        self._encoder = MemoisedEncoder(encoder)
        self._chance = random.Random(seed)
        self._folder = EditedFolder(space / "docs", self._chance)
        self._index = space / "0.tarragon"
        self._built = 0
        self._versions: list[dict[str, str]] = []
        self._stored_before: set[str] = set()
        self._seconds: dict[Kind, deque[float]] = {kind: deque(maxlen=CALIBRATIONS) for kind in KINDS}
        self._writing: deque[tuple[float, ...]] = deque(maxlen=2 * CALIBRATIONS)
        self._attempts = 0
        self.ended_before = 0
        self.refused = 0

    def calibrate(self, runs: int) -> None:
        """Let each kind of sync run to its end, to know how long it takes."""
        order: tuple[Kind, ...] = ("first", "edit", "delete")
        for kind in [kind for kind in order for _ in range(runs)]:
            self._prepare(kind)
            run = self._nursery.sync(self._task())
            self._seconds[kind].append(run.seconds)
            self._writing += [run.writing] if run.writing else []
        self._settle()

    def kill(self, kind: Kind | None = None) -> Verdict | None:
        """Edit, sync, kill, look, sync, compare. None if there is an index that cannot be synced any more."""
        kind = kind or self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        while (aim := self._prepare_and_kill(kind)) is None:
            self.ended_before += 1
            self._settle()
            self._recalibrate()
        kills = 1
        while self._chance.random() < AGAIN:
            kills += self._prepare_and_kill("edit") is not None
        verdict = self._judge(kind, aim, kills)
        self._recalibrate()
        return verdict

    def _recalibrate(self) -> None:
        if self._attempts >= RECALIBRATE:
            self._attempts = 0
            self.calibrate(1)

    def _task(self) -> Task:
        return Task(self._index, self._folder.path)

    def _prepare(self, kind: Kind) -> None:
        """Edit the folder as this kind of sync wants it."""
        if kind == "first":
            shutil.rmtree(self._index, ignore_errors=True)
            self._built += 1
            self._index = self._space / f"{self._built}.tarragon"
            self._versions, self._stored_before = [], set()
            self._folder.edit()
        elif kind == "edit":
            self._folder.edit()
        else:
            self._folder.shrink()
        self._versions.append(self._folder.texts)

    def _prepare_and_kill(self, kind: Kind) -> Aim | None:
        """None if the sync ended first."""
        self._attempts += 1
        self._prepare(kind)
        if kind != "delete" and self._chance.random() < 0.5:
            pauses = self._chance.choice(self._writing)
            embeddings = self._chance.randint(1, len(pauses))
            delay = self._chance.uniform(0, min(pauses[embeddings - 1], 2 * statistics.median(self._last_pauses())))
            return "writing" if self._nursery.sync(self._task(), embeddings=embeddings, delay=delay).killed else None
        delay = self._chance.uniform(0, statistics.median(self._seconds[kind]))
        return "whole run" if self._nursery.sync(self._task(), delay=delay).killed else None

    def _last_pauses(self) -> list[float]:
        """Seconds from the last embedding to the end: writing alone."""
        return [pauses[-1] for pauses in self._writing]

    def _judge(self, kind: Kind, aim: Aim, kills: int) -> Verdict | None:
        """None if the index could not even be opened and synced."""
        queries = self._queries()
        fresh_path = self._space / "fresh.tarragon"
        verdict = None
        with Index.open(fresh_path, recipe=RECIPE, encoder=self._encoder) as fresh:
            fresh.sync(self._folder.path, progress=False)
            try:
                left = self._look(queries, set(stored_passages(fresh)))
                repaired = self._repair(fresh, queries)
                verdict = Verdict(kind, aim, kills, left, *repaired)
            except TarragonError:
                traceback.print_exc()
        shutil.rmtree(fresh_path)
        if verdict is None or not verdict.good:  # what this kill broke is not to count for the next ones too
            shutil.rmtree(self._index)
        self._settle()
        return verdict

    def _repair(self, fresh: Index, queries: Sequence[str]) -> tuple[Difference, int, int, int]:
        """Sync, and compare: what differs, ghosts, texts that one more sync embeds, documents still unfinished."""
        with Index.open(self._index, recipe=RECIPE, encoder=self._encoder) as index:
            index.sync(self._folder.path, max_delete=1.0, progress=False)
            difference = compare(index, fresh, queries)
            texts = self._folder.texts
            found = [hit for query in queries for hit in index.search(query, 10)]
            ghosts = sum(hit.text not in texts.get(hit.document_id, "") for hit in found)
            again = index.sync(self._folder.path, progress=False).chunks_embedded
            return difference, ghosts, again, index.status().unfinished

    def _queries(self) -> list[str]:
        """Sentences of files as they are and as they were."""
        now = self._folder.sentences()
        former = [line for text in self._versions[0].values() for line in text.splitlines() if line not in now]
        return self._chance.sample(now, min(QUERIES, len(now))) + former[:QUERIES]

    def _look(self, queries: Sequence[str], wanted: set[str]) -> Left:
        try:
            opened = Index.open(self._index, recipe=RECIPE, encoder=self._encoder, create=False)
        except IndexNotFound:
            return Left("no index", 0, False, 0, 0)
        with opened as index:
            stored = set(stored_passages(index))
            hits = [hit for query in queries for hit in index.search(query, 10)]
            unfinished = index.status().unfinished
        found: dict[str, set[str]] = {}
        for hit in hits:
            found.setdefault(hit.document_id, set()).add(hit.text)
        versions = {id_: [texts.get(id_, "") for texts in self._versions] for id_ in found}
        foreign = sum(not any(text in one for one in versions[id_]) for id_, texts in found.items() for text in texts)
        mixed = sum(
            not any(all(text in one for text in texts) for one in versions[id_]) for id_, texts in found.items()
        )
        state = "as wanted" if stored == wanted else "as before" if stored == self._stored_before else "in between"
        return Left(state, unfinished, bool(self._stored_before) and not hits, foreign, mixed)

    def _settle(self) -> None:
        """Bring the index up to date, in this process; one that refuses is counted and made anew."""
        try:
            self._sync_here()
        except TarragonError:
            traceback.print_exc()
            self.refused += 1
            shutil.rmtree(self._index)
            self._sync_here()

    def _sync_here(self) -> None:
        with Index.open(self._index, recipe=RECIPE, encoder=self._encoder) as index:
            index.sync(self._folder.path, max_delete=1.0, progress=False)
            self._stored_before = set(stored_passages(index))
        self._versions = [self._folder.texts]


def measure(
    kills: int,
    seed: int,
    space: Path,
    encoder: DenseEncoder,
    *,
    first: Sequence[Kind] = (),
    calibrations: int = CALIBRATIONS,
) -> dict[str, Any]:
    """Kill so many times. ``first`` says what kinds to begin with; chance decides the others."""
    verdicts: list[Verdict] = []
    with nursery() as forks:
        killer = Killer(space, forks, encoder, seed)
        killer.calibrate(calibrations)
        started = time.perf_counter()
        for number in range(kills):
            verdict = killer.kill(first[number] if number < len(first) else None)
            if verdict is None:
                killer.refused += 1
                continue
            verdicts.append(verdict)
            if not verdict.good:
                print(f"kill {number + 1}: {verdict}", file=sys.stderr)
    return {
        "benchmark": "kills",
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "kills": kills,
        "ended_before_the_kill": killer.ended_before,
        "refused": killer.refused,
        **_summary(verdicts),
    }


def _summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    differences = [verdict.difference for verdict in verdicts]
    lefts = [verdict.left for verdict in verdicts]
    return {
        "judged": len(verdicts),
        "kills_of_the_repair_too": sum(verdict.kills - 1 for verdict in verdicts),
        "kinds": dict(Counter(verdict.kind for verdict in verdicts)),
        "aims": dict(Counter(verdict.aim for verdict in verdicts)),
        "left": {
            "states": dict(Counter(left.state for left in lefts)),
            "with_unfinished_documents": sum(left.unfinished > 0 for left in lefts),
            "silent": sum(left.silent for left in lefts),
            "foreign_hits": sum(left.foreign for left in lefts),
            "documents_found_in_two_versions": sum(left.mixed for left in lefts),
        },
        "good": sum(verdict.good for verdict in verdicts),
        "lost": sum(difference.lost for difference in differences),
        "orphans": sum(difference.orphans for difference in differences),
        "payloads": sum(difference.payloads for difference in differences),
        "least_cosine": min((difference.least_cosine for difference in differences), default=1.0),
        "required_cosine": REQUIRED_COSINE,
        "ghosts": sum(verdict.ghosts for verdict in verdicts),
        "other_answers": {mode: sum(one.answers[mode] for one in differences) for mode in MODES},
        "other_answers_beyond_ties": {mode: sum(one.beyond_ties[mode] for one in differences) for mode in MODES},
        "embedded_again": sum(verdict.embedded_again for verdict in verdicts),
        "still_unfinished": sum(verdict.unfinished for verdict in verdicts),
        "chunks_compared": sum(difference.chunks for difference in differences),
    }


def render(result: Mapping[str, Any]) -> str:
    """What was found, what it was found in, and what the kills had left."""
    left = result["left"]
    rows = [
        ["indexes that cannot be synced any more", result["refused"]],
        ["chunks lost", result["lost"]],
        ["orphans: chunks that no document wants", result["orphans"]],
        ["ghosts: hits with a text that is gone", result["ghosts"]],
        ["other payloads", result["payloads"]],
        ["least cosine between vectors", f"{result['least_cosine']:.7f}"],
        *([f"queries answered otherwise, {mode}", count] for mode, count in result["other_answers"].items()),
        ["texts embedded by one more sync", result["embedded_again"]],
        ["documents still unfinished", result["still_unfinished"]],
    ]
    states = ", ".join(f"{state} {count}" for state, count in sorted(left["states"].items()))
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(result["kinds"].items()))
    aims = ", ".join(f"{aim} {count}" for aim, count in sorted(result["aims"].items()))
    return "\n".join(
        [
            f"{result['kills']} kills in {result['seconds']:.0f} s ({kinds}; {aims}), and "
            f"{result['kills_of_the_repair_too']} of the sync that would have repaired; "
            f"{result['ended_before_the_kill']} syncs ended first and do not count.",
            "",
            markdown_table(["after the next sync, against a fresh build", "all kills"], rows),
            "",
            f"{result['chunks_compared']} chunks compared. Left by the kill, in the store: {states}; "
            f"with unfinished documents {left['with_unfinished_documents']}. Searches before the repair: "
            f"{left['silent']} silent, {left['foreign_hits']} hits that were never written, "
            f"{left['documents_found_in_two_versions']} documents found in two versions at once.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a kill did harm."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description="Syncs killed at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    options = parser.parse_args(arguments)
    encoder = SentenceTransformerEncoder(device="cpu")
    with tempfile.TemporaryDirectory(prefix="tarragon-kills-") as folder:
        result = measure(options.kills, options.seed, Path(folder), encoder)
    publish(result, render(result), options.json)
    return 0 if result["good"] == result["kills"] and not result["refused"] else 1


if __name__ == "__main__":
    sys.exit(main())
