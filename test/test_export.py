# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""ONNX files of a network: they do what torch does, or the command says that they do not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from support import is_one_sentence

from loftr_ros import cli, export
from loftr_ros.loftr import load_network

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are optional",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "files"
    assert cli.run(export.main, [str(folder), "--dynamic"]) == 0
    return folder


@needs_onnx
@pytest.mark.parametrize("size", [(160, 120), (200, 248)])
def test_the_files_equal_torch_at_sizes_they_were_not_made_with(files, size):
    width, height = size
    network = load_network("tiny")
    images = export.check_images(size)
    features = [export._run(files / "extract.onnx", [image]) for image in images]
    points0, points1, confidence, deviation, cell0 = export._run(
        files / "match.onnx", [array for pair in features for array in pair]
    )
    with torch.no_grad():
        wanted = network(*(torch.from_numpy(image) for image in images))
    assert len(wanted.cell0) > 100
    np.testing.assert_array_equal(cell0, wanted.cell0)
    np.testing.assert_array_equal(points0, np.stack([cell0 % (width // 8), cell0 // (width // 8)], axis=1) * 8)
    np.testing.assert_allclose(points1, wanted.points1, atol=0.02)
    np.testing.assert_allclose(confidence, wanted.confidence, atol=1e-3)
    np.testing.assert_allclose(deviation, wanted.deviation, atol=1e-2)


@needs_onnx
def test_the_command_writes_for_one_size_and_says_how_equal_the_files_are(tmp_path, capsys):
    assert cli.run(export.main, [str(tmp_path), "--size", "160x96", "--threshold", "0.4"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("160x96: features differ by") and is_one_sentence(text.strip())
    assert {path.name for path in tmp_path.iterdir()} == {"extract.onnx", "match.onnx"}
    with pytest.raises(Exception, match="(?i)invalid dimensions|dimension"):
        export._run(tmp_path / "extract.onnx", [np.zeros((1, 1, 96, 168), np.float32)])


@needs_onnx
def test_files_of_another_network_are_found_out(files):
    network = load_network("tiny", threshold=0.9)
    with pytest.raises(export.ExportError, match="do not do what torch does at 160x120"):
        export.check(network, files, (160, 120))


def test_missing_packages_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if "onnx" in name else object())
    assert cli.run(export.main, [str(tmp_path)]) == 2
    message = capsys.readouterr().err.strip()
    assert is_one_sentence(message) and message.endswith("pip install onnx onnxscript onnxruntime.")


@pytest.mark.parametrize("size", ["633x480", "16x16", "big"])
def test_sizes_that_cannot_be_are_refused(tmp_path, size, capsys):
    with pytest.raises(SystemExit) as caught:
        export.main([str(tmp_path), "--size", size])
    assert caught.value.code == 2 and size in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.run(export.main, [str(tmp_path / "file"), "--size", "64x64"]) == 2
    assert "cannot be made" in capsys.readouterr().err
