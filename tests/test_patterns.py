from __future__ import annotations

import pathspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon.errors import InvalidInput
from tarragon.patterns import matcher

PARTS = st.sampled_from(["a", "b", "a.md", ".a", "..", "*", "a*", "", " ", "[a]", "ä", "a b", "a$", "#a", "!a", "a\\"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
ENDS = st.sampled_from(["", "/", "!", " ", "\n"])
PATTERNS = st.tuples(st.sampled_from(["", "/", "!", "./"]), PATHS, ENDS).map("".join)
IDS = st.tuples(st.sampled_from(["", "/", "./"]), PATHS, ENDS).map("".join).filter(bool)


@settings(max_examples=1_000, deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=4), st.lists(IDS, min_size=1, max_size=8))
def test_a_pattern_means_what_it_means_in_a_gitignore(patterns: list[str], ids: list[str]) -> None:
    try:
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError:
        with pytest.raises(InvalidInput):
            matcher(patterns)
        return
    match = matcher(patterns)
    assert match is not None
    assert {id_: match(id_) for id_ in ids} == {id_: spec.match_file(id_) for id_ in ids}


def test_documents_that_are_named_are_not_tried_with_each_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    original = pathspec.GitIgnoreSpec.match_file

    def counting(self: pathspec.GitIgnoreSpec, file: str) -> bool:
        tried.append(len(self.patterns))
        return original(self, file)

    monkeypatch.setattr(pathspec.GitIgnoreSpec, "match_file", counting)
    match = matcher([f"/{number}/page.md" for number in range(500)])
    assert match is not None
    assert [number for number in range(480, 520) if match(f"{number}/page.md")] == list(range(480, 500))
    assert sum(tried) == 0, f"{sum(tried)} patterns were tried for 40 documents"


def test_no_patterns_mean_all_and_a_wrong_one_is_named() -> None:
    assert matcher([]) is None
    with pytest.raises(InvalidInput, match="'!'"):
        matcher(["a.md", "!"])
    with pytest.raises(InvalidInput, match="7 is not a str"):
        matcher(["a.md", 7])  # type: ignore[list-item]
