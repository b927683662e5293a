# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Recorded parts of the network: what is recorded when, and what stands around a recording. GPUs: see test_gpu.py."""

from __future__ import annotations

import pytest
import torch
from support import lively, texture
from torch import nn

from loftr_ros.loftr import compiled, graphs
from loftr_ros.loftr.coarse_matching import CoarseMatches
from loftr_ros.loftr.folding import fold_batch_norms, pad_channels
from loftr_ros.loftr.fused import FusedEncoderLayer, suit_gpu
from loftr_ros.loftr.transformer import EncoderLayer, Transformer


class Recorder:
    """Stands in for a recording: results always lie in the same place, as those of a CUDA graph do."""

    made: list[int] = []

    def __init__(self, function, arguments) -> None:
        self._function = function
        self._results = graphs.mapped(function(*arguments), torch.clone)
        Recorder.made.append(sum(tensor.numel() for tensor in graphs.tensors_of(arguments)))

    def replay(self, arguments):
        for place, result in zip(graphs.tensors_of(self._results), graphs.tensors_of(self._function(*arguments))):
            place.copy_(result)
        return self._results


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(graphs, "_Recording", Recorder)
    Recorder.made = []
    return Recorder


def test_a_function_is_recorded_once_for_each_shape_and_its_results_stay(recorder):
    double = graphs.Graphed(lambda x, factor: (2 * x, factor * x))
    first, second = double(torch.ones(3), 3), double(torch.full((3,), 5.0), 3)
    assert [each.tolist() for each in first + second] == [[2] * 3, [3] * 3, [10] * 3, [15] * 3]
    double(torch.ones(4), 3)
    double(torch.ones(3), 4)
    double(torch.ones(3).double(), 3)
    assert len(recorder.made) == 4
    double(torch.ones(3), 3)
    assert len(recorder.made) == 4


def test_strides_matter_since_kernels_are_chosen_by_them(recorder):
    total = graphs.Graphed(lambda x: x.sum())
    assert total(torch.ones(2, 3)) == total(torch.ones(3, 2).T) == 6
    assert len(recorder.made) == 2


def test_only_the_latest_recordings_are_kept(recorder, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_GRAPHS", 2)
    double = graphs.Graphed(lambda x: 2 * x)
    for size in (1, 2, 1, 3, 1, 2):
        assert double(torch.ones(size)).tolist() == [2] * size
    assert recorder.made == [1, 2, 3, 2]  # 1 was used again before 3 came, so 2 had to go


@pytest.mark.parametrize(("count", "rows"), [(1, 256), (256, 256), (257, 512), (300, 512), (1000, 1024), (4800, 8192)])
def test_rows_are_repeated_up_to_a_power_of_two_and_cut_again(recorder, count, rows):
    seen = []

    def function(scale, matches):
        seen.append(len(matches.cell0))
        assert (matches.confidence[count:] == matches.confidence[count - 1]).all()
        return scale * matches.confidence, matches.cell0

    cells = torch.arange(count)
    matches = CoarseMatches(cells, cells, cells, torch.rand(count))
    scaled, cell0 = graphs.Graphed(function, rows=(1,))(2.0, matches)
    assert set(seen) == {rows}
    assert torch.equal(scaled, 2 * matches.confidence) and torch.equal(cell0, cells)


def test_nothing_to_do_is_not_recorded(recorder):
    assert graphs.Graphed(lambda x: 2 * x, rows=(0,))(torch.zeros(0, 3)).shape == (0, 3)
    assert recorder.made == []


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.bfloat16, True), (torch.float32, False)])
def test_kernels_are_searched_for_in_half_precision_only_and_while_recording(monkeypatch, dtype, wanted):
    searched = []

    class Watcher(Recorder):
        def __init__(self, function, arguments) -> None:
            searched.append(torch.backends.cudnn.benchmark)
            super().__init__(function, arguments)

    monkeypatch.setattr(graphs, "_Recording", Watcher)
    network = lively("tiny", 0)
    network.backbone.to(dtype)
    graphs.graph_parts(network)
    with torch.inference_mode():
        network.features(torch.rand(1, 1, 64, 64))
    assert searched == [wanted] and torch.backends.cudnn.benchmark is False


def test_where_recording_fails_the_function_runs_as_it_is(monkeypatch, caplog):
    def fails(function, arguments):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "_Recording", fails)
    double = graphs.Graphed(lambda x: 2 * x)
    for _ in range(2):
        assert double(torch.ones(2)).tolist() == [2, 2]
    assert len(caplog.records) == 1 and "operation not permitted" in caplog.records[0].getMessage()
    assert "and more" not in caplog.records[0].getMessage()


