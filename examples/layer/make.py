"""Writes the layer's numbers: x.npy, w.npy, b.npy, the product y.npy that it should give, and what is known of one unit.

Python without packages; a fixed seed.
"""

import random
import struct

ROWS, INNER, COLUMNS = 256, 64, 32
UNIT_ROWS, KNOWN_UNIT = 32, 5


def npy(path, dtype, rows, columns, values):
    shape = f"({rows}, {columns})" if columns else f"({rows},)"
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    code = {"|i1": "b", "<i4": "i"}[dtype]
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        file.write(struct.pack(f"<{len(values)}{code}", *values))


numbers = random.Random(7)
x = [[numbers.randint(-128, 127) for _ in range(INNER)] for _ in range(ROWS)]
w = [[numbers.randint(-128, 127) for _ in range(INNER)] for _ in range(COLUMNS)]
b = [numbers.randint(-100_000, 100_000) for _ in range(COLUMNS)]
y = [[b[n] + sum(p * q for p, q in zip(row, w[n])) for n in range(COLUMNS)] for row in x]


def flat(rows):
    return [value for row in rows for value in row]


npy("x.npy", "|i1", ROWS, INNER, flat(x))
npy("w.npy", "|i1", COLUMNS, INNER, flat(w))
npy("b.npy", "<i4", COLUMNS, 0, b)
npy("y.npy", "<i4", ROWS, COLUMNS, flat(y))
known = y[UNIT_ROWS * KNOWN_UNIT : UNIT_ROWS * (KNOWN_UNIT + 1)]
npy(f"known/{KNOWN_UNIT}.npy", "<i4", UNIT_ROWS, COLUMNS, flat(known))
