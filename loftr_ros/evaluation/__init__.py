"""Recordings in, trajectories and their errors out; without ROS."""
