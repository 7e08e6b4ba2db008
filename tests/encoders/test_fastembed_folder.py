"""Folders with an ONNX: what is read of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model
from tiny_onnx import export_onnx

from tarragon.encoders.fastembed_dense import FastembedEncoder
from tarragon.encoders.onnx_folder import weight_files
from tarragon.errors import ModelNotFound


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(make_model(tmp_path_factory.mktemp("plain"), "bert"))


def test_weights_beside_the_onnx_count_and_other_files_do_not(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"... location model.onnx_data ...")
    for name in ("model.onnx_data", "model_int8.onnx", "README.md", "config.json"):
        (tmp_path / name).write_bytes(b"x")
    assert weight_files(model) == [model, tmp_path / "model.onnx_data"]


def without(*names: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return change


def broken(path: Path) -> None:
    (path / "model.onnx").write_bytes(b"no protobuf at all")


def foreign_module(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (path / "modules.json").write_text(json.dumps(modules))


def strange(name: str, **values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        settings = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**settings, **values}))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("model.onnx"), "has no model.onnx or onnx/model.onnx"),
        (without("tokenizer.json", "config.json"), "has no tokenizer.json, config.json"),
        (without("modules.json", "1_Pooling/config.json"), "1_Pooling/config.json with pooling_mode"),
        (lambda path: (path / "modules.json").write_text("{"), "no JSON"),
        (broken, "cannot load .*[Pp]rotobuf"),
        (foreign_module, "modules Dense"),
        (strange("1_Pooling/config.json", pooling_mode="max"), "pools by 'max'"),
        (strange("config_sentence_transformers.json", similarity_fn_name="euclidean"), "euclidean"),
        (strange("tokenizer_config.json", model_max_length=None), "maximum context length"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_that_is_no_such_model_is_refused_with_what_is_wrong(
    tmp_path: Path, folder: Path, change: Callable[[Path], Any], says: str
) -> None:
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    change(path)
    with pytest.raises(ModelNotFound, match=says):
        FastembedEncoder(str(path))


def test_settings_of_older_sentence_transformers_are_read(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    (path / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    assert FastembedEncoder(str(path)).identity["pooling"] == "cls"
