# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Least-squares refinement of one relative pose together with the inverse depths of its points.

Each point carries what is known of its inverse depth, a mean and a standard deviation. Where that is precise, the point
acts as a 3D point (PnP); where it is infinite, only its epipolar line acts; everything between comes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.se3 import make_pose, rotation_from_vector, skew
from loftr_ros.types import Array

_CAUCHY = 2.0  # residuals beyond this many standard deviations lose influence
_MAX_ITERATIONS = 25
_LEAST_FACTOR = 0.1  # deviations are never taken for smaller than this share of what the matcher says


@dataclass(frozen=True)
class Adjustment:
    """Result of `adjust_pose`.

    Attributes:
        pose_1_0: [4, 4].
        covariance: [6, 6] of the pose of camera 1 in camera 0: position, then rotation vector, in camera 0's axes.
        inverse_depth: [N] after the refinement.
        inverse_depth_sigma: [N].
        error: [N] length of each residual in image 1, in the standard deviations sigma1 of the matcher.
    """

    pose_1_0: Array
    covariance: Array
    inverse_depth: Array
    inverse_depth_sigma: Array
    error: Array


@dataclass(frozen=True)
class _Problem:
    rays0: Array  # [N, 3] (x, y, 1)
    points1: Array  # [N, 2]
    sigma1: Array  # [N]
    prior: Array  # [N] inverse depth
    prior_information: Array  # [N] 1 / variance, 0 where unknown


@dataclass(frozen=True)
class _System:
    """Normal equations of one iteration: pose (rotation vector, translation) and one inverse depth per point."""

    pose_hessian: Array  # [6, 6]
    pose_gradient: Array  # [6]
    mixed: Array  # [6, N]
    depth_hessian: Array  # [N]
    depth_gradient: Array  # [N]
    cost: float
    error: Array  # [N] length of the residual in image 1, in standard deviations
    total: Array  # [N] the same with the residual of the prior


def adjust_pose(
    points0: Array,
    points1: Array,
    sigma1: Array,
    pose_1_0: Array,
    inverse_depth: Array,
    prior: Array,
    prior_sigma: Array,
) -> Adjustment:
    """Refine a pose and the inverse depths of its points by Levenberg-Marquardt with Cauchy weights.

    The deviations are right up to a factor only: a first round finds it, a second one adjusts with it.

    Each depth meets only its own point, so it is eliminated by the Schur complement (Triggs et al., Bundle Adjustment:
    A Modern Synthesis, section 6.1) and an iteration costs O(N).

    Args:
        points0, points1: [N, 2] normalized points; sigma1: [N] standard deviations of points1.
        pose_1_0: [4, 4] where to start; its length of translation is only as good as the priors say.
        inverse_depth: [N] where to start.
        prior, prior_sigma: [N] what is known of the inverse depths; an infinite sigma: nothing.

    Raises:
        GeometryError: the points do not determine the pose, or the iterations do not converge.
    """
    information = np.where(np.isfinite(prior_sigma), 1.0 / np.maximum(prior_sigma, 1e-12) ** 2, 0.0)
    rays = np.concatenate([points0, np.ones((len(points0), 1))], axis=1)
    problem = _Problem(rays, points1, sigma1, np.where(information > 0, prior, 0.0), information)
    rough = _iterate(problem, pose_1_0, inverse_depth)
    factor = _sigma_factor(rough.system, information > 0)
    problem = replace(problem, sigma1=factor * sigma1)
    # With deviations that were too wide, wrong matches may have led astray: the start counts as much as where they led.
    starts = [(pose_1_0, inverse_depth), (rough.pose, rough.depth)]
    best = min((_iterate(problem, *start) for start in starts), key=lambda found: found.system.cost)
    covariance = _position_covariance(best.pose, _pose_covariance(best.system))
    if not (np.isfinite(best.pose).all() and np.isfinite(covariance).all() and np.isfinite(best.depth).all()):
        raise GeometryError("The adjustment of the pose did not converge.")
    sigma = 1.0 / np.sqrt(np.maximum(best.system.depth_hessian, 1e-12))
    return Adjustment(best.pose, covariance, best.depth, sigma, factor * best.system.error)


@dataclass(frozen=True)
class _Found:
    pose: Array
    depth: Array
    system: _System


def _iterate(problem: _Problem, pose: Array, depth: Array) -> _Found:
    """Levenberg-Marquardt."""
    damping = 1e-4
    system = _linearize(problem, pose, depth)
    for _ in range(_MAX_ITERATIONS):
        step, depth_step = _solve(system, damping)
        new_pose, new_depth = _moved(pose, step), depth + depth_step
        new_system = _linearize(problem, new_pose, new_depth)
        if new_system.cost <= system.cost:
            converged = system.cost - new_system.cost < 1e-6 * system.cost
            pose, depth, system, damping = new_pose, new_depth, new_system, max(damping * 0.2, 1e-9)
            if converged:
                break
        else:
            damping *= 8.0
            if damping > 1e6:
                break
    return _Found(pose, depth, system)


