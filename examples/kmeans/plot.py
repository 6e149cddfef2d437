"""Draws what the job found: python3 plot.py clusters/ > clusters.svg. Nothing beside Python is needed.

Above, the ten centroids as pictures with their colours and sizes; below, every image as a dot at its place along the two
directions in which the images differ most (principal components, by power iteration), in its cluster's colour.
"""

import csv
import struct
import sys
from pathlib import Path

K, AXES = 10, 64
COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"]
WIDTH, HEIGHT, TOP = 840, 560, 110


def npy(path, columns):
    data = path.read_bytes()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    values = struct.unpack(f"<{(len(data) - start) // 4}i", data[start:])
    return [values[i : i + columns] for i in range(0, len(values), columns)]


def direction(rows, before):
    """The unit vector along which the rows differ most, of those at right angles to the ones before."""
    vector = [1.0 + axis % 7 for axis in range(AXES)]
    for _ in range(60):
        along = [sum(x * v for x, v in zip(row, vector)) for row in rows]
        vector = [sum(a * row[axis] for a, row in zip(along, rows)) for axis in range(AXES)]
        for other in before:
            share = sum(v * o for v, o in zip(vector, other))
            vector = [v - share * o for v, o in zip(vector, other)]
        length = sum(v * v for v in vector) ** 0.5
        vector = [v / length for v in vector]
    return vector


out = Path(sys.argv[1])
centroids = npy(out / "centroids.npy", AXES)
points = [row[:AXES] for row in npy(Path(__file__).parent / "points.npy", AXES + 1)]
with open(out / "labels.csv") as file:
    labels = [int(row["cluster"]) for row in csv.DictReader(file)]

means = [sum(column) / len(points) for column in zip(*points)]
centred = [[value - mean for value, mean in zip(point, means)] for point in points]
first = direction(centred, [])
second = direction(centred, [first])
places = [[sum(x * v for x, v in zip(row, vector)) for vector in (first, second)] for row in centred]
low, high = [[limit(place[i] for place in places) for i in (0, 1)] for limit in (min, max)]

print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">')
print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
for k in range(K):
    left = 84 * k + 10
    for i in range(AXES):
        shade = 255 - min(255, centroids[k][i] // 16)
        x, y = left + 8 * (i % 8), 6 + 8 * (i // 8)
        print(f'<rect x="{x}" y="{y}" width="8" height="8" fill="rgb({shade},{shade},{shade})"/>')
    print(f'<rect x="{left}" y="72" width="64" height="4" fill="{COLOURS[k]}"/>')
    print(f'<text x="{left + 32}" y="92" text-anchor="middle">{labels.count(k)}</text>')
for k in range(K):
    dots = []
    for place, label in zip(places, labels):
        if label == k:
            x = 15 + (WIDTH - 30) * (place[0] - low[0]) / (high[0] - low[0])
            y = TOP + (HEIGHT - TOP - 15) * (place[1] - low[1]) / (high[1] - low[1])
            dots.append(f"M{x:.0f} {y:.0f}h0")
    # A line of no length with round ends is a dot.
    dots = "".join(dots)
    print(f'<path d="{dots}" stroke="{COLOURS[k]}" stroke-width="5" stroke-linecap="round" stroke-opacity="0.7"/>')
print("</svg>")
