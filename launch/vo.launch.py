# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Visual odometry from a camera, or from a bag with `bag:=PATH`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from loftr_ros.config import load_settings

SHARE = Path(get_package_share_directory("loftr_ros"))

# name: (default, description)
ARGUMENTS = {
    "image": ("image", "Topic of the camera images (sensor_msgs/Image)."),
    "camera_info": ("camera_info", "Topic of the camera's calibration (sensor_msgs/CameraInfo)."),
    "depth": ("depth", "Topic of depth images aligned with the images, for scale: depth."),
    "mask": ("mask", "Topic of masks: black pixels are ignored."),
    "wheel_odom": ("wheel_odom", "Topic of another odometry that gives lengths, for scale: odometry."),
    "wheel_twist": ("wheel_twist", "Topic of speeds (geometry_msgs/TwistWithCovarianceStamped), for scale: odometry."),
    "odom": ("odom", "Topic of the odometry that is published."),
    "config": (str(SHARE / "config" / "vo.yaml"), "YAML file of parameters."),
    "matcher": ("", "tiny, outdoor, indoor, sift or orb; empty: as in the config file."),
    "weights": ("", "File of LoFTR weights; empty: as in the config file."),
    "device": ("", "auto, cpu or cuda; empty: as in the config file."),
    "scale": ("", "none, depth, odometry or camera_height; empty: as in the config file."),
    "camera_height": ("", "Metres of the camera above the ground; empty: as in the config file."),
    "extrinsics": ("", "Pose of the camera in base_link, [x, y, z, qx, qy, qz, qw]; empty: config file, else TF."),
    "camera_info_file": ("", "Calibration file instead of the camera_info topic."),
    "image_transport": ("", "raw or compressed; empty: as in the config file."),
    "frame_prefix": ("", "Put before the names of the frames (robot1/); empty: as in the config file."),
    "publish_tf": ("", "true or false: publish odom -> base_link; empty: as in the config file."),
    "autostart": ("", "true or false: configure and activate the node by itself; empty: as in the config file."),
    "viewer": ("", "Live view with rerun: spawn, serve, a rerun URL or a FILE.rrd; empty: as in the config file."),
    "use_sim_time": ("", "true or false: take the time from /clock; empty: as in the config file."),
    "rviz": ("false", "Open RViz with the package's layout."),
    "namespace": ("", "Namespace of the node and its topics."),
    "log_level": ("info", "debug, info, warn or error."),
    "bag": ("", "Bag, video or image folder to play instead of a camera (every frame is processed)."),
    "image_topic": ("", "With bag: its image topic, where it has several cameras."),
    "odometry": ("", "With bag and scale: odometry: TUM file of the wheels' way, or its topic in the bag."),
    "rate": ("0.0", "With bag: frames a second; 0: as fast as the odometry takes them."),
    "output": ("", "With bag: folder for trajectory, metrics, report and match pictures; empty: none."),
    "groundtruth": ("", "With bag: TUM trajectory to compare with; the errors (ATE, RPE) are printed."),
}
TOPICS = ("image", "camera_info", "depth", "mask", "wheel_odom", "wheel_twist", "odom")
TEXTS = ("matcher", "weights", "device", "scale", "camera_info_file", "image_transport", "frame_prefix", "viewer")
SWITCHES = ("publish_tf", "autostart", "use_sim_time")
OPTIONS = {
    "rate": "--rate",
    "output": "--output",
    "groundtruth": "--groundtruth",
    "camera_info_file": "--camera-info",
    "image_topic": "--image-topic",
    "odometry": "--odometry",
}

# x y z qx qy qz qw of an optical frame at the origin of a body frame (REP-103)
CAMERA_AT_BASE = (0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5)


def value_of(context, name):
    return LaunchConfiguration(name).perform(context)


def switch(context, name):
    text = value_of(context, name).lower()
    if text not in ("", "true", "false"):
        raise RuntimeError(f"{name} must be true or false, not '{text}'.")
    return text == "true"


