"""Bytes that a sum over the rows of a matrix allocates on the first simulated card, by shape."""

import json

import torch

SHAPES = [
    (rows, columns)
    for rows in (1, 100, 1024, 2048, 4096, 16384)
    for columns in (64, 130, 896, 1000, 1001, 4864, 14336)
]


def requested() -> int:
    counted = torch.cuda.memory_stats()
    return int(counted["requested_bytes.all.peak"])


def inside(rows: int, columns: int) -> int:
    """Bytes at the largest moment above the matrix and the sums."""
    matrix = torch.empty(rows, columns, device="cuda")
    total = torch.empty(columns, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = requested()
    torch.sum(matrix, 0, out=total)
    return requested() - before


if __name__ == "__main__":
    print(json.dumps([[*shape, inside(*shape)] for shape in SHAPES]))
