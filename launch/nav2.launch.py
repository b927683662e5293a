# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Nav2 with visual odometry in place of wheel odometry: vo_node publishes odom -> base_link, Nav2 uses both.

Nav2 needs metres: give a scale (depth, odometry or camera_height). map -> odom comes from Nav2's localization or from
a SLAM node, never from here.
"""

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("loftr_ros"))
ARGUMENTS = {
    "map": ("", "YAML file of the map, for Nav2's map_server."),
    "params_file": ("", "Parameters of Nav2 (frames odom and base_link, topic odom); empty: those of nav2_bringup."),
    "scale": ("depth", "Where vo_node takes metres from: depth, odometry or camera_height."),
    "namespace": ("", "Namespace of all nodes."),
}


def launch_nav2(context):
    try:
        nav2 = Path(get_package_share_directory("nav2_bringup"))
    except PackageNotFoundError:
        raise RuntimeError("nav2_bringup is not installed: apt install ros-$ROS_DISTRO-nav2-bringup.") from None
    given = {name: LaunchConfiguration(name).perform(context) for name in ("map", "params_file", "namespace")}
    given["params_file"] = given["params_file"] or str(nav2 / "params" / "nav2_params.yaml")
    source = PythonLaunchDescriptionSource(str(nav2 / "launch" / "bringup_launch.py"))
    return [IncludeLaunchDescription(source, launch_arguments=given.items())]


def generate_launch_description():
    """All arguments of vo.launch.py may be given as well."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "vo.launch.py"))
    odometry = IncludeLaunchDescription(
        source, launch_arguments={"scale": LaunchConfiguration("scale"), "publish_tf": "true"}.items()
    )
    return LaunchDescription([*declared, OpaqueFunction(function=launch_nav2), odometry])
