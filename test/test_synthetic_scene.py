# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The ray-caster against analytic geometry."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loftr_ros.errors import InputError
from loftr_ros.synthetic import Quad, inverse_depth_at, render, transfer_pixels
from loftr_ros.synthetic.scene import edges_of, inverse_depths_of
from loftr_ros.synthetic.textures import Swatch, Textures, procedural

SIZE = (160, 120)
INTRINSICS = np.array([[130.0, 0, 80.3], [0, 128.0, 59.1], [0, 0, 1]])


def make_pose(euler_deg=(0, 0, 0), position=(0, 0, 0)):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", euler_deg, degrees=True).as_matrix()
    pose[:3, 3] = position
    return pose


def facing_quad(depth=2.0, half=3.0, texture=None):
    """A square before a camera at the origin."""
    texture = np.full((64, 64), 100, np.uint8) if texture is None else texture
    return Quad(
        np.array([-half, -half, depth]), np.array([2 * half, 0, 0]), np.array([0, 2 * half, 0]), texture
    )


def grid_points(step=8):
    columns, rows = np.meshgrid(np.arange(0, SIZE[0], step), np.arange(0, SIZE[1], step))
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)


def smooth_noise(height, width):
    noise = np.random.default_rng(0).uniform(0, 255, (height, width)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 2.0)


def test_texels_land_on_pixels():
    texture = smooth_noise(SIZE[1], SIZE[0])
    intrinsics = np.array([[100.0, 0, 0], [0, 100.0, 0], [0, 0, 1]])
    edge_u, edge_v = np.array([SIZE[0] / 50, 0, 0]), np.array([0, SIZE[1] / 50, 0])
    quad = Quad(np.array([-0.01, -0.01, 2.0]), edge_u, edge_v, texture)  # half a pixel is 0.01 m at 2 m
    image, depth = render([quad], intrinsics, SIZE, np.eye(4))
    assert np.abs(image - texture).max() < 0.5
    assert np.allclose(depth, 2.0)


def test_depth_of_a_slanted_plane_is_analytic():
    pose = make_pose((12, -25, 30), (0.3, -0.2, 0.1))
    _, depth = render([facing_quad(2.0, 20.0)], INTRINSICS, SIZE, pose)
    points = grid_points(1)
    rays = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(INTRINSICS).T
    expected = (2.0 - pose[2, 3]) / (rays @ pose[:3, :3].T)[:, 2]
    assert np.allclose(depth.ravel(), expected, rtol=1e-5)


def test_dots_appear_where_they_are():
    texture = np.zeros((512, 512), np.float32)
    texels = np.array([[128.0, 130.0], [256.0, 250.0], [380.0, 300.0], [200.0, 390.0]])
    rows, columns = np.indices(texture.shape)
    for x, y in texels:
        texture += 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 8.0**2))
    quad, pose = facing_quad(2.0, 1.2, texture), make_pose((8, -6, 15), (0.1, 0.1, -0.8))
    image, _ = render([quad], INTRINSICS, SIZE, pose, supersample=3)
    for texel in texels:
        a, b = (texel + 0.5) / 512
        scene = (quad.origin + a * quad.edge_u + b * quad.edge_v - pose[:3, 3]) @ pose[:3, :3]
        expected = (INTRINSICS @ (scene / scene[2]))[:2]
        assert np.linalg.norm(centroid(image, expected) - expected) < 0.05


def centroid(image, near, radius=7):
    x0, y0 = np.round(near).astype(int) - radius
    part = image[y0 : y0 + 2 * radius + 1, x0 : x0 + 2 * radius + 1].astype(float)
    rows, columns = np.indices(part.shape)
    return np.array([(part * columns).sum(), (part * rows).sum()]) / part.sum() + (x0, y0)


def test_transfer_equals_the_homography_of_the_plane():
    pose0, pose1 = make_pose((3, -5, 2)), make_pose((-4, 8, 20), (0.3, -0.1, 0.4))
    views = [render([facing_quad(2.0, 20.0)], INTRINSICS, SIZE, pose) for pose in (pose0, pose1)]
    points0 = grid_points() + 0.37
    points0 = points0[(points0 < np.array(SIZE) - 1).all(axis=1)]
    points1, visible = transfer_pixels(
        points0, views[0][1], INTRINSICS, pose0, views[1][1], INTRINSICS, pose1
    )
    relative = np.linalg.inv(pose1) @ pose0
    normal = pose0[:3, :3].T @ np.array([0, 0, 1.0])  # of the plane z = 2 in camera 0
    homography = (
        INTRINSICS @ (relative[:3, :3] + np.outer(relative[:3, 3], normal) / 2.0) @ np.linalg.inv(INTRINSICS)
    )
    expected = cv2.perspectiveTransform(points0[:, None], homography)[:, 0]
    inside = ((expected >= 0) & (expected <= np.array(SIZE) - 1)).all(axis=1)
    assert inside.sum() > 100
    assert np.array_equal(visible, inside)
    assert np.abs(points1 - expected)[inside].max() < 1e-3


