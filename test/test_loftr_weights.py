# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Files of weights: all forms load strictly, bad ones give one sentence, downloads resume and are checked."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import camera_info_yaml, is_one_sentence

from loftr_ros import cli, download_weights
from loftr_ros.errors import WeightsError
from loftr_ros.evaluation import replay
from loftr_ros.loftr import CONFIGS, LoFTR, load_network, weights
from loftr_ros.loftr.weights import Download, download, read_state_dict


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return LoFTR(CONFIGS["tiny"]).state_dict()


def same(network: LoFTR, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in content.items()}, str(path))
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w.safetensors", "w"])
def test_every_form_of_file_loads(tmp_path, state, name):
    network = load_network("tiny", write(tmp_path, name, state), threshold=0.3)
    assert same(network, state) and not network.training and network.threshold == 0.3


@pytest.mark.parametrize("prefix", ["matcher.", "module.", "model.", "module.matcher."])
def test_official_layout_with_prefixes_loads(tmp_path, state, prefix):
    content = {"epoch": 29, "state_dict": {prefix + key: value for key, value in state.items()}}
    assert same(load_network("tiny", write(tmp_path, "w.ckpt", content)), state)


def test_step_counters_may_be_missing(tmp_path, state):
    fewer = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(fewer) < len(state)
    assert same(load_network("tiny", write(tmp_path, "w.pth", fewer)), state)


def test_other_precisions_load_as_float32(tmp_path, state):
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    network = load_network("tiny", write(tmp_path, "w.safetensors", half))
    assert all(p.dtype == torch.float32 for p in network.parameters())


def refusal(path: Path, size: str = "tiny") -> str:
    with pytest.raises(WeightsError) as caught:
        load_network(size, path)
    assert is_one_sentence(str(caught.value)) and str(path) in str(caught.value)
    return str(caught.value)


def without(state: dict, key: str) -> dict:
    return {k: v for k, v in state.items() if k != key}


def test_a_missing_key_is_named(tmp_path, state):
    message = refusal(write(tmp_path, "w.pth", without(state, "backbone.conv1.weight")))
    assert "lack 1 of its tensors, 'backbone.conv1.weight' first" in message


def test_an_extra_key_is_named(tmp_path, state):
    message = refusal(write(tmp_path, "w.pth", {**state, "backbone.extra": torch.zeros(1)}))
    assert "hold 1 tensors that it does not have, 'backbone.extra' first" in message


def test_a_wrong_shape_is_named(tmp_path, state):
    message = refusal(write(tmp_path, "w.pth", {**state, "backbone.bn1.weight": torch.zeros(7)}))
    assert "'backbone.bn1.weight' is (7,), not (16,)" in message


def test_weights_of_another_size_are_refused(tmp_path, state):
    assert "for LoFTR 'outdoor'" in refusal(write(tmp_path, "w.safetensors", state), "outdoor")


@pytest.mark.parametrize("name", ["w.ckpt", "w.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, state, name, share):
    path = write(tmp_path, name, state)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refusal(path)


@pytest.mark.parametrize("name", ["w.ckpt", "w.safetensors", "w.pth", "w.txt"])
@pytest.mark.parametrize(
    "content", [b"this is no network\n" * 20, b"", b"\x80", b"\xff" * 1000, b"PK\x03\x04"]
)
def test_files_of_another_kind_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 3}, {"state_dict": {"a": "b"}}, torch.zeros(3), {"state_dict": 4}]
)
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    assert "state dict" in refusal(write(tmp_path, "w.pth", content))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_pickle_is_never_run(tmp_path, state, writer):
    mark, path = tmp_path / "executed", tmp_path / "w.ckpt"
    if writer == "torch":
        torch.save({"state_dict": state, "bomb": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    assert "holds more than tensors" in refusal(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())
    assert mark.exists(), "the bomb is a dud, so this test proves nothing"


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere.ckpt")
    refusal(tmp_path)


def test_an_unknown_size_is_refused():
    with pytest.raises(WeightsError, match="no LoFTR size 'huge'; there are outdoor, indoor, tiny"):
        load_network("huge")


def test_weights_that_were_not_downloaded_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LOFTR_ROS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "none")
    with pytest.raises(WeightsError, match="download_weights outdoor"):
        load_network("outdoor")
    with pytest.raises(WeightsError, match="There are no weights for 'tiny'"):
        load_network("tiny")


def test_downloaded_weights_are_found(tmp_path, monkeypatch, state):
    monkeypatch.setenv("LOFTR_ROS_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(weights.DOWNLOADS, "tiny", Download("http://nowhere/tiny.ckpt", ""))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "none")
    write(tmp_path, "tiny.ckpt", state)
    assert same(load_network("tiny"), state)


# -- through the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path) -> Path:
    import cv2
    import numpy as np

    folder = tmp_path / "sequence"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "0.png"), np.zeros((240, 320), np.uint8))
    (folder / "camera_info.yaml").write_text(camera_info_yaml())
    return folder


