"""The command line, in this process for what it says and in another for how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from handbook import write

from tarragon.cli import main
from tarragon.reports import IndexStatus, SyncReport
from tarragon.testing import WordEncoder
from tarragon.types import Hit


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, *arguments, "--json")
    assert out.count("\n") == 1
    return code, json.loads(out)


def names(kind: type) -> set[str]:
    return set(kind.__dataclass_fields__)  # type: ignore[attr-defined]


def test_json_has_the_same_names_as_python(capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.tarragon"
    code, report = run_json(capsys, "sync", index, handbook)
    assert (code, report["documents_added"], report["chunks_embedded"]) == (0, 3, 6)
    assert set(report) == names(SyncReport)
    code, found = run_json(capsys, "search", index, "rotate the signing key", "-k", 2)
    assert code == 0
    assert [set(hit) for hit in found["hits"]] == [names(Hit)] * 2
    assert found["hits"][0]["document_id"] == "keys.md"
    assert found["hits"][0]["heading"] == ["Signing keys", "Rotate the signing key"]
    code, status = run_json(capsys, "status", index)
    assert (code, status["documents"], status["chunks"]) == (0, 3, 6)
    assert set(status) == names(IndexStatus)
    assert run_json(capsys, "optimize", index)[0] == 0


def test_the_view_for_people_tells_counts_places_and_failures(
    capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    index = tmp_path / "i.tarragon"
    write(handbook / "[odd] name.txt", b"\xfa\xfb")
    code, out, _ = run(capsys, "sync", index, handbook)
    assert code == 3, "some documents failed"
    assert "3 added, 0 changed, 0 unchanged, 0 deleted, 1 failed" in out
    assert "[odd] name.txt: " in out
    code, out, _ = run(capsys, "search", index, "rotate the signing key", "-k", "1")
    assert code == 0
    assert "keys.md[" in out
    assert "Signing keys > Rotate the signing key" in out
    assert "keyctl rotate --stage" in out
    _, out, _ = run(capsys, "status", index)
    assert "3 (1 failed, 0 unfinished)" in out
    assert "[odd] name.txt: " in out
    _, out, _ = run(capsys, "search", index, "zzzz", "--mode", "lexical")
    assert "nothing found" in out


def test_options_reach_the_index(capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.tarragon"
    _, report = run_json(
        capsys, "sync", index, handbook, "--include", "*.md", "--exclude", "back*", "--chunk-tokens", 32
    )
    assert (report["documents_added"], report["files_skipped"]) == (1, {"excluded": 2})
    _, status = run_json(capsys, "status", index)
    assert status["recipe"]["chunk_tokens"] == 32
    assert run_json(capsys, "sync", index, handbook, "--chunk-tokens", 32)[0] == 0
    code, answer = run_json(capsys, "sync", index, handbook, "--chunk-tokens", 64)
    assert (code, answer["error"]["type"]) == (1, "RecipeMismatch")
    _, found = run_json(capsys, "search", index, "key", "--filter", '{"lang": "en"}')
    assert found["hits"] == []
    _, report = run_json(capsys, "sync", index, handbook / "keys.md", "--max-delete", 0.7)
    assert report["documents_deleted"] == 2
    _, report = run_json(capsys, "sync", index, handbook / "backup.md", "--no-prune")
    assert (report["documents_added"], report["documents_deleted"]) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["search", "none.tarragon", "x"], "IndexNotFound", "none.tarragon"),
        (["status", "none.tarragon"], "IndexNotFound", "tarragon sync"),
        (["optimize", "none.tarragon"], "IndexNotFound", "none.tarragon"),
        (["sync", "i.tarragon", "nowhere"], "SourceNotFound", "nowhere"),
        (["sync", ".", "handbook"], "NotAnIndex", "."),
        (["search", "made.tarragon", "x", "--filter", "{"], "InvalidFilter", "not JSON"),
        (["search", "made.tarragon", "x", "--filter", '{"a": {"$x": 1}}'], "InvalidFilter", "$x"),
        (["search", "made.tarragon", "x", "-k", "-2"], "InvalidInput", "k=-2"),
    ],
)
def test_errors_are_one_line_on_stderr_and_one_object_with_json(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    handbook: Path,
    arguments: list[str],
    kind: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "sync", "made.tarragon", handbook)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("tarragon: ")
    assert says in err
    code, answer = run_json(capsys, *arguments)
    assert (code, answer["error"]["type"]) == (1, kind)
    assert says in answer["error"]["message"]


def test_wrong_usage_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["frobnicate"], ["search", "index"], ["sync", "i", "s", "--language", "klingon"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("tarragon 0.")


SLOW = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    import tarragon.index
    from tarragon.testing import WordEncoder
    class Slow(WordEncoder):
        def encode_documents(self, inputs):
            print("encoding", file=sys.stderr, flush=True)
            time.sleep(0.2)
            return super().encode_documents(inputs)
    tarragon.session.load_encoder = lambda recipe, device: Slow()
    import tarragon.syncing
    tarragon.syncing.WINDOW_CHARACTERS = 100
    from tarragon.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sync_goes_on_where_it_stopped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sent: signal.Signals
) -> None:
    import textwrap

    for number in range(40):
        write(
            tmp_path / "docs" / f"{number:02}.md", f"# Page {number}\n\nThis page speaks of matter number {number}.\n"
        )
    index = tmp_path / "i.tarragon"
    command = [sys.executable, "-c", textwrap.dedent(SLOW), "sync", str(index), str(tmp_path / "docs"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(5):
            while "encoding" not in process.stderr.readline():
                assert process.poll() is None
        time.sleep(0.05)
        os.kill(process.pid, sent)
        out, err = process.communicate(timeout=30)
    if sent is signal.SIGINT:
        assert process.returncode == 130
        assert json.loads(out)["error"]["type"] == "Interrupted"
        assert "again" in err
    _, status = run_json(capsys, "status", index)
    assert 0 < status["documents"] < 40
    assert run_json(capsys, "search", index, "matter number 1")[0] == 0
    code, report = run_json(capsys, "sync", index, tmp_path / "docs")
    assert code == 0
    assert report["documents_unchanged"] >= status["documents"]
    assert report["documents_unchanged"] + report["documents_added"] + report["documents_changed"] == 40
    assert run_json(capsys, "status", index)[1]["documents"] == 40
