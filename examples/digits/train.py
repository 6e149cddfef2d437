#!/usr/bin/env python3
"""Trains the digit classifier of this example and writes what job.toml reads.

    python3 train.py            # needs numpy only, takes two seconds; the seed is fixed

Reads digits.csv.gz (see DATA.md). Two thirds of the images train a 64-96-10 network, the held-out third becomes the
job's input. The network is quantised to int8: weights with one scale per output neuron, activations with one scale a
layer, and every step after the training is integer arithmetic, so every device computes the same bits.

It does not run the job: `classify` below is the integer reference that the WGSL kernels have to match.
"""

import gzip
import math
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SEED = 7
HIDDEN = 96
EPOCHS = 200
BATCH = 64


def read_digits():
    """Images i8 [1797, 64] with pixels 0..16, labels i32 [1797]."""
    with gzip.open(HERE / "digits.csv.gz", "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    return rows[:, :64].astype(np.int8), rows[:, 64].astype(np.int32)


def shifted(images, rng):
    """Each image moved by up to one pixel along each axis: the writers did not centre their digits either."""
    grid = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    dx, dy = rng.integers(-1, 2, (2, len(images)))
    # Half of the images stay where they are.
    still = rng.random(len(images)) < 0.5
    dx[still], dy[still] = 0, 0
    rows = (np.arange(8)[None, :] + 1 + dy[:, None])[:, :, None]
    cols = (np.arange(8)[None, :] + 1 + dx[:, None])[:, None, :]
    return grid[np.arange(len(images))[:, None, None], rows, cols].reshape(-1, 64)


def train(images, labels):
    """A ReLU network in float64, fitted with Adam on the cross entropy. Pixels are scaled to 0..1."""
    rng = np.random.default_rng(SEED)
    params = [
        rng.normal(0, math.sqrt(2 / 64), (HIDDEN, 64)),
        np.zeros(HIDDEN),
        rng.normal(0, math.sqrt(2 / HIDDEN), (10, HIDDEN)),
        np.zeros(10),
    ]
    first = [np.zeros_like(p) for p in params]
    second = [np.zeros_like(p) for p in params]
    step = 0
    for epoch in range(EPOCHS):
        rate = 3e-3 * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            w1, b1, w2, b2 = params
            x = shifted(images[batch], rng) / 16.0
            pre = x @ w1.T + b1
            hidden = np.maximum(pre, 0)
            logits = hidden @ w2.T + b2
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            error = share.copy()
            error[np.arange(len(batch)), labels[batch]] -= 1
            error /= len(batch)
            back = (error @ w2) * (pre > 0)
            gradients = [back.T @ x + 1e-5 * w1, back.sum(axis=0), error.T @ hidden + 1e-5 * w2, error.sum(axis=0)]
            step += 1
            for p, g, m, v in zip(params, gradients, first, second):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return params


def multiplier_and_shift(scale):
    """`scale` as multiplier / 2^shift, with the multiplier in [2^30, 2^31): 31 significant bits, as TFLite has it."""
    fraction, exponent = math.frexp(scale)
    return round(fraction * 2**31), 31 - exponent


def quantise(params, images):
    """int8 weights, int32 biases, and for each hidden neuron the factor that brings its sum back to int8."""
    w1, b1, w2, b2 = params
    pixel = 1 / 16.0
    s1 = np.maximum(np.abs(w1).max(axis=1), 1e-3) / 127
    hidden = np.maximum(images * pixel @ w1.T + b1, 0)
    s_hidden = np.percentile(hidden, 99.99) / 127
    s2 = np.abs(w2).max() / 127
    return {
        "w1": np.round(w1 / s1[:, None]).astype(np.int8),
        "b1": np.round(b1 / (s1 * pixel)).astype(np.int32),
        "requant": np.array([multiplier_and_shift(s * pixel / s_hidden) for s in s1], dtype=np.uint32),
        "w2": np.round(w2 / s2).astype(np.int8),
        "b2": np.round(b2 / (s2 * s_hidden)).astype(np.int32),
    }


def classify(q, images):
    """The integer network, exactly as the passes of job.toml compute it."""
    sums = images.astype(np.int64) @ q["w1"].T.astype(np.int64) + q["b1"]
    multiplier, shift = q["requant"].astype(np.int64).T
    hidden = np.minimum((np.maximum(sums, 0) * multiplier + (1 << (shift - 1))) >> shift, 127)
    logits = hidden @ q["w2"].T.astype(np.int64) + q["b2"]
    return logits.argmax(axis=1).astype(np.int32)


def main():
    images, labels = read_digits()
    order = np.random.default_rng(SEED).permutation(len(images))
    images, labels = images[order], labels[order]
    split = len(images) * 2 // 3
    params = train(images[:split], labels[:split])
    q = quantise(params, images[:split])
    held_out, expected = images[split:], labels[split:]
    for name, part in [("train", slice(0, split)), ("held-out", slice(split, None))]:
        right = classify(q, images[part]) == labels[part]
        print(f"{name}: {right.sum()} of {right.size} right, accuracy {right.mean():.4f}")
    for name, array in {"images": held_out, "labels": expected, **q}.items():
        np.save(HERE / f"{name}.npy", np.ascontiguousarray(array))


if __name__ == "__main__":
    main()
