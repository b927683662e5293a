# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Memory, precision, rate and compilation: what LoFTR makes of the machine that it runs on."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import is_one_sentence, lively, texture

from loftr_ros import cli
from loftr_ros.config import limits_of, settings
from loftr_ros.errors import ConfigError, ExhaustedError
from loftr_ros.loftr import CONFIGS, compiled
from loftr_ros.matching import load_matcher, loftr
from loftr_ros.matching.loftr import LoFTRMatcher, choose_precision
from loftr_ros.matching.resolution import side_for_rate


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    network = lively("tiny", 0, gain=0.6)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, str(path))
    return str(path)


def tiny(weights: str, **options) -> LoFTRMatcher:
    return load_matcher("tiny", weights=weights, device="cpu", threshold=0.01, **options)


def fail_above(limit: int, function):
    """`function`, but out of memory for images with more pixels than `limit`."""

    def limited(image, *arguments):
        if image.numel() > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return function(image, *arguments)

    return limited


def test_out_of_memory_halves_the_images(weights, caplog):
    matcher, image = tiny(weights), texture(240, 320, 30)
    matcher.network.extract = fail_above(10_000, matcher.network.extract)
    matches = matcher.match(image, image)
    assert matcher.max_side == 80 and len(matches) > 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "longer side of 80" in caplog.records[-1].getMessage()
    cells = np.stack([matches.index0 % 10, matches.index0 // 10], axis=1)  # keypoints are in original pixels
    np.testing.assert_allclose(matches.points0, (8.0 * cells + 0.5) * 4 - 0.5, atol=1e-9)


def test_out_of_memory_for_the_smallest_image_is_an_error(weights):
    matcher = tiny(weights)
    matcher.network.extract = fail_above(0, matcher.network.extract)
    with pytest.raises(ExhaustedError) as caught:
        matcher.extract(texture(96, 128, 31))
    assert is_one_sentence(str(caught.value)) and "on the CPU" in str(caught.value)


def on_a_small_gpu(matcher: LoFTRMatcher) -> LoFTRMatcher:
    """The matcher as if it ran on a GPU without any memory left."""
    matcher.device = torch.device("cuda")
    extract = matcher._extract

    def without_memory(image, zoom):
        if matcher.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return extract(image, zoom)

    matcher._extract = without_memory
    return matcher


def test_out_of_memory_on_the_gpu_goes_on_on_the_cpu_with_whole_images(weights, caplog):
    image = texture(240, 320, 38)
    wanted = tiny(weights).match(image, image)
    matcher = on_a_small_gpu(tiny(weights))
    found = matcher.match(image, image)
    assert matcher.device.type == "cpu" and matcher.max_side == 640 and len(wanted) > 100
    np.testing.assert_array_equal(found.points1, wanted.points1)
    sizes = [record.args[0] for record in caplog.records if record.args]
    assert sizes == [160, 80] and caplog.records[-1].getMessage().endswith("it runs on the CPU from now on.")


def test_out_of_memory_while_matching_in_pieces_leaves_the_gpu(weights):
    matcher, image = tiny(weights), texture(96, 128, 39)
    features, wanted = matcher.extract(image), matcher.match(image, image)
    matcher.device = torch.device("cuda")
    matcher._brought_here = lambda given: given  # there is no GPU to bring anything to
    plain = matcher._match

    def without_memory(*given):
        if matcher.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(*given)

    matcher._match = without_memory
    found = matcher.match_features(features, features)
    assert matcher.network.in_pieces and matcher.device.type == "cpu"
    np.testing.assert_array_equal(found.index0, wanted.index0)


def test_a_lack_of_memory_ends_what_only_saves_time(weights):
    """Recordings hold memory for each size of images."""
    matcher, image = tiny(weights), texture(240, 320, 42)
    matcher.network.features = matcher.network.features  # as a recording stands there
    matcher.network.extract = fail_above(10_000, matcher.network.extract)
    matcher.extract(image)
    assert "features" not in vars(matcher.network)


def test_the_network_to_look_inside_is_the_exact_one_on_the_cpu(weights):
    matcher = tiny(weights)
    assert matcher.on_cpu() is matcher
    exact, in_use = matcher.network, copy.deepcopy(matcher.network)
    matcher.device, matcher.precision = torch.device("cuda"), torch.float16
    matcher._exact, matcher.network = exact, in_use
    matcher.threshold = 0.3
    exact.factors, exact.refinement.short = torch.float16, None
    other = matcher.on_cpu()
    assert other.network is exact and other.threshold == 0.3
    assert (other.device.type, other.precision) == ("cpu", other._suitable("auto"))
    assert exact.factors == other.precision and exact.refinement.short == (other.precision != torch.float32)
    assert matcher.network is in_use and matcher.device.type == "cuda"


def test_features_from_the_gpu_are_brought_to_the_cpu(weights):
    matcher = tiny(weights)
    features = matcher.extract(texture(96, 128, 40))
    assert matcher._brought_here(features) is features
    elsewhere = replace(features, network=features.network.to(torch.device("meta")))
    assert elsewhere.network.tokens.device.type == "meta" and elsewhere.network.grid == features.network.grid
    moved = []
    object.__setattr__(elsewhere.network, "to", lambda device: moved.append(device) or features.network)
    assert matcher._brought_here(elsewhere).network is features.network and moved == [torch.device("cpu")]


def test_out_of_memory_may_be_told_to_stop(weights):
    matcher = on_a_small_gpu(tiny(weights, out_of_memory="stop"))
    with pytest.raises(ExhaustedError) as caught:
        matcher.extract(texture(96, 128, 41))
    assert is_one_sentence(str(caught.value)) and "out_of_memory" in str(caught.value)
    assert matcher.max_side == 640 and matcher.device.type == "cuda"


def test_other_errors_are_not_taken_for_a_lack_of_memory(weights):
    matcher = tiny(weights)

    def broken(*_):
        raise RuntimeError("shapes do not fit")

    matcher.network.extract = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        matcher.extract(texture(96, 128, 31))
    assert matcher.max_side == 640


def test_out_of_memory_while_matching_goes_on_in_pieces(weights, caplog):
    matcher, image = tiny(weights), texture(96, 128, 32)
    wanted = matcher.match(image, image)
    plain = matcher.network.coarse

    def limited(*features):
        if not matcher.network.in_pieces:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return plain(*features)

    matcher.network.coarse = limited
    found = matcher.match(image, image)
    assert matcher.network.in_pieces and len(caplog.records) == 1 and len(wanted) > 10
    np.testing.assert_array_equal(found.index0, wanted.index0)


def test_pieces_give_the_same_matches(weights):
    matcher, image = tiny(weights), texture(160, 200, 33)
    wanted = matcher.match(image, image)
    matcher.network.in_pieces = True
    matcher.network.windows_at_once = 37
    found = matcher.match(image, image)
    assert len(wanted) > 100
    np.testing.assert_array_equal(found.index0, wanted.index0)
    np.testing.assert_allclose(found.points1, wanted.points1, atol=1e-3)
    np.testing.assert_allclose(found.sigma, wanted.sigma, atol=1e-3)


def test_the_text_of_max_matches_tells_the_number_of_each_size():
    _, item = settings()["max_matches"]
    text = limits_of(item).text
    tiny = CONFIGS["tiny"]
    assert f"0: {tiny.most_matches} with `tiny` ({tiny.most_tracked} where" in text
    assert f"known, {tiny.most_new} for those of a new one)" in text
    assert "all with the other sizes." in text
    assert {name for name, config in CONFIGS.items() if config.most_matches} == {"tiny"}


def test_so_many_matches_are_kept_and_they_are_spread_over_the_image(weights):
    image = texture(160, 192, 33)
    every, some = (tiny(weights, max_matches=count).match(image, image) for count in (0, 60))
    assert len(every) > 150 and len(some) == 60
    place = {index: i for i, index in enumerate(every.index0)}
    same = [place[index] for index in some.index0]  # none that was not there before
    np.testing.assert_array_equal(some.confidence, every.confidence[same])
    # With fewer neighbours the second refinement is told a little less.
    np.testing.assert_allclose(some.points1, every.points1[same], atol=1.0)

    def blocks(matches) -> int:
        return len({(index // 24 // 2, index % 24 // 2) for index in matches.index0})

    most_confident = every[np.sort(np.argsort(-every.confidence)[:60])]
    assert blocks(some) == min(60, blocks(every)) > blocks(most_confident)


def test_known_points_are_kept_rather_than_others(weights):
    image = texture(160, 192, 33)
    matcher = tiny(weights, max_matches=60)
    every, some = tiny(weights).match(image, image), matcher.match(image, image)
    left_out = np.setdiff1d(every.index0, some.index0)
    features = matcher.extract(image)
    found = matcher.match_features(features, features, wanted=left_out[::2])
    assert len(found) == 60 and len(np.intersect1d(found.index0, left_out[::2])) > 40


def test_fewer_matches_suffice_where_enough_points_are_known_unless_their_number_was_chosen(weights, monkeypatch):
    monkeypatch.setitem(CONFIGS, "tiny", replace(CONFIGS["tiny"], most_matches=60, most_new=50, most_tracked=40))
    image = texture(160, 192, 33)
    known = tiny(weights).match(image, image).index0

    def count(matcher: LoFTRMatcher, wanted: np.ndarray | None) -> int:
        features = matcher.extract(image)
        return len(matcher.match_features(features, features, wanted=wanted))

    assert [count(tiny(weights), wanted) for wanted in (None, known[:19], known[:20])] == [60, 60, 40]
    assert [count(tiny(weights, max_matches=55), wanted) for wanted in (None, known[:20])] == [55, 55]

    def count_back(matcher: LoFTRMatcher) -> int:
        features = matcher.extract(image)
        matcher.match_features(features, features, wanted=known[:20])
        return len(matcher.match_back(features, features))

    assert [count_back(tiny(weights)), count_back(tiny(weights, max_matches=55))] == [50, 55]


def test_the_way_back_has_the_same_coarse_matches_without_finding_them_again():
    image0, image1 = texture(160, 192, 33), np.roll(texture(160, 192, 33), (3, 5), axis=(0, 1))
    matcher = load_matcher("tiny", device="cpu")
    computed, plain = [], matcher.network.coarse
    matcher.network.coarse = lambda *features: computed.append(1) or plain(*features)
    features0, features1 = matcher.extract(image0), matcher.extract(image1)
    there = matcher.match_features(features0, features1)
    back = matcher.match_back(features0, features1)
    assert len(computed) == 1 and len(back) == len(there) > 40
    np.testing.assert_array_equal(back.points0, np.stack([back.index0 % 24, back.index0 // 24], axis=1) * 8.0)
    assert (np.diff(back.index0) > 0).all()
    np.testing.assert_allclose(np.sort(back.confidence), np.sort(there.confidence))
    for found, motion in ((there, (5, 3)), (back, (-5, -3))):
        np.testing.assert_allclose(np.median(found.points1 - found.points0, axis=0), motion, atol=0.1)
    # After another pair they have to be found again.
    matcher.match_features(features1, features1)
    again = matcher.match_back(features0, features1)
    assert len(computed) == 3
    np.testing.assert_array_equal(again.points1, back.points1)
    # The way there is always gone anew: the threshold may have changed.
    matcher.threshold = 0.99
    assert len(matcher.match_features(features0, features1)) < len(there) and len(computed) == 4


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", "bfloat16"),
        ("flags : amx_bf16 amx_tile\n", "bfloat16"),
        ("Features : fp asimd bf16 i8mm\n", "bfloat16"),
        ("flags : fpu avx2 avx512f not_avx512_bf16\n", "float32"),
        (None, "float32"),
    ],
)
def test_precision_follows_the_processor(tmp_path, monkeypatch, flags, wanted):
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(flags)
    monkeypatch.setattr(loftr, "_CPU_INFO", info)
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, bears_half=True) == getattr(torch, wanted)
    assert choose_precision("auto", cpu) == torch.float32  # published sizes stay what they are
    assert choose_precision("float32", cpu, bears_half=True) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16


def test_bfloat16_finds_nearly_the_same():
    """With the bundled weights, whose matches mean something: the same cells, moved by little."""
    whole = texture(208, 272, 34)
    image0, image1 = whole[:192, :256].copy(), whole[8:200, 8:264].copy()
    matchers = [load_matcher("tiny", device="cpu", precision=p) for p in PRECISIONS]
    networks = [matcher.network for matcher in matchers]
    assert [(n.factors, n.refinement.short) for n in networks] == [(torch.float32, False), (torch.bfloat16, True)]
    exact, short = (matcher.match(image0, image1) for matcher in matchers)
    common, of_exact, of_short = np.intersect1d(exact.index0, short.index0, return_indices=True)
    assert len(exact) > 200 and len(common) > 0.9 * len(exact) and len(short) < 1.1 * len(exact)
    distance = np.linalg.norm(exact.points1[of_exact] - short.points1[of_short], axis=1)
    assert 0 < np.median(distance) < 0.1 and np.quantile(distance, 0.95) < 0.5


PRECISIONS = ("float32", "bfloat16")


def test_float16_needs_a_gpu():
    with pytest.raises(ConfigError) as caught:
        load_matcher("tiny", device="cpu", precision="float16")
    assert is_one_sentence(str(caught.value)) and "float16" in str(caught.value)


@pytest.mark.parametrize(
    ("rate", "side", "reached"),
    [(1, 640, 8.0), (8, 640, 8.0), (10, 544, 80 / 7.225), (20, 384, 80 / 3.6), (1000, 160, 128.0)],
)
def test_a_rate_chooses_the_largest_side_that_reaches_it(rate, side, reached):
    """A machine that needs 0.1 s for 640 pixels, and time in proportion to the area; a fifth is left for others."""
    found = side_for_rate(640, rate, lambda s: 0.1 * (round(s / 640, 3) ** 2))
    assert found[0] == side and found[1] == pytest.approx(reached, rel=0.01)


def test_a_rate_out_of_reach_takes_the_smallest_side(weights):
    assert side_for_rate(100, 50.0, lambda side: 1.0) == (100, 0.8)
    matcher, image = tiny(weights, target_rate=1000.0), texture(240, 320, 35)
    features = matcher.extract(image)
    assert matcher.max_side == 136 and features.network.grid == (13, 17)


def test_a_low_rate_leaves_the_size(weights, caplog):
    matcher, image = tiny(weights, target_rate=0.01), texture(120, 160, 36)
    assert matcher.extract(image).network.grid == (15, 20)
    assert "160" in caplog.records[0].getMessage() and len(caplog.records) == 1
    matcher.extract(image)  # it is timed once
    assert len(caplog.records) == 1


def test_without_a_compiler_the_network_runs_as_it_is(weights, caplog, monkeypatch):
    def compiler(function, mode):
        def broken(*_):
            raise RuntimeError("no compiler was found\nand more")

        return broken

    monkeypatch.setattr(compiled.torch, "compile", compiler)
    image = texture(96, 128, 37)
    wanted = tiny(weights).match(image, image)
    matcher = tiny(weights, compile=True)
    for _ in range(2):
        found = matcher.match(image, image)
        np.testing.assert_array_equal(found.points1, wanted.points1)
    assert len(caplog.records) == 2  # backbone and transformer, once each
    assert caplog.records[0].getMessage().endswith("no compiler was found")


def test_replayed_results_are_copied(monkeypatch):
    """CUDA graphs write every result to the same place."""
    place = torch.zeros(3)
    monkeypatch.setattr(compiled.torch, "compile", lambda function, mode: function)
    function = compiled.Compiled(lambda x: (place.copy_(x), None), torch.device("cuda"))
    first, second = function(torch.ones(3)), function(torch.full((3,), 2.0))
    assert first[0].tolist() == [1, 1, 1] and second[0].tolist() == [2, 2, 2] and first[1] is None


def test_openblas_leaves_the_cores_to_torch(weights):
    from threadpoolctl import threadpool_info

    threads = torch.get_num_threads()
    tiny(weights)
    counts = [library["num_threads"] for library in threadpool_info() if library["internal_api"] == "openblas"]
    assert set(counts) <= {1} and torch.get_num_threads() == threads


@pytest.mark.parametrize(("capability", "wanted"), [((6, 1), "float32"), ((7, 2), "float16"), ((9, 0), "float16")])
def test_precision_follows_the_gpu(monkeypatch, capability, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda")
    assert choose_precision("auto", gpu, bears_half=True) == getattr(torch, wanted)
    assert choose_precision("auto", gpu) == torch.float32
    assert choose_precision("float16", gpu) == torch.float16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks libgomp, the threads of torch on Linux")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_that_wait_spin_briefly_unless_the_user_says_how_long(given, wanted):
    environment = {k: v for k, v in cli.environment().items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    said = subprocess.run(
        [sys.executable, "-c", "import loftr_ros, torch"],
        env=environment | given | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch has no libgomp")
    assert f"GOMP_SPINCOUNT = '{wanted}'" in said
