#!/usr/bin/env python3
"""Writes tests/golden/io-types.gguf and io-types.safetensors with the reference writers (PyPI: gguf, safetensors, numpy).

io-types.gguf holds one tensor of each type that the library computes with and, as "<name>.expected", its values in f32 by
the gguf package; and one metadata key of each type. io-types.safetensors holds what tests/unit/test_safetensors.c expects.
"""
import pathlib

import gguf
import numpy as np
from safetensors.numpy import save_file

golden = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
rng = np.random.default_rng(7)

writer = gguf.GGUFWriter(golden / "io-types.gguf", "vmoer-test")
writer.add_uint8("t.u8", 255)
writer.add_int8("t.i8", -128)
writer.add_uint16("t.u16", 65535)
writer.add_int16("t.i16", -32768)
writer.add_uint32("t.u32", 4294967295)
writer.add_int32("t.i32", -2147483648)
writer.add_uint64("t.u64", 1 << 63)
writer.add_int64("t.i64", -(1 << 40))
writer.add_float32("t.f32", 0.1)
writer.add_float64("t.f64", 0.1)
writer.add_bool("t.bool", True)
writer.add_string("t.string", "Grüße")
writer.add_array("t.strings", ["one", "", "drei ü"])
writer.add_array("t.ints", [3, -4, 5])
writer.add_array("t.floats", [0.5, -0.25])
writer.add_array("t.bools", [True, False])

# Rows of 64: two blocks of 32. A zero block, large and tiny scales, ties.
values = (rng.standard_normal((3, 64)) * np.array([[1.0], [1e-6], [3e4]])).astype(np.float32)
values[0, :32] = 0
values[1, :4] = [0.5, -0.5, 1.5, -1.5]
for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
    kind = gguf.GGMLQuantizationType[name]
    raw = gguf.quantize(values, kind)
    writer.add_tensor(name, raw, raw_dtype=kind)
    writer.add_tensor(name + ".expected", gguf.dequantize(raw, kind).astype(np.float32).reshape(values.shape))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

save_file(
    {
        "f32": np.array([[1, 2, 3], [-4, 5.5, 0.1]], dtype=np.float32),
        "f16": np.array([0.1, -65504], dtype=np.float16),
        "i64": np.array([1 << 40], dtype=np.int64),
        "u8": np.array([[[7]]], dtype=np.uint8),
        "scalar": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    },
    golden / "io-types.safetensors",
    metadata={"format": "np", "note": "Grüße"},
)
