#!/usr/bin/env python3
"""Writes src/io/unicode_classes.h: how the pre-tokenizers see every code point.

The classes are asked from the tokenizers library itself, because no two Unicode libraries carry the same version of
the tables: a model's ids must not depend on which one a machine happens to have.
Usage: unicode_classes.py > src/io/unicode_classes.h"""
import itertools

import tokenizers
from oracle.c_table import table
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Digits, Split

OTHER, NUMERIC = 0, 9  # vm_unicode_class
PATTERNS = {1: r"[\p{Lu}\p{Lt}]", 2: r"\p{Ll}", 3: r"[\p{Lm}\p{Lo}]", 4: r"\p{M}", 5: r"\p{N}", 6: r"\s", 7: r"\p{P}", 8: r"\p{S}"}
SURROGATES = range(0xD800, 0xE000)

codes = [c for c in range(0x110000) if c not in SURROGATES]
text = "".join(map(chr, codes))
kinds = [OTHER] * 0x110000


def matched(pre_tokenizer):
    """Places of text that pre_tokenizer removes."""
    at = 0
    for _, (start, end) in pre_tokenizer.pre_tokenize_str(text):
        yield from range(at, start)
        at = end
    yield from range(at, len(text))


for kind, pattern in PATTERNS.items():
    for i in matched(Split(Regex(pattern), "removed")):
        assert kinds[codes[i]] == OTHER, hex(codes[i])  # no two classes share a character
        kinds[codes[i]] = kind
digits = Digits(individual_digits=True)
for code in codes:
    if (len(digits.pre_tokenize_str("a" + chr(code))) == 2) != (kinds[code] == 5):
        assert kinds[code] == OTHER, hex(code)  # the two tables differ only by newly assigned numerals
        kinds[code] = NUMERIC

starts, code = [], 0
for kind, run in itertools.groupby(kinds):
    starts.append(code << 4 | kind)
    code += len(list(run))

# \\w: beside what a token that is to be a word of its own is none
mark = Tokenizer(BPE())
mark.add_tokens([AddedToken("<mark>", single_word=True, normalized=False)])
words, code = [], 0
is_word = [0] * 0x110000
for c, encoding in zip(codes, mark.encode_batch([chr(c) + "<mark>" for c in codes])):
    is_word[c] = int(not encoding.ids)
for kind, run in itertools.groupby(is_word):
    words.append(code << 1 | kind)
    code += len(list(run))

print(f"""/* unicode_classes.h: made by tools/unicode_classes.py from tokenizers {tokenizers.__version__}; do not edit. */
#ifndef VM_IO_UNICODE_CLASSES_H
#define VM_IO_UNICODE_CLASSES_H

#include <stdint.h>

/* clang-format off */
/* vm_unicode_class of ASCII. */""")
table("uint8_t ascii_classes", kinds[:128])
print("/* Runs of code points of one class, ascending: first code point << 4 | vm_unicode_class. */")
table("uint32_t class_runs", [f"0x{s:x}" for s in starts])
print("/* Runs of code points that are \\\\w or are not, ascending: first code point << 1 | whether. */")
table("uint32_t word_runs", [f"0x{s:x}" for s in words])
print("\n#endif")
