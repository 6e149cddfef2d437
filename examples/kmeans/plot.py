"""Draws the centroids that the job found as a picture: python3 plot.py clusters/ > clusters.svg"""

import csv
import struct
import sys
from collections import Counter
from pathlib import Path

out = Path(sys.argv[1])
data = (out / "centroids.npy").read_bytes()
start = 10 + struct.unpack("<H", data[8:10])[0]
values = struct.unpack("<640i", data[start : start + 2560])
with open(out / "labels.csv") as file:
    sizes = Counter(int(row["cluster"]) for row in csv.DictReader(file))
print('<svg xmlns="http://www.w3.org/2000/svg" width="840" height="110" font-family="sans-serif" font-size="12">')
for k in range(10):
    for i in range(64):
        shade = 255 - min(255, values[64 * k + i] // 16)
        x, y = 84 * k + 8 * (i % 8), 8 * (i // 8)
        print(f'<rect x="{x}" y="{y}" width="8" height="8" fill="rgb({shade},{shade},{shade})"/>')
    print(f'<text x="{84 * k + 32}" y="84" text-anchor="middle">{sizes[k]}</text>')
print("</svg>")