def _sigma_factor(system: _System, has_prior: NDArray[np.bool_]) -> float:
    """By which factor the residuals are longer than their deviations say; wrong matches hardly change it.

    A depth with a prior leaves its point two degrees of freedom, a free depth leaves one: the median lengths of normal
    vectors of that many dimensions are 1.177 and 0.674.
    """
    expected = np.where(has_prior, 1.177, 0.674)
    return max(float(np.median(system.total / expected)), _LEAST_FACTOR)


def _linearize(problem: _Problem, pose: Array, depth: Array) -> _System:
    """Coordinates come first and points last in all arrays, which numpy works through several times faster."""
    rotated = pose[:3, :3] @ problem.rays0.T
    position = rotated + pose[:3, 3, None] * depth
    z = np.where(np.abs(position[2]) > 1e-6, position[2], 1e-6)
    projected = position[:2] / z
    residual = (projected - problem.points1.T) / problem.sigma1
    error = np.sqrt(np.sum(residual**2, axis=0))
    prior_residual = depth - problem.prior
    squared = error**2 + problem.prior_information * prior_residual**2
    weight = 1.0 / (1.0 + squared / _CAUCHY**2)

    jacobian, depth_jacobian = _jacobians(rotated, projected, 1.0 / (z * problem.sigma1), depth, pose[:3, 3])
    weighted = jacobian * weight
    return _System(
        pose_hessian=weighted.reshape(6, -1) @ jacobian.reshape(6, -1).T,
        pose_gradient=weighted.reshape(6, -1) @ residual.ravel(),
        mixed=np.einsum("kcn,cn->kn", weighted, depth_jacobian),
        depth_hessian=weight * (np.sum(depth_jacobian**2, axis=0) + problem.prior_information),
        depth_gradient=weight
        * (np.sum(depth_jacobian * residual, axis=0) + problem.prior_information * prior_residual),
        cost=float(np.sum(_CAUCHY**2 * np.log1p(squared / _CAUCHY**2))),
        error=error,
        total=np.sqrt(squared),
    )


def _jacobians(
    rotated: Array, projected: Array, scale: Array, depth: Array, translation: Array
) -> tuple[Array, Array]:
    """Of the residuals: [6, 2, N] by the rotation vector and the translation, [2, N] by the inverse depths.

    The projection (u, v) changes with the position by the rows g_u = scale (1, 0, -u) and g_v = scale (0, 1, -v), the
    position by w x rotated with the rotation vector w, by `depth` times the translation's change, and by the
    translation with the inverse depth. Written out: half of the numbers are 0, and numpy's calls are what this costs.
    """
    x, y, z = scale * rotated
    u, v = projected
    jacobian = np.zeros((6, 2, len(scale)))
    jacobian[0], jacobian[1], jacobian[2] = -y * projected, x * projected, (-y, x)  # rotated x g
    jacobian[0, 1] -= z
    jacobian[1, 0] += z
    along = scale * depth
    jacobian[3, 0] = jacobian[4, 1] = along
    jacobian[5] = -along * projected
    tx, ty, tz = translation
    return jacobian, scale * np.stack([tx - tz * u, ty - tz * v])


def _solve(system: _System, damping: float) -> tuple[Array, Array]:
    """Step of the pose [6] and of the inverse depths [N]."""
    depth_hessian = system.depth_hessian * (1.0 + damping) + 1e-12
    eliminated = system.mixed / depth_hessian
    hessian = system.pose_hessian - system.mixed @ eliminated.T
    hessian += np.diag(damping * np.diag(system.pose_hessian) + 1e-12)
    gradient = system.pose_gradient - eliminated @ system.depth_gradient
    try:
        step = np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise GeometryError("The matches do not determine the pose.") from None
    return step, -(system.depth_gradient + step @ system.mixed) / depth_hessian


def _moved(pose: Array, step: Array) -> Array:
    return make_pose(rotation_from_vector(step[:3]) @ pose[:3, :3], pose[:3, 3] + step[3:])


def _pose_covariance(system: _System) -> Array:
    """[6, 6] of (rotation vector, translation). Raises GeometryError."""
    hessian = system.pose_hessian - system.mixed @ (system.mixed / (system.depth_hessian + 1e-12)).T
    # Where nothing binds a direction (the length of an unscaled translation) its variance becomes large, not infinite.
    hessian += np.eye(6) * 1e-9 * np.trace(hessian)
    try:
        return np.asarray(np.linalg.inv(hessian), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise GeometryError("The matches do not determine the pose.") from None


def _position_covariance(pose_1_0: Array, covariance: Array) -> Array:
    """Turn the covariance of (rotation vector, translation) of pose_1_0 into that of camera 1's pose in camera 0.

    With R' = exp(w) R the inverse has position -R'^T t' and rotation R'^T, so the position changes by
    -R^T dt - R^T [t] w and the rotation vector by -R^T w.
    """
    rotation, translation = pose_1_0[:3, :3], pose_1_0[:3, 3]
    change = np.zeros((6, 6))
    change[:3, :3] = -rotation.T @ skew(translation)
    change[:3, 3:] = -rotation.T
    change[3:, :3] = -rotation.T
    result = change @ covariance @ change.T
    return (result + result.T) / 2
