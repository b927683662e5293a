# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
from glob import glob

from setuptools import find_packages, setup

package_name = "loftr_ros"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(include=[package_name, f"{package_name}.*"]),
    package_data={package_name: ["weights/*.safetensors", "weights/README.md"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        (f"share/{package_name}/config", glob("config/*")),
    ],
    install_requires=["setuptools"],
    extras_require={"export": ["onnx", "onnxscript", "onnxruntime"]},
    zip_safe=False,
    maintainer="loftr_ros maintainers",
    maintainer_email="maintainers@loftr-ros.example",
    description="Visual odometry from LoFTR matches: camera frames in; odometry, TF and match pictures out.",
    license="Apache-2.0",
    python_requires=">=3.10",
    entry_points={
        "console_scripts": [
            "vo_node = loftr_ros.ros.node:entry_point",
            "player = loftr_ros.ros.player:entry_point",
            "soak = loftr_ros.ros.soak:entry_point",
            "replay = loftr_ros.evaluation.replay:entry_point",
            "benchmark = loftr_ros.ros.benchmark:entry_point",
            "export = loftr_ros.export:entry_point",
            "render_room = loftr_ros.evaluation.render_room:entry_point",
            "match = loftr_ros.uses.match:entry_point",
            "retrieve = loftr_ros.uses.retrieve:entry_point",
            "attention = loftr_ros.uses.attention:entry_point",
            "reconstruct = loftr_ros.uses.reconstruct:entry_point",
            "compare = loftr_ros.uses.compare:entry_point",
            "download_weights = loftr_ros.download_weights:entry_point",
        ]
    },
)
