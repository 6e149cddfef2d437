"""Writes the inputs of the job: python3 prepare.py. Nothing beside Python is needed.

512 images of ../digits/digits.csv.gz with their parity, and 16 untrained models that differ in their learning rate. A model is
a row of 67 numbers: its loss, its learning rate, 64 weights and a bias.
"""

import gzip
import struct
from pathlib import Path

here = Path(__file__).parent


def save(name, dtype, code, rows):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    flat = [x for row in rows for x in row]
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{len(flat)}{code}", *flat)
    (here / name).write_bytes(data)


with gzip.open(here / "../digits/digits.csv.gz", "rt") as file:
    rows = [[int(float(cell)) for cell in line.split(",")] for line in file][:512]
save("points.npy", "<i4", "i", [row[:64] + [row[64] % 2] for row in rows])
rates = [0.001 * (10000.0 ** (i / 15)) for i in range(16)]
save("models.npy", "<f4", "f", [[0.0, rate] + [0.0] * 65 for rate in rates])
