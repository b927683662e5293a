# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Visual odometry in metres from an RGB-D camera: vo.launch.py with `scale: depth` and a RealSense's topics.

The depth image must be aligned with the colour image (realsense2_camera: align_depth.enable:=true).
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("loftr_ros"))
ARGUMENTS = {
    "image": ("/camera/camera/color/image_raw", "Topic of the colour images."),
    "camera_info": ("/camera/camera/color/camera_info", "Topic of their calibration."),
    "depth": ("/camera/camera/aligned_depth_to_color/image_raw", "Topic of depth images aligned with them."),
}


def generate_launch_description():
    """All other arguments of vo.launch.py may be given as well."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "vo.launch.py"))
    odometry = IncludeLaunchDescription(source, launch_arguments={**given, "scale": "depth"}.items())
    return LaunchDescription([*declared, odometry])
