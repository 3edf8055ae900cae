#!/usr/bin/env python3
"""Writes src/io/unicode_nfc.h: Unicode's normal form C as Hugging Face `tokenizers` knows it, whose tables are older than
Python's. An entry of Python's stays only where tokenizers does the same; both must then agree on every code point that
is not newer, alone and in contexts.
Usage: unicode_nfc.py > src/io/unicode_nfc.h"""
import itertools
import unicodedata

import tokenizers
from oracle.c_table import table
from tokenizers.normalizers import NFC, NFD


nfc, nfd = NFC().normalize_str, NFD().normalize_str
codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # by rule, not by table

newer = {c for c in codes if nfd(chr(c)) != unicodedata.normalize("NFD", chr(c))}
combining = {}
for c in codes:
    kind = unicodedata.combining(chr(c))
    # U+0345 has class 240, above all others, U+0334 has 1, below all: one of the two moves what has a class of its own.
    if kind and (kind == 1 or kind == 240 or nfd("\u0345" + chr(c))[0] == chr(c)):
        combining[c] = kind
    elif kind:
        newer.add(c)
steps, composes = {}, set()
for c in codes:
    if nfd(chr(c)) != chr(c) and c not in HANGUL:
        steps[c] = [int(p, 16) for p in unicodedata.decomposition(chr(c)).split()]
        if nfc(chr(c)) == chr(c):
            composes.add(c)
for c, parts in steps.items():
    assert len(parts) == 2 or c not in composes, hex(c)
    assert len(parts) == 1 or parts[1] not in steps, hex(c)  # so that only the first goes on
seconds = {steps[c][1] for c in composes} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))

for before, after in itertools.product(["", "e", "\u0345", "\u1100"], ["", "\u0301", "\u0323\u0301", "\u0334", "\u11a8"]):
    for c in codes:
        text = before + chr(c) + after
        assert c in newer or nfc(text) == unicodedata.normalize("NFC", text), text.encode("unicode_escape")

unstable = lambda c: c in combining or c in seconds or (c in steps and c not in composes)
runs, code = [], 0
for value, run in itertools.groupby(range(0x110000), lambda c: unstable(c) << 8 | combining.get(c, 0)):
    runs.append(f"0x{code << 9 | value:x}")
    code += len(list(run))
rows = sorted(steps)
pairs = sorted((steps[c], rows.index(c)) for c in composes)
print(f"""/* unicode_nfc.h: made by tools/unicode_nfc.py from tokenizers {tokenizers.__version__}, whose tables are those of Unicode 9.0; do not edit. */
#ifndef VM_IO_UNICODE_NFC_H
#define VM_IO_UNICODE_NFC_H

#include <stdint.h>

/* clang-format off */
/* Runs of code points, ascending: first << 9 | unstable << 8 | canonical combining class. Unstable: the normal form may
 * have something else in its place, or one character for it and the one before. */""")
table("uint32_t nfc_runs", runs)
print("/* What a code point is taken apart into, ascending: itself, the first (which may go on), the second or 0. */")
table("uint32_t nfc_steps", [x for c in rows for x in (f"0x{c:x}", *(f"0x{p:x}" for p in (steps[c] + [0])[:2]))])
print("/* Rows of nfc_steps that are put together again, ascending by first and second. */")
table("uint16_t nfc_compositions", [i for _, i in pairs])
print("\n#endif")