def test_a_lack_of_memory_is_for_others_to_deal_with(monkeypatch):
    def fails(function, arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(graphs, "_Recording", fails)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.Graphed(lambda x: 2 * x)(torch.ones(2))


@pytest.mark.parametrize(("size", "count"), [("tiny", 0), ("tiny", 40), ("tiny_wide", 0)])
def test_a_recorded_network_gives_the_same_matches_until_that_is_undone(recorder, size, count):
    network = lively(size, 0, gain=0.6)
    network.threshold, network.max_matches = 0.01, count
    images = [torch.from_numpy(texture(96, 128, seed))[None, None] / 255.0 for seed in (50, 51)]
    image = torch.cat(images, dim=3)  # the same pattern on both sides of one picture, and another beside it
    mask = torch.ones(1, *image.shape[2:], dtype=torch.bool)
    mask[:, :, :24] = False
    with torch.inference_mode():
        wanted = network(image, image.roll(16, dims=3), mask, mask)
        graphs.graph_parts(network)
        found = network(image, image.roll(16, dims=3), mask, mask)
        assert len(wanted.points1) > 30
        assert torch.equal(found.cell0, wanted.cell0)
        torch.testing.assert_close(found.points1, wanted.points1, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.deviation, wanted.deviation, rtol=1e-3, atol=1e-4)
        recorded = len(recorder.made)
        assert recorded >= len(compiled.parts(network)) - 1, "all but the dual softmax, which a CPU does in pieces"
        compiled.undo_compilation(network)
        network(image, image)
        assert len(recorder.made) == recorded
        assert not any(isinstance(each, graphs.Graphed) for m in network.modules() for each in vars(m).values())


def test_padded_channels_change_nothing():
    network = lively("outdoor", 0)
    fold_batch_norms(network.backbone)
    image = torch.from_numpy(texture(96, 128, 52))[None, None] / 255.0
    with torch.inference_mode():
        wanted = network.features(image)
        pad_channels(network.backbone)
        found = network.features(image)
    convolutions = [m for m in network.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert {m.out_channels % 8 for m in convolutions} == {0} and {m.in_channels for m in convolutions} >= {1, 200}
    assert [m.weight.shape[:2] for m in convolutions] == [(m.out_channels, m.in_channels) for m in convolutions]
    for a, b in zip(found, wanted):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dim", "heads"), [(64, 4), (256, 8)])
def test_a_fused_layer_answers_as_the_layer(dim, heads):
    torch.manual_seed(0)
    layer = EncoderLayer(dim, heads).eval()
    x, source = torch.randn(2, 70, dim), torch.randn(2, 50, dim)
    x_mask, source_mask = torch.rand(2, 70) > 0.3, torch.rand(2, 50) > 0.3
    with torch.inference_mode():
        fused = FusedEncoderLayer(layer)
        for given in ((x, x), (x, source), (x, source, x_mask, source_mask), (x, x, x_mask, x_mask)):
            wanted, found = layer(*given), fused(*given)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            assert (wanted - given[0]).abs().mean() > 0.1, "the layer does something"


def test_images_in_one_batch_give_the_same_tokens():
    torch.manual_seed(1)
    transformer = Transformer(64, 4, ("self", "cross") * 2).eval()
    tokens, masks = torch.randn(2, 1, 60, 64), torch.rand(2, 1, 60) > 0.3
    with torch.inference_mode():
        fewer = (tokens[0], tokens[1][:, :50])
        for given in ((*tokens, None, None), (*tokens, *masks), (*fewer, None, None), (*tokens, masks[0], None)):
            transformer.in_batches = False
            wanted = transformer.together(*given)
            transformer.in_batches = True
            for a, b in zip(transformer.together(*given), wanted):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", ["tiny", "outdoor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_for_a_gpu_finds_the_same(size, dtype):
    network = lively(size, 0, gain=0.6 if size == "tiny" else 0.4)
    network.threshold = 0.01
    fold_batch_norms(network.backbone)
    image = torch.from_numpy(texture(120, 160, 54))[None, None] / 255.0
    with torch.inference_mode():
        wanted = network(image, image.roll(16, dims=3))
        suit_gpu(network, dtype)
        found = network(image, image.roll(16, dims=3))
    assert found.points1.dtype == torch.float32 and len(wanted.cell0) > 50
    common = torch.isin(found.cell0, wanted.cell0).sum() / max(len(found.cell0), len(wanted.cell0))
    assert common == 1 if dtype == torch.float32 else common > 0.8
    if dtype == torch.float32:
        torch.testing.assert_close(found.points1, wanted.points1, rtol=0, atol=0.01)
    kept = {name: p.dtype for name, p in network.named_parameters()}
    single = ("refinement.", "match_proj.")
    assert {d for name, d in kept.items() if not name.startswith(single)} == {dtype}
    assert {d for name, d in kept.items() if name.startswith(single)} <= {torch.float32}
