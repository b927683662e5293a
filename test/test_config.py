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
    MatcherConfig,
    OdometryConfig,
    config_from_dict,
    default_of,
    group_from_dict,
    limits_of,
    load_config,
)
from loftr_ros.errors import ConfigError

ALL = [(group, item) for group in GROUP_NAMES for item in dataclasses.fields(group)]
IDS = [f"{GROUP_NAMES[group]}.{item.name}" for group, item in ALL]


def refusal(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(values)
    assert is_one_sentence(str(caught.value))
    return str(caught.value)


def test_defaults_are_valid_and_equal_an_empty_file(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == Config() == config_from_dict({})
    assert Config().matcher.name == "tiny" and Config().scale.source == "none"


def test_groups_are_the_fields_of_config():
    assert [f.name for f in dataclasses.fields(Config)] == list(GROUP_NAMES.values())


@pytest.mark.parametrize(("group", "item"), ALL, ids=IDS)
def test_every_setting_has_a_text_and_refuses_a_wrong_type(group, item):
    assert limits_of(item).text.endswith(".")
    name = f"{GROUP_NAMES[group]}.{item.name}"
    for wrong in (None, {"a": 1}, [None] * 7, "text" if not isinstance(default_of(item), str) else 3):
        assert name in refusal({GROUP_NAMES[group]: {item.name: wrong}})


@pytest.mark.parametrize(("group", "item"), ALL, ids=IDS)
def test_every_range_is_enforced(group, item):
    limits, default = limits_of(item), default_of(item)
    name = f"{GROUP_NAMES[group]}.{item.name}"
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
        message = refusal({GROUP_NAMES[group]: {item.name: value}})
        assert name in message and words in message


def test_limits_themselves_are_allowed():
    for group, item in ALL:
        for bound in (limits_of(item).minimum, limits_of(item).maximum):
            if bound is not None:
                value = type(default_of(item))(bound)
                assert getattr(group_from_dict(group, {item.name: value}), item.name) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    assert "odometry.keyframe_flow" in refusal({"odometry": {"keyframe_flow": value}})
    assert "frames.extrinsics" in refusal({"frames": {"extrinsics": [value] * 7}})


def test_numbers_too_large_for_a_float_are_refused():
    assert "scale.max_depth_m" in refusal({"scale": {"max_depth_m": 10**400}})


def test_booleans_are_not_numbers():
    assert "odometry.min_matches" in refusal({"odometry": {"min_matches": True}})
    assert "odometry.keyframe_flow" in refusal({"odometry": {"keyframe_flow": True}})
    assert "frames.extrinsics" in refusal({"frames": {"extrinsics": [True] * 7}})


def test_whole_numbers_serve_as_floats_and_lists_as_tuples():
    config = config_from_dict({"scale": {"max_depth_m": 20}, "frames": {"extrinsics": [1, 2, 3, 0, 0, 0, 1]}})
    assert isinstance(config.scale.max_depth_m, float) and config.scale.max_depth_m == 20.0
    assert config.frames.extrinsics == (1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0)


def test_unknown_keys_name_the_nearest_known_one():
    assert "did you mean odometry.min_matches?" in refusal({"odometry": {"min_match": 40}})
    assert "did you mean matcher?" in refusal({"macher": {}})
    with pytest.raises(ConfigError, match="matcher.trheshold; did you mean matcher.threshold"):
        group_from_dict(MatcherConfig, {"trheshold": 0.5})


@given(st.text(min_size=1).filter(lambda key: key not in {f.name for f in dataclasses.fields(OdometryConfig)}))
def test_any_unknown_key_is_refused(key):
    with pytest.raises(ConfigError, match="There is no setting"):
        group_from_dict(OdometryConfig, {key: 1})


def test_camera_height_must_be_given_for_its_scale():
    assert "scale.camera_height_m" in refusal({"scale": {"source": "camera_height"}})
    assert config_from_dict({"scale": {"source": "camera_height", "camera_height_m": 1.5}}).scale.camera_height_m == 1.5


@pytest.mark.parametrize(
    "text",
    [
        "matcher: {name: sift, ratio: 0.7}\nodometry: {min_matches: 50}\n",
        "/**:\n  ros__parameters:\n    use_sim_time: true\n    matcher: {name: sift, ratio: 0.7}\n"
        "    odometry:\n      min_matches: 50\n",
        "vo_node:\n  ros__parameters:\n    matcher: {name: sift, ratio: 0.7}\n    odometry: {min_matches: 50}\n",
    ],
    ids=["plain", "ros wildcard", "ros node"],
)
def test_yaml_forms(tmp_path, text):
    (tmp_path / "file.yaml").write_text(text)
    config = load_config(tmp_path / "file.yaml")
    assert (config.matcher.name, config.matcher.ratio, config.odometry.min_matches) == ("sift", 0.7, 50)


@pytest.mark.parametrize(
    "content",
    [b"matcher: [", b"- 1\n- 2\n", b"just text", b"\xff\xfe\x00", b"matcher:\n", b"matcher: 3\n", b"5: {}\n", b"a: b\n"],
)
def test_broken_files_give_one_sentence(tmp_path, content):
    (tmp_path / "file.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "file.yaml")
    assert is_one_sentence(str(caught.value))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().matcher.name = "orb"  # type: ignore[misc]
