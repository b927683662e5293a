# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Settings as ROS parameters: one for each key of loftr_ros.config, with its description, range and default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from loftr_ros.config import (
    Config,
    Limits,
    config_from_dict,
    config_to_dict,
    default_of,
    limits_of,
    settings,
    unknown,
)
from loftr_ros.errors import ConfigError, brief

_LARGEST_INT = 2**31 - 1
_ROS_OWN = ("use_sim_time", "qos_overrides", "start_type_description_service")


def declare(node: Node) -> Config:
    """Declare every setting on the node and return their values. Raises ConfigError for a bad or unknown one."""
    for name in node._parameter_overrides:  # no public way tells what was given
        if name not in settings() and not name.startswith(_ROS_OWN):
            raise ConfigError(unknown(name, list(settings())))
    values = {}
    for key, (_, item) in settings().items():
        default = default_of(item)
        declared = list(default) if isinstance(default, tuple) else default
        try:
            parameter = node.declare_parameter(key, declared, _descriptor(item))
        except Exception as error:  # rclpy has several kinds for a wrong type or a value out of range
            raise ConfigError(f"The parameter {key} is refused: {brief(error)}.") from None
        # An empty list in a parameter file arrives as no value at all.
        values[key] = default if parameter.value is None else _plain(parameter.value)
    return config_from_dict(values)


def _descriptor(item: dataclasses.Field[Any]) -> ParameterDescriptor:
    limits, default = limits_of(item), default_of(item)
    descriptor = ParameterDescriptor(description=limits.text, read_only=limits.read_only)
    if limits.choices:
        descriptor.additional_constraints = "One of: " + ", ".join(limits.choices)
    if isinstance(default, tuple):
        # rclpy takes an empty list for a list of bytes; the type is checked by config.py instead.
        descriptor.dynamic_typing = True
        descriptor.additional_constraints = "A list of " + " or ".join(str(n) for n in limits.lengths) + " numbers"
    elif isinstance(default, float):
        descriptor.floating_point_range = _range(limits)
    elif isinstance(default, int) and not isinstance(default, bool):
        descriptor.integer_range = _integer_range(limits)
    return descriptor


def _range(limits: Limits) -> list[FloatingPointRange]:
    if limits.minimum is None or limits.maximum is None:
        return []
    return [FloatingPointRange(from_value=float(limits.minimum), to_value=float(limits.maximum), step=0.0)]


def _integer_range(limits: Limits) -> list[IntegerRange]:
    if limits.minimum is None:
        return []
    largest = _LARGEST_INT if limits.maximum is None else int(limits.maximum)
    return [IntegerRange(from_value=int(limits.minimum), to_value=largest, step=1)]


def _plain(value: Any) -> Any:
    """Parameter arrays as tuples of Python numbers."""
    return value if isinstance(value, (str, bool, int, float)) else tuple(value)


def on_change(current: Callable[[], Config], apply: Callable[[Config], None]) -> Callable[..., SetParametersResult]:
    """A callback for changes at run time: refuses bad values with a sentence, and applies good ones.

    Args:
        current: the present settings.
        apply: takes the new settings.
    """

    def callback(parameters: list[Parameter]) -> SetParametersResult:
        known = settings()
        unset = [p.name for p in parameters if p.name in known and p.value is None]
        if unset:
            return SetParametersResult(successful=False, reason=f"{unset[0]} must have a value.")
        changes = {p.name: _plain(p.value) for p in parameters if p.name in known}
        try:
            changed = config_from_dict({**config_to_dict(current()), **changes})
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        apply(changed)
        return SetParametersResult(successful=True)

    return callback
