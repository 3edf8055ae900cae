"""The data sets' questions and the model's tokenizer, for the scripts that need real text. Paths come from the caller."""
import json
import os
import pathlib

from golden_tokens import encode, from_gguf


def data_folder(arg):
    return existing(arg or os.environ.get("VMOER_DATA"), "data folder", "--data or VMOER_DATA")


def model_file(arg):
    return existing(arg or os.environ.get("VMOER_MODEL"), "model file", "--model or VMOER_MODEL")


def existing(path, what, how):
    if not path or not pathlib.Path(path).exists():
        raise SystemExit(f"the {what} is needed: {how} ({path or 'not given'})")
    return pathlib.Path(path)


def read(path):
    """Items of one file as (stem, choices, index of the right one)."""
    out = []
    for line in path.read_text(encoding="utf-8").splitlines():
        q = json.loads(line)
        if "opa" in q:  # MedMCQA; cop counts from 1
            out.append((q["question"], [q["opa"], q["opb"], q["opc"], q["opd"]], q["cop"] - 1))
        else:
            choices = q["question"]["choices"]
            labels = [c["label"] for c in choices]
            out.append((q["question"]["stem"], [c["text"] for c in choices], labels.index(q["answerKey"])))
    return out


def cloze(tokenizer, items):
    """[(prefix ids, [choice ids], right)]: 'Question: {stem}\\nAnswer:' and ' {choice}'."""
    prefixes = encode(tokenizer, [f"Question: {stem}\nAnswer:" for stem, _, _ in items], False)
    out = []
    for (stem, choices, right), prefix in zip(items, prefixes):
        out.append((prefix, encode(tokenizer, [" " + c for c in choices], False), right))
    return out


__all__ = ["cloze", "data_folder", "encode", "from_gguf", "model_file", "read"]
