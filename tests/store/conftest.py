"""The homes of an index, one after another, for the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import HOMES, LASTING, Home, contract

from tarragon.protocols import Catalog, OpenVersion


@pytest.fixture(params=sorted(HOMES))
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with HOMES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=sorted(LASTING))
def lasting_home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with LASTING[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    """An index that does not exist yet."""
    opened = home.open()
    yield opened
    opened.close()


@pytest.fixture
def version(catalog: Catalog) -> Iterator[OpenVersion]:
    """An empty version that serves, open for writing."""
    with catalog.writing():
        catalog.create(contract(), serve=True)
        with catalog.reading() as opened:
            assert opened is not None
            yield opened
