"""Writes golden files: safetensors whose bytes depend on nothing but the content (the package's own writer shuffles metadata)."""
import json
import pathlib
import struct

import numpy as np

KINDS = {np.dtype("float32"): "F32", np.dtype("int32"): "I32"}


def save(tensors, path, **meta):
    """tensors: name -> f32 or i32 torch tensor or numpy array. meta: strings (anything else is turned into one)."""
    header = {"__metadata__": {k: str(v) for k, v in sorted(meta.items())}}
    blobs, at = [], 0
    for name, t in sorted(tensors.items()):
        a = np.asarray(t.detach().cpu() if hasattr(t, "detach") else t)
        blob = np.ascontiguousarray(a).tobytes()
        header[name] = {"dtype": KINDS[a.dtype], "shape": list(a.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
