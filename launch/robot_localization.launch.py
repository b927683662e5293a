# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Visual odometry fused by robot_localization: the filter publishes odom -> base_link, vo_node does not.

Other sources (wheels, IMU) go into a copy of config/ekf.yaml, given as ekf_config:=FILE.
"""

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("loftr_ros"))


def launch_filter(context):
    try:
        get_package_share_directory("robot_localization")
    except PackageNotFoundError:
        raise RuntimeError(
            "robot_localization is not installed: apt install ros-$ROS_DISTRO-robot-localization."
        ) from None
    return [
        Node(
            package="robot_localization",
            executable="ekf_node",
            name="ekf_filter_node",
            namespace=LaunchConfiguration("namespace").perform(context),
            output="screen",
            parameters=[LaunchConfiguration("ekf_config").perform(context)],
        )
    ]


def generate_launch_description():
    """All arguments of vo.launch.py may be given as well."""
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "vo.launch.py"))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "ekf_config",
                default_value=str(SHARE / "config" / "ekf.yaml"),
                description="Parameters of robot_localization.",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of both nodes."),
            OpaqueFunction(function=launch_filter),
            IncludeLaunchDescription(source, launch_arguments={"publish_tf": "false"}.items()),
        ]
    )
