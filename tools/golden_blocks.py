#!/usr/bin/env python3
"""Writes tests/golden/blocks.gguf: what the gguf package makes of random bytes as blocks of every quantised type.

For each type one row of 256 elements and, as "<name>.expected", its values; and, as the key "sha256.<name>", the SHA-256
of the f32 values of BLOCKS blocks whose bytes tests/unit/test_dtype.c makes by the same rule (every NaN as 0x7fc00000).

    python tools/golden_blocks.py [--out tests/golden]
"""
import argparse
import hashlib
import pathlib

import gguf
import numpy as np

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
BLOCKS = 4096
# f16: zeros, the smallest and the largest subnormal, infinities, a quiet and a signalling NaN
SPECIAL = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x7C00, 0xFC00, 0x7E00, 0x7C01], dtype="<u2")


def random_bytes(size):
    """SplitMix64 from 0, little-endian."""
    z = (np.arange(1, size // 8 + 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype("<u8").view(np.uint8)[:size]


def random_blocks(size):
    """[BLOCKS, size] bytes; of every 64 blocks the first eight are a special f16 again and again, scales included."""
    blocks = random_bytes(BLOCKS * size).reshape(BLOCKS, size).copy()
    for s, value in enumerate(SPECIAL):
        blocks[s::64] = np.tile(value.reshape(1).view(np.uint8), size)[:size]
    return blocks


def one_nan(values):
    values = values.astype(np.float32)
    values.view(np.uint32)[np.isnan(values)] = 0x7FC00000
    return values


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
writer = gguf.GGUFWriter(parser.parse_args().out / "blocks.gguf", "vmoer-test")
with np.errstate(all="ignore"):
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random_blocks(size)
        writer.add_string("sha256." + name, hashlib.sha256(one_nan(gguf.dequantize(blocks, kind)).tobytes()).hexdigest())
        row = blocks[8:8 + 256 // elements].reshape(1, -1)
        writer.add_tensor(name, row, raw_dtype=kind)
        writer.add_tensor(name + ".expected", one_nan(gguf.dequantize(row, kind)))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
