#!/usr/bin/env python3
"""Writes src/io/unicode_classes.h: how the pre-tokenizers see every code point.

The classes are asked from the tokenizers library itself, one code point at a time, because no two Unicode libraries
carry the same version of the tables: a model's ids must not depend on which one a machine happens to have.
Usage: unicode_classes.py > src/io/unicode_classes.h"""
import itertools

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits

OTHER, LETTER, NUMBER, SPACE, NUMERIC = range(5)
byte_level = ByteLevel(add_prefix_space=False, use_regex=True)
digits = Digits(individual_digits=True)


def joins(text):
    return len(byte_level.pre_tokenize_str(text)) == 1


def classify(code):
    if 0xD800 <= code < 0xE000:
        return OTHER
    c = chr(code)
    if joins("a" + c):
        kind = LETTER
    elif joins("1" + c):
        kind = NUMBER
    elif joins("!" + c):
        kind = OTHER
    else:
        kind = SPACE
    if (len(digits.pre_tokenize_str("a" + c)) == 2) != (kind == NUMBER):
        assert kind == OTHER, hex(code)  # the two tables differ only by newly assigned numerals
        kind = NUMERIC
    return kind


starts, code = [], 0
for kind, run in itertools.groupby(classify(c) for c in range(0x110000)):
    starts.append(code << 3 | kind)
    code += len(list(run))
print(f"""/* unicode_classes.h: made by tools/unicode_classes.py from tokenizers {tokenizers.__version__}; do not edit.
 * Runs of code points of one class, ascending: first code point << 3 | vm_unicode_class. */
#ifndef VM_IO_UNICODE_CLASSES_H
#define VM_IO_UNICODE_CLASSES_H

#include <stdint.h>

/* clang-format off */
static const uint32_t class_runs[{len(starts)}] = {{""")
line = "   "
for s in starts:
    item = f" 0x{s:x},"
    if len(line) + len(item) > 118:
        print(line)
        line = "   "
    line += item
print(line + "\n};\n\n#endif")