def arguments(images: Path, file: Path) -> list[str]:
    return [
        str(images),
        "--output",
        str(images / "out"),
        "--matcher",
        "outdoor",
        "--weights",
        str(file),
        "--quiet",
    ]


@pytest.mark.parametrize("kind", ["missing key", "extra key", "text", "truncated", "nowhere"])
def test_the_command_exits_with_2_and_one_sentence(tmp_path, images, capsys, state, kind):
    path = tmp_path / "w.ckpt"
    if kind == "missing key":
        write(tmp_path, "w.ckpt", without(state, "backbone.conv1.weight"))
    elif kind == "extra key":
        write(tmp_path, "w.ckpt", {**state, "extra": torch.zeros(1)})
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        write(tmp_path, "w.ckpt", state)
        path.write_bytes(path.read_bytes()[:5000])
    assert cli.run(replay.main, arguments(images, path)) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and is_one_sentence(message) and str(path) in message


def test_a_fresh_process_exits_with_2_and_one_sentence(tmp_path, images):
    (tmp_path / "w.ckpt").write_text("no weights")
    command = [sys.executable, "-m", "loftr_ros.evaluation.replay", *arguments(images, tmp_path / "w.ckpt")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(weights.__file__).parents[2], timeout=120
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and is_one_sentence(done.stderr.strip())


# -- downloads -------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 1200


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's attributes say how well."""

    def do_GET(self):  # noqa: N802
        self.server.requests.append(self.headers.get("Range"))
        if self.server.status:
            self.send_error(self.server.status)
            return
        start = 0
        if self.headers.get("Range") and self.server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.stop_at])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ranges, server.stop_at, server.status, server.requests = True, None, 0, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/model.ckpt"
    monkeypatch.setattr(weights, "DOWNLOADS", {"outdoor": Download(url, hashlib.sha256(CONTENT).hexdigest())})
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_download(server, tmp_path):
    seen = []
    path = download("outdoor", tmp_path / "new", progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "model.ckpt" and path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and [p.name for p in path.parent.iterdir()] == [
        "model.ckpt"
    ]


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    download("outdoor", tmp_path)
    assert download("outdoor", tmp_path).read_bytes() == CONTENT and server.requests == [None]


def test_a_broken_download_is_kept_and_resumed(server, tmp_path):
    server.stop_at = 100_000
    with pytest.raises(WeightsError, match="broke off.*Run it again to resume"):
        download("outdoor", tmp_path)
    assert (tmp_path / "model.ckpt.part").read_bytes() == CONTENT[:100_000] and not (
        tmp_path / "model.ckpt"
    ).exists()
    server.stop_at = None
    assert download("outdoor", tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_a_complete_part_needs_nothing_more(server, tmp_path):
    (tmp_path / "model.ckpt.part").write_bytes(CONTENT)
    assert download("outdoor", tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "model.ckpt.part").write_bytes(b"x" * 5000)
    assert download("outdoor", tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_deletes_the_file(server, tmp_path, monkeypatch):
    url = weights.DOWNLOADS["outdoor"].url
    monkeypatch.setattr(weights, "DOWNLOADS", {"outdoor": Download(url, "0" * 64)})
    with pytest.raises(WeightsError, match="another SHA-256 than expected; it was deleted"):
        download("outdoor", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 500])
def test_errors_of_the_server_give_one_sentence(server, tmp_path, status):
    server.status = status
    with pytest.raises(WeightsError, match="No download from") as caught:
        download("outdoor", tmp_path)
    assert is_one_sentence(str(caught.value))


def test_no_network_gives_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    table = {"outdoor": Download("http://127.0.0.1:9/model.ckpt", "0" * 64)}
    monkeypatch.setattr(weights, "DOWNLOADS", table)
    monkeypatch.setattr(download_weights, "DOWNLOADS", table)
    monkeypatch.setenv("LOFTR_ROS_WEIGHTS", str(tmp_path))
    assert cli.run(download_weights.main, ["outdoor"]) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(message) == 1 and "is there a network?" in message[0]


def test_an_unknown_download_is_refused():
    with pytest.raises(WeightsError, match="no download called 'tiny'; there are outdoor, indoor"):
        download("tiny")


def test_the_command_downloads_what_it_is_asked_for(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download_weights, "DOWNLOADS", weights.DOWNLOADS)
    monkeypatch.setenv("LOFTR_ROS_WEIGHTS", str(tmp_path))
    assert cli.run(download_weights.main, []) == 0
    assert (tmp_path / "model.ckpt").read_bytes() == CONTENT
    assert str(tmp_path / "model.ckpt") in capsys.readouterr().out


def test_the_table_of_downloads_is_complete():
    for source in weights.DOWNLOADS.values():
        assert (
            source.url.startswith("https://")
            and len(source.sha256) == 64
            and source.file_name.endswith(".ckpt")
        )


def test_read_state_dict_strips_only_prefixes(tmp_path):
    content = {"matcher.a.matcher.b": torch.zeros(1), "plain": torch.ones(1)}
    assert set(read_state_dict(write(tmp_path, "w.pth", content))) == {"a.matcher.b", "plain"}
