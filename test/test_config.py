# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The configuration: defaults, refusals that name the setting, and the forms of its files."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import is_one_sentence

from loftr_ros.config import (
    GROUP_NAMES,
    Config,
    config_from_dict,
    config_to_dict,
    default_of,
    limits_of,
    load_config,
    settings,
)
from loftr_ros.errors import ConfigError

ALL = [pytest.param(key, item, id=key) for key, (_, item) in settings().items()]


def refusal(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(values)
    assert is_one_sentence(str(caught.value))
    return str(caught.value)


def test_defaults_are_valid_and_equal_an_empty_file(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == Config() == config_from_dict({})
    assert Config().matcher.name == "tiny" and Config().scale.source == "none"


def test_every_field_has_one_key():
    fields = [item for group in GROUP_NAMES for item in dataclasses.fields(group)]
    assert len(settings()) == len(fields), "two settings share a key"
    assert [f.name for f in dataclasses.fields(Config)] == list(GROUP_NAMES.values())
    assert config_from_dict(config_to_dict(Config())) == Config()


@pytest.mark.parametrize(("key", "item"), ALL)
def test_every_setting_has_a_text_and_refuses_a_wrong_type(key, item):
    assert limits_of(item).text.endswith(".")
    other = 3 if isinstance(default_of(item), str) else "text"
    for wrong in (None, {"a": 1}, [None] * 7, other):
        assert refusal({key: wrong}).startswith(f"{key} must be")


@pytest.mark.parametrize(("key", "item"), ALL)
def test_every_range_is_enforced(key, item):
    limits, default = limits_of(item), default_of(item)
    outside = []
    if limits.minimum is not None:
        outside.append((type(default)(limits.minimum - 1), "at least"))
    if limits.maximum is not None:
        outside.append((type(default)(limits.maximum + 1), "at most"))
    if limits.choices:
        outside.append(("nonsense", "one of"))
    if limits.lengths:
        outside.append(([0.0] * (max(limits.lengths) + 1), "numbers"))
    for value, words in outside:
        assert key in (message := refusal({key: value})) and words in message


def test_limits_themselves_are_allowed():
    for key, (group, item) in settings().items():
        for bound in (limits_of(item).minimum, limits_of(item).maximum):
            if bound is not None:
                value = type(default_of(item))(bound)
                config = config_from_dict({key: value})
                assert getattr(getattr(config, group), item.name) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    assert "keyframe_flow must be finite" in refusal({"keyframe_flow": value})
    assert "extrinsics must be finite" in refusal({"extrinsics": [value] * 7})


def test_numbers_too_large_for_a_float_are_refused():
    assert "max_depth" in refusal({"max_depth": 10**400})
    assert "extrinsics" in refusal({"extrinsics": [10**400] * 7})


@pytest.mark.parametrize("key", ["min_matches", "keyframe_flow"])
def test_booleans_are_not_numbers(key):
    assert key in refusal({key: True})
    assert "extrinsics" in refusal({"extrinsics": [True] * 7})


def test_whole_numbers_serve_as_floats_and_lists_as_tuples():
    config = config_from_dict({"max_depth": 20, "extrinsics": [1, 2, 3, 0, 0, 0, 1]})
    assert isinstance(config.scale.max_depth_m, float) and config.scale.max_depth_m == 20.0
    assert config.frames.extrinsics == (1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("min_match", "min_matches"), ("macher", "matcher"), ("trheshold", "threshold")]
)
def test_unknown_keys_name_the_nearest_known_one(wrong, nearest):
    assert refusal({wrong: 40}) == f"There is no setting '{wrong}'; did you mean '{nearest}'?"


@given(st.one_of(st.text(), st.integers()).filter(lambda key: key not in settings()))
def test_any_unknown_key_is_refused(key):
    with pytest.raises(ConfigError, match="There is no setting"):
        config_from_dict({key: 1})


def test_camera_height_must_be_given_for_its_scale():
    assert "camera_height must be greater than 0" in refusal({"scale": "camera_height"})
    assert config_from_dict({"scale": "camera_height", "camera_height": 1.5}).scale.camera_height_m == 1.5


@pytest.mark.parametrize(
    "text",
    [
        "matcher: sift\nratio: 0.7\nmin_matches: 50\n",
        "/**:\n  ros__parameters:\n    use_sim_time: true\n    matcher: sift\n    ratio: 0.7\n    min_matches: 50\n",
        "vo_node:\n  ros__parameters: {matcher: sift, ratio: 0.7, min_matches: 50}\n",
        "/robot:\n  vo_node:\n    ros__parameters: {matcher: sift, ratio: 0.7, min_matches: 50}\n",
    ],
    ids=["plain", "ros wildcard", "ros node", "ros namespace"],
)
def test_yaml_forms(tmp_path, text):
    (tmp_path / "file.yaml").write_text(text)
    config = load_config(tmp_path / "file.yaml")
    assert (config.matcher.name, config.matcher.ratio, config.odometry.min_matches) == ("sift", 0.7, 50)


@pytest.mark.parametrize(
    "content",
    [
        b"matcher: [",
        b"- 1\n- 2\n",
        b"just text",
        b"\xff\xfe\x00",
        b"matcher:\n",
        b"matcher: 3\n",
        b"5: 6\n",
        b"a: b\n",
        b"matcher: sift\n? [1, 2]\n: 3\n",
        b"3",
    ],
)
def test_broken_files_give_one_sentence(tmp_path, content):
    (tmp_path / "file.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "file.yaml")
    assert is_one_sentence(str(caught.value))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_the_shipped_file_is_valid():
    from pathlib import Path

    path = Path(__file__).parent.parent / "config" / "vo.yaml"
    assert load_config(path).matcher.name == "tiny"


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().matcher.name = "orb"  # type: ignore[misc]
