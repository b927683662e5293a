"""Visual odometry for ROS 2 from LoFTR matches: camera frames in; poses, TF and match pictures out."""

__version__ = "0.1.0"
