"""Draws how the sweep went: python3 plot.py sweep/ > sweep.svg. Nothing beside Python is needed.

Each dot is a model: its learning rate (logarithmic) and its loss after the round. What a round keeps is drawn through to the next.
"""

import math
import struct
import sys
from pathlib import Path

ROUNDS = [("first", 20, "#9ecae1"), ("second", 80, "#3182bd"), ("best", 180, "#d62728")]
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 360, 60, 50
LOSS_MIN, LOSS_MAX = 0.3, 0.75


def models(path):
    data = path.read_bytes()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    values = struct.unpack(f"<{(len(data) - start) // 4}f", data[start:])
    return {values[i + 1]: values[i] for i in range(0, len(values), 67)}


def place(rate, loss):
    x = LEFT + 15 + (WIDTH - LEFT - 30) * (math.log10(rate) + 3) / 4
    y = 15 + (HEIGHT - BOTTOM - 15) * (LOSS_MAX - min(loss, LOSS_MAX)) / (LOSS_MAX - LOSS_MIN)
    return x, y


print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">')
print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
for tenth in range(3, 8):
    _, y = place(1, tenth / 10)
    print(f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="#ddd"/><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">0.{tenth}</text>')
for power in range(-3, 2):
    x, _ = place(10.0**power, LOSS_MIN)
    print(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10.0**power:g}</text>')
print(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">learning rate</text>')
print(f'<text x="14" y="{(HEIGHT - BOTTOM) / 2}" text-anchor="middle" transform="rotate(-90 14 {(HEIGHT - BOTTOM) / 2})">loss on held-out images</text>')
before = {}
for number, (name, steps, colour) in enumerate(ROUNDS):
    found = models(Path(sys.argv[1]) / f"{name}.npy")
    for rate, loss in found.items():
        x, y = place(rate, loss)
        if rate in before:
            from_x, from_y = place(rate, before[rate])
            print(f'<path d="M{from_x:.1f} {from_y:.1f}L{x:.1f} {y:.1f}" stroke="{colour}"/>')
        print(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 + number}" fill="{colour}"><title>{rate:.4f}: {loss:.4f}</title></circle>')
    label = f"after {steps} steps: {len(found)} model{'s' * (len(found) > 1)}"
    print(f'<circle cx="{LEFT + 24}" cy="{HEIGHT - BOTTOM - 62 + 20 * number}" r="{4 + number}" fill="{colour}"/>')
    print(f'<text x="{LEFT + 36}" y="{HEIGHT - BOTTOM - 58 + 20 * number}">{label}</text>')
    before = found
print("</svg>")