def test_what_is_hidden_is_not_visible():
    wall = facing_quad(4.0, 8.0)
    pole = Quad(np.array([0.2, -3, 2.0]), np.array([0.3, 0, 0]), np.array([0, 6.0, 0]), smooth_noise(32, 32))
    pose1 = make_pose((0, 0, 0), (0.5, 0, 0))
    depths = [render([wall, pole], INTRINSICS, SIZE, pose)[1] for pose in (np.eye(4), pose1)]
    points0 = grid_points(4)
    points1, visible = transfer_pixels(
        points0, depths[0], INTRINSICS, np.eye(4), depths[1], INTRINSICS, pose1
    )
    on_wall = np.isclose(inverse_depth_at(points0, depths[0]), 0.25)
    # In the second view the pole lies between x = -0.3 / 2 and x = 0 of the image plane.
    ray = (points1[:, 0] - INTRINSICS[0, 2]) / INTRINSICS[0, 0]
    behind_pole = on_wall & (ray > -0.14) & (ray < -0.01)
    beside_pole = (
        on_wall & ((ray < -0.17) | (ray > 0.02)) & (points1[:, 0] >= 0) & (points1[:, 0] <= SIZE[0] - 1)
    )
    assert behind_pole.sum() > 20 and beside_pole.sum() > 200
    assert not visible[behind_pole].any()
    assert visible[beside_pole].all()


def test_floor_under_and_behind_the_camera():
    floor = Quad(
        np.array([-50.0, 1.5, -50]), np.array([100.0, 0, 0]), np.array([0, 0, 100.0]), smooth_noise(64, 64)
    )
    _, depth = render([floor], INTRINSICS, SIZE, np.eye(4))
    rows = np.arange(SIZE[1])
    expected = 1.5 * INTRINSICS[1, 1] / (rows - INTRINSICS[1, 2] + 1e-12)
    seen = (expected > 0) & (expected < 50)
    assert np.allclose(depth[seen, 80], expected[seen], rtol=1e-4)
    assert (depth[rows < INTRINSICS[1, 2]] == 0).all()


def test_nothing_is_zero_and_has_no_counterpart():
    image, depth = render([facing_quad(-2.0)], INTRINSICS, SIZE, np.eye(4))
    assert not image.any() and not depth.any()
    points1, visible = transfer_pixels(
        grid_points(), depth, INTRINSICS, np.eye(4), depth, INTRINSICS, np.eye(4)
    )
    assert np.isnan(points1).all() and not visible.any()


def test_supersampling_changes_neither_depth_nor_brightness():
    quads, pose = [facing_quad(2.0, 3.0, smooth_noise(256, 256))], make_pose((10, 10, 10))
    plain, fine = render(quads, INTRINSICS, SIZE, pose), render(quads, INTRINSICS, SIZE, pose, supersample=2)
    assert np.array_equal(plain[1], fine[1])
    assert np.abs(plain[0] - fine[0]).mean() < 3.0


def test_rendering_is_repeatable():
    quads = [facing_quad(3.0, 2.0, procedural(np.random.default_rng(k))) for k in range(3)]
    first, second = (render(quads, INTRINSICS, SIZE, make_pose((5, 5, 5))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_textures_follow_the_seed(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_noise(80, 100).astype(np.uint8))
    for photos in (None, tmp_path):
        supply = Textures(photos)
        drawn = [[supply.draw(np.random.default_rng(seed)) for seed in range(5)] for _ in range(2)]
        assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1
        pictures = [supply.pixels(swatch) for swatch in drawn[0]]
        assert all(t.dtype == np.uint8 and min(t.shape) >= 16 for t in pictures)
        assert all(np.array_equal(a, Textures(photos).pixels(b)) for a, b in zip(pictures, drawn[0]))


def test_a_texture_is_a_part_of_its_picture(tmp_path):
    photo = smooth_noise(80, 100).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    supply = Textures(tmp_path, procedural_share=0.0)
    swatch = Swatch(0, top=10, left=20, height=40, width=50, mirrored=False)
    assert np.array_equal(supply.pixels(swatch), photo[10:50, 20:70])
    assert np.array_equal(supply.pixels(replace(swatch, mirrored=True)), photo[10:50, 20:70][:, ::-1])
    dull = supply.pixels(supply.dulled(swatch, grey=90.0, contrast=0.2)).astype(float)
    part = photo[10:50, 20:70].astype(float)
    assert dull.mean() == pytest.approx(90, abs=1)
    assert dull.std() == pytest.approx(0.2 * part.std(), abs=0.5)


def test_pictures_smaller_than_a_crop_are_taken_whole(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((9, 12), 7, np.uint8))
    supply = Textures(tmp_path, procedural_share=0.0)
    assert supply.pixels(supply.draw(np.random.default_rng(0))).shape == (9, 12)


def test_few_rays_meet_what_the_z_buffer_shows():
    quads = [facing_quad(3.0, 2.0), facing_quad(2.0, 0.5)]
    pose = make_pose((8, -5, 20))
    _, depth = render(quads, INTRINSICS, SIZE, pose)
    x, y = np.random.default_rng(2).integers(0, SIZE, (200, 2)).T
    found = inverse_depths_of(edges_of(quads), INTRINSICS, pose, np.stack([x, y], axis=1))
    seen = depth[y, x] > 0
    assert 20 < seen.sum() < 200
    assert np.array_equal(found > 0, seen)
    np.testing.assert_allclose(found[seen], 1 / depth[y, x][seen], rtol=1e-5)


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        Textures(tmp_path)
