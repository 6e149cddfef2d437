"""Prints how the sweep went: python3 table.py sweep/"""

import struct
import sys
from pathlib import Path

for name, steps in [("first", 20), ("second", 80), ("best", 180)]:
    data = (Path(sys.argv[1]) / f"{name}.npy").read_bytes()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    values = struct.unpack(f"<{(len(data) - start) // 4}f", data[start:])
    print(f"after {steps} steps")
    for row in sorted(values[i : i + 2] for i in range(0, len(values), 67)):
        print(f"  rate {row[1]:8.4f}  loss {row[0]:.4f}  {'#' * round(40 * min(row[0], 1.5) / 1.5)}")
