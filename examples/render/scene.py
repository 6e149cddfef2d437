#!/usr/bin/env python3
"""Writes the scene of this example, spheres.npy and view.npy, as the kernel path_trace reads them.

    python3 scene.py            # needs numpy only

Change the numbers, run it, and submit job.toml again. Lengths are metres, y points up, the ground is y = 0.
"""

import math
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent

DIFFUSE, METAL, GLASS, COATED = 0, 1, 2, 3


def sphere(x, z, radius, colour, material, extra=0.0):
    """A sphere that lies on the ground. `extra`: roughness of a metal, index of refraction of glass and coat."""
    return [x, radius, z, radius, *colour, material, extra, 0, 0, 0]


SPHERES = [
    sphere(0.0, 0.0, 1.0, (0.97, 0.98, 0.98), GLASS, 1.5),
    sphere(-2.15, -0.75, 1.0, (0.78, 0.12, 0.08), COATED, 1.5),
    sphere(2.1, -0.55, 1.0, (0.95, 0.71, 0.36), METAL, 0.08),
    sphere(0.35, -3.4, 1.35, (0.90, 0.92, 0.93), METAL, 0.0),
    sphere(-3.9, -3.6, 1.1, (0.12, 0.42, 0.38), COATED, 1.5),
    sphere(4.3, -3.2, 0.9, (0.18, 0.28, 0.62), COATED, 1.5),
    sphere(-1.05, 1.25, 0.38, (0.93, 0.62, 0.14), COATED, 1.5),
    sphere(1.0, 1.35, 0.34, (0.90, 0.55, 0.48), METAL, 0.18),
    sphere(-0.12, 1.85, 0.24, (0.62, 0.90, 0.86), GLASS, 1.45),
    sphere(2.05, 1.15, 0.30, (0.35, 0.52, 0.20), DIFFUSE),
    sphere(-2.35, 1.0, 0.30, (0.80, 0.80, 0.78), DIFFUSE),
]


def view(eye, target, degrees, aspect, lens_radius, exposure, sun_degrees, sun_way):
    eye, target, sun_way = (np.array(v, dtype=float) for v in (eye, target, sun_way))
    forward = target - eye
    focus = np.linalg.norm(forward)
    forward /= focus
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    half = math.tan(math.radians(degrees) / 2) * focus
    return [
        [*eye, lens_radius],
        [*(right * half * aspect), 0],
        [*(up * half), 0],
        [*(forward * focus), exposure],
        [*(sun_way / np.linalg.norm(sun_way)), math.tan(math.radians(sun_degrees) / 2)],
        [9.0, 7.2, 5.0, 0],  # irradiance of the sun
        [0.10, 0.24, 0.62, 0],  # sky at the zenith
        [0.62, 0.66, 0.74, 0],  # sky at the horizon
    ]


VIEW = view(
    eye=(0.6, 2.7, 8.7),
    target=(0.1, 0.78, 0.0),
    degrees=30,
    aspect=960 / 540,
    lens_radius=0.05,
    exposure=0.55,
    sun_degrees=4,
    sun_way=(-0.72, 0.62, -0.12),
)


def main():
    np.save(HERE / "spheres.npy", np.array(SPHERES, dtype=np.float32))
    np.save(HERE / "view.npy", np.array(VIEW, dtype=np.float32))


if __name__ == "__main__":
    main()
