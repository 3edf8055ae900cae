"""llama.cpp (through llama-cpp-python) as a peer: next-token logits of given ids."""
import pathlib

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize


def expand(src, dst):
    """Copies a GGUF with every tensor as f32. With quantised weights llama.cpp also quantises the activations; with f32 it does not,
    so that what is left is the arithmetic of the model."""
    reader = gguf.GGUFReader(src)
    w = gguf.GGUFWriter(dst, reader.fields["general.architecture"].contents())
    for name, f in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = f.types[0]
        w.add_key_value(name, f.contents(), kind, sub_type=f.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    for t in reader.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        w.add_tensor(t.name, np.ascontiguousarray(dequantize(t.data, t.tensor_type).reshape(shape).astype(np.float32)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def last_logits(path, sequences, threads=1, adapter=None):
    """f32 [len(sequences), vocab]: f32 KV cache, no flash attention; adapter: a LoRA as GGUF."""
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def plain():
        params = defaults()
        params.use_extra_bufts = False  # the AMX kernel of 0.3.36 (ggml_backend_amx_mul_mat) crashes on Q4_1 weights
        return params

    llama_cpp.llama_cpp.llama_model_default_params = plain
    try:
        room = max(len(s) for s in sequences)
        m = llama_cpp.Llama(str(pathlib.Path(path)), n_ctx=room, n_batch=room, n_threads=threads, logits_all=True, verbose=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False,
                            lora_path=str(adapter) if adapter else None)
    finally:
        llama_cpp.llama_cpp.llama_model_default_params = defaults
    out = []
    for ids in sequences:
        m.reset()
        m.eval(ids)
        out.append(np.array(m.scores[len(ids) - 1], dtype=np.float32))
    return np.stack(out)
