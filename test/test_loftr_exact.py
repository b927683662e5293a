# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The fast paths give the answers of the plain ones."""

from __future__ import annotations

import copy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import lively, texture

from loftr_ros.loftr import CONFIGS, ImageFeatures, LoFTR, coarse_matching, linear
from loftr_ros.loftr.coarse_matching import match_cells, nearest, select
from loftr_ros.loftr.fine_matching import expectation, gather_windows
from loftr_ros.loftr.folding import fold_batch_norms
from loftr_ros.loftr.linear import project
from loftr_ros.loftr.transformer import Transformer, linear_attention

TEMPERATURE = 0.1


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def related_tokens(count0: int, count1: int, batch: int = 1, spread: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of which some are alike, some alike to several, and some to none."""
    generator = torch.Generator().manual_seed(count0 * 1000 + count1)
    tokens1 = spread * torch.randn(batch, count1, 64, generator=generator)
    origin = torch.randint(0, count1, (count0,), generator=generator)
    noise = torch.randn(batch, count0, 64, generator=generator)
    return tokens1[:, origin] + spread * torch.linspace(0, 1.5, count0)[None, :, None] * noise, tokens1


def same(found, wanted, least: int) -> None:
    assert len(wanted.cell0) >= least, "a test without matches proves nothing"
    for name in ("batch", "cell0", "cell1"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    torch.testing.assert_close(found.confidence, wanted.confidence, atol=1e-5, rtol=1e-4)


def whole(tokens0, tokens1, grid0, grid1, threshold, border, mask0=None, mask1=None):
    """By the matrix of all pairs, in double precision."""
    tokens0, tokens1 = tokens0.double(), tokens1.double()
    return select(nearest(tokens0, tokens1, TEMPERATURE, grid0, grid1, border, mask0, mask1), threshold)


@pytest.mark.parametrize("tile", [20_000, 10**9], ids=["many tiles", "one"])
@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5])
@pytest.mark.parametrize(("grid0", "grid1"), [((24, 32), (24, 32)), ((13, 7), (31, 5)), ((26, 10), (9, 13))])
def test_the_streamed_dual_softmax_finds_the_same(monkeypatch, grid0, grid1, threshold, tile):
    monkeypatch.setitem(coarse_matching._TILE, "cpu", tile)
    tokens = related_tokens(grid0[0] * grid0[1], grid1[0] * grid1[1])
    found = match_cells(*tokens, TEMPERATURE, grid0, grid1, threshold, 0)
    same(found, whole(*tokens, grid0, grid1, threshold, 0), least=3)


def test_the_streamed_dual_softmax_with_border_masks_and_batch():
    grid0, grid1 = (20, 24), (18, 30)
    tokens = related_tokens(480, 540, batch=3)
    mask0, mask1 = torch.rand(3, 480) > 0.3, torch.rand(3, 540) > 0.2
    found = match_cells(*tokens, TEMPERATURE, grid0, grid1, 0.2, 2, mask0, mask1)
    same(found, whole(*tokens, grid0, grid1, 0.2, 2, mask0, mask1), least=50)
    assert set(found.batch.tolist()) == {0, 1, 2}


def test_short_factors_with_masks_batch_and_a_block_to_fill(monkeypatch):
    monkeypatch.setitem(coarse_matching._TILE, "cpu", 20_000)
    tokens, grid0, grid1 = related_tokens(480, 539, batch=3), (20, 24), (49, 11)
    generator = torch.Generator().manual_seed(3)
    mask0, mask1 = torch.rand(3, 480, generator=generator) > 0.3, torch.rand(3, 539, generator=generator) > 0.2
    wanted = whole(*tokens, grid0, grid1, 0.2, 1, mask0, mask1)
    found = match_cells(*tokens, TEMPERATURE, grid0, grid1, 0.2, 1, mask0, mask1, factors=torch.bfloat16)
    exact, short = (
        {(int(b), int(i), int(j)): float(p) for b, i, j, p in zip(m.batch, m.cell0, m.cell1, m.confidence)}
        for m in (wanted, found)
    )
    assert len(exact) > 100 and len(exact.keys() & short.keys()) > 0.97 * max(len(exact), len(short))
    assert max(abs(short[pair] - exact[pair]) for pair in exact.keys() & short.keys()) < 0.03


def test_short_factors_lose_little_of_what_all_cells_have_in_common(monkeypatch):
    """Which is most of a product in a trained network, and more than bfloat16 has digits for."""
    grid = (40, 48)
    alike = 2.5 * torch.randn(64, generator=torch.Generator().manual_seed(0)).abs()
    tokens = [each + alike for each in related_tokens(1920, 1920)]
    assert coarse_matching.similarity(*tokens, TEMPERATURE).mean() > 50, "natural units"
    dtypes = (torch.float32, torch.bfloat16)
    exact, short = (match_cells(*tokens, TEMPERATURE, grid, grid, 0.2, 0, factors=dtype) for dtype in dtypes)

    def off(found) -> float:
        """Root mean square of the difference in probability, of pairs that both have: nearly all."""
        wanted, other = (
            {(int(i), int(j)): float(p) for i, j, p in zip(m.cell0, m.cell1, m.confidence)} for m in (exact, found)
        )
        both = wanted.keys() & other.keys()
        assert len(both) > 0.97 * max(len(wanted), len(other)) and len(both) > 150
        return float(np.sqrt(np.mean([(wanted[pair] - other[pair]) ** 2 for pair in both])))

    def as_they_are(tokens0, tokens1, shift, dtype):
        return F.pad(tokens0, (0, 1), value=float(shift)).to(dtype), F.pad(tokens1, (0, 1), value=1.0).to(dtype)

    monkeypatch.setattr(coarse_matching, "_shortened", as_they_are)
    plain = match_cells(*tokens, TEMPERATURE, grid, grid, 0.2, 0, factors=torch.bfloat16)
    assert 0 < off(short) < min(0.006, 0.5 * off(plain))


def test_an_image_that_is_ignored_altogether_matches_nothing():
    tokens = related_tokens(48, 48)
    nothing = torch.zeros(1, 48, dtype=torch.bool)
    assert len(match_cells(*tokens, TEMPERATURE, (6, 8), (6, 8), 0.2, 0, nothing, ~nothing).cell0) == 0


def test_of_equal_neighbours_the_first_is_taken():
    """Two equal cells share their probability: 1/2 along the row, 1 along the column."""
    tokens0, tokens1 = 4 * torch.eye(4)[None], 4 * torch.eye(4)[None]
    tokens1[:, 3] = tokens1[:, 1]
    found = match_cells(tokens0, tokens1, TEMPERATURE, (2, 2), (2, 2), 0.2, 0)
    same(found, whole(tokens0, tokens1, (2, 2), (2, 2), 0.2, 0), least=3)
    assert found.cell1.tolist() == [0, 1, 2] and found.confidence[1] == pytest.approx(0.5, abs=1e-3)


def test_scores_beyond_single_precision_take_the_whole_matrix(monkeypatch):
    """One row far below the others: its exponentials vanish beside theirs."""
    tokens0, tokens1 = related_tokens(192, 192, spread=4.0)
    tokens0 = torch.cat([tokens0[:, :96], tokens0[:, 96:] * 0.01], dim=1)
    calls = []
    monkeypatch.setattr(coarse_matching, "select", lambda *a, **k: calls.append(1) or select(*a, **k))
    found = match_cells(tokens0, tokens1, TEMPERATURE, (12, 16), (12, 16), 0.2, 0)
    assert calls == [1]
    same(found, whole(tokens0, tokens1, (12, 16), (12, 16), 0.2, 0), least=20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cells_are_compared_through_the_projection(dtype):
    """In single precision, whatever the tokens come in; in a network without one as they are."""
    network = lively("tiny", 0).eval()
    tokens0, tokens1 = (tokens.to(dtype) for tokens in related_tokens(48, 48, spread=2.0))
    grid = (6, 8)
    features = [ImageFeatures(tokens, torch.empty(0), grid) for tokens in (tokens0, tokens1)]
    weights = network.match_proj.weight
    assert weights.shape == (48, 64)
    projected = [tokens.float() @ weights.T for tokens in (tokens0, tokens1)]
    with torch.inference_mode():
        found = network.match_cells(*features, tokens0, tokens1)
    same(found, match_cells(*projected, TEMPERATURE, grid, grid, network.threshold, network.config.border), least=5)
    wide = LoFTR(CONFIGS["tiny_wide"])
    assert wide.match_proj is None and torch.equal(wide.compared(tokens0), tokens0.float())


def test_folded_batch_norms_give_the_same_features():
    network = lively("tiny", 3)
    image = torch.from_numpy(texture(120, 168, 3)).float()[None, None] / 255.0
    wanted = network.features(image)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded.backbone)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    for a, b in zip(folded.features(image), wanted):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("mkl", [False, True])
@pytest.mark.parametrize("shape", [(7, 64), (1, 700, 64), (60, 25, 64)])
def test_projections_equal_linear_layers(shape, mkl, monkeypatch):
    monkeypatch.setattr(linear, "mkl_suffices", lambda: mkl)
    x, weight, bias = torch.randn(shape), torch.randn(48, 64), torch.randn(48)
    torch.testing.assert_close(project(x, weight, bias), F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(project(x, weight), F.linear(x, weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("capability", "has_mkl", "convolved"),
    [("AVX2", True, 0), ("AVX2", False, 1), ("AVX512", True, 1), ("DEFAULT", False, 1)],
)
def test_large_projections_go_to_the_faster_library(capability, has_mkl, convolved, monkeypatch):
    conv2d = Mock(wraps=F.conv2d)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(linear, "mkl_suffices", linear.mkl_suffices.__wrapped__)
    monkeypatch.setattr(F, "conv2d", conv2d)
    for rows in (700, 70):  # few are not worth it
        project(torch.randn(rows, 64), torch.randn(48, 64))
        assert conv2d.call_count == convolved


@pytest.mark.parametrize("shape", [(1, 4, 8), (2, 4, 8), (2, 3, 32), (40, 1, 64)])
def test_attention_equals_the_sum_over_all_pairs(shape):
    """Equation 7 as it is written, one query at a time; ignored keys have no part, ignored queries get 0."""
    batch, heads, width = shape
    query, key, value = (3 * torch.randn(batch, n, heads, width) for n in (9, 11, 11))
    query_mask, key_mask = torch.rand(batch, 9) > 0.3, torch.rand(batch, 11) > 0.3
    similar = torch.einsum("blhd,bshd->blsh", F.elu(query) + 1, F.elu(key) + 1)
    for q_mask, k_mask in ((None, None), (query_mask, key_mask)):
        weights = similar if k_mask is None else similar * k_mask[:, None, :, None]
        wanted = torch.einsum("blsh,bshd->blhd", weights, value) / (weights.sum(dim=2)[..., None] + 1e-6)
        if q_mask is not None:
            wanted = wanted * q_mask[:, :, None, None]
        torch.testing.assert_close(linear_attention(query, key, value, q_mask, k_mask), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_a_center_layer_is_a_cross_layer_of_which_the_middle_is_kept(masked):
    torch.manual_seed(4)
    transformer = Transformer(16, 2, ("self", "center")).eval()
    tokens0, tokens1 = torch.randn(30, 25, 16), torch.randn(30, 25, 16)
    mask0, mask1 = (torch.rand(2, 30, 25) > 0.3) if masked else (None, None)
    before0, before1 = transformer.alone(tokens0, mask0), transformer.alone(tokens1, mask1)
    assert transformer.leading_self_layers == 1
    layer = transformer.layers[1]
    found0, found1 = transformer.together(before0, before1, mask0, mask1)
    torch.testing.assert_close(found1, layer(before1, before0, mask1, mask0))
    torch.testing.assert_close(found0, layer(before0, before1, mask0, mask1)[:, 12:13])
    for a, b in zip(expectation(found0, found1), expectation(layer(before0, before1, mask0, mask1), found1)):
        torch.testing.assert_close(a, b)
    assert Transformer(16, 2, ("center",)).leading_self_layers == 0


def test_windows_equal_those_of_the_padded_features():
    """At every cell, also where the window leaves the image."""
    fine = torch.randn(2, 24, 32, 5)
    unfolded = F.unfold(fine.permute(0, 3, 1, 2), 5, stride=4, padding=2)  # [B, D * 25, L]
    wanted = unfolded.view(2, 5, 25, 48).permute(0, 3, 2, 1)
    batch, cell = torch.arange(2).repeat_interleave(48), torch.arange(48).repeat(2)
    assert torch.equal(gather_windows(fine, (6, 8), batch, cell, 5), wanted.flatten(0, 1))
