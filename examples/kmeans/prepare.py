"""Writes the inputs of the job, and what a plain computation on one machine finds: nothing beside Python is needed.

    python3 prepare.py

Points are the 1,797 images of ../digits/digits.csv.gz, each 64 numbers 0..16 and a 1 that says that the row is there (the
padding of the last unit has a 0). Centroids are in 1/256, rounded down, so that every device computes the same bits.
"""

import gzip
import struct
from pathlib import Path

here = Path(__file__).parent
K, SCALE = 10, 256


def save(name, dtype, rows):
    shape = (len(rows), len(rows[0])) if isinstance(rows[0], list) else (len(rows),)
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    flat = [x for row in rows for x in row] if isinstance(rows[0], list) else rows
    code = {"<i4": "i", "<u4": "I"}[dtype]
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{len(flat)}{code}", *flat)
    (here / name).write_bytes(data)


def nearest(point, centroids):
    """The first of the nearest centroids, and the squared distance in 1/65536."""
    distances = [sum((SCALE * p - c) ** 2 for p, c in zip(point, centroid)) for centroid in centroids]
    best = min(range(K), key=lambda k: distances[k])
    return best, distances[best]


with gzip.open(here / "../digits/digits.csv.gz", "rt") as file:
    points = [[int(float(cell)) for cell in line.split(",")][:64] for line in file]

# Every 180th image: a start that needs no randomness.
centroids = [[SCALE * p for p in points[180 * k]] for k in range(K)]
save("points.npy", "<i4", [point + [1] for point in points])
save("initial.npy", "<i4", centroids)

iterations = 0
while True:
    iterations += 1
    labels = [nearest(point, centroids)[0] for point in points]
    moved = []
    for k in range(K):
        members = [point for point, label in zip(points, labels) if label == k]
        sums = [sum(column) for column in zip(*members)]
        moved.append([SCALE * s // len(members) for s in sums] if members else centroids[k])
    if moved == centroids:
        break
    centroids = moved
save("centroids.npy", "<i4", centroids)
save("labels.npy", "<u4", [nearest(point, centroids)[0] for point in points])
inertia = sum(nearest(point, centroids)[1] for point in points)
print(f"{len(points)} points, {K} clusters, unchanged after {iterations} iterations, inertia {inertia / SCALE**2:.3f}")
