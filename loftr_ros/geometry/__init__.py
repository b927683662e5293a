"""Cameras, rigid motions and two-view geometry. numpy and OpenCV only."""