def numbers(text, name, count):
    """So many numbers, with or without brackets and commas."""
    try:
        found = [float(number) for number in text.strip("[] ").replace(",", " ").split()]
    except ValueError:
        found = []
    if len(found) != count:
        raise RuntimeError(f"{name} must be {count} number{'s' if count > 1 else ''}, not '{text}'.")
    return found


def parameters(context):
    """The config file, with those arguments over it that were given."""
    over = {name: value_of(context, name) for name in TEXTS if value_of(context, name)}
    over.update({name: switch(context, name) for name in SWITCHES if value_of(context, name)})
    if value_of(context, "camera_height"):
        over["camera_height"] = numbers(value_of(context, "camera_height"), "camera_height", 1)[0]
    if extrinsics(context):
        over["extrinsics"] = extrinsics(context)
    if value_of(context, "bag"):
        over["reliable"] = True  # the player waits for the odometry: no frame may be dropped
    return [value_of(context, "config"), over]


def in_file(context, name, default):
    return load_settings(value_of(context, "config")).get(name, default)


def extrinsics(context):
    """The seven numbers of argument or config file; for a recording without them, the camera is where the base is."""
    text = value_of(context, "extrinsics")
    if text.strip("[] "):
        return numbers(text, "extrinsics", 7)
    found = in_file(context, "extrinsics", [])
    if found:
        return numbers(str(found), "extrinsics", 7)
    return list(CAMERA_AT_BASE) if value_of(context, "bag") else []


def launch_nodes(context):
    namespace = value_of(context, "namespace")
    remappings = [(name, value_of(context, name)) for name in TOPICS if value_of(context, name) != name]
    odometry = Node(
        package="loftr_ros",
        executable="vo_node",
        name="vo_node",
        namespace=namespace,
        output="screen",
        parameters=parameters(context),
        remappings=remappings,
        arguments=["--ros-args", "--log-level", f"vo_node:={value_of(context, 'log_level')}"],
    )
    # Without the node nothing else makes sense: its end, good or bad, ends the launch.
    actions = [odometry, shutdown_after(odometry, "the odometry node")]
    if value_of(context, "bag"):
        actions += playback(context, namespace, remappings)
    if switch(context, "rviz"):
        layout = str(SHARE / "config" / "vo.rviz")
        actions.append(Node(package="rviz2", executable="rviz2", namespace=namespace, arguments=["-d", layout]))
    return actions


def playback(context, namespace, remappings):
    """The player, whose end ends the launch."""
    arguments = [value_of(context, "bag")]
    for name, option in OPTIONS.items():
        if value_of(context, name):
            arguments += [option, value_of(context, name)]
    if (value_of(context, "scale") or in_file(context, "scale", "none")) == "depth":
        arguments.append("--depth")
    if switch(context, "use_sim_time"):
        arguments.append("--clock")
    arguments += ["--extrinsics", *(str(number) for number in extrinsics(context))]
    player = Node(
        package="loftr_ros",
        executable="player",
        namespace=namespace,
        output="screen",
        remappings=remappings,
        arguments=arguments,
    )
    said = []
    if extrinsics(context) == list(CAMERA_AT_BASE):
        said = [LogInfo(msg="No extrinsics other than the default are given: base_link is at the camera, x forward.")]
    return [*said, player, shutdown_after(player, "the player")]


def shutdown_after(action, name):
    """End the launch with the first process that ends: with 1, and a sentence, where that has failed."""

    def ended(event, context):
        code = event.returncode
        if code and not context.is_shutdown:
            raise RuntimeError(f"{name} has failed with {f'signal {-code}' if code < 0 else f'exit code {code}'}.")
        return EmitEvent(event=Shutdown(reason=f"{name} has ended"))

    return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended))


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=lambda context: launch_nodes(context))])
