#!/usr/bin/env python3
"""The tokenizer against its oracle, Hugging Face `tokenizers`, rebuilt from the same GGUF metadata.

  golden_tokens.py golden MODEL.gguf OUT   writes OUT/tokens_*.txt and the tiny vocabularies OUT/vocab_*.gguf
  golden_tokens.py check MODEL.gguf TOKENIZE_STREAM DATA
                                           compares the ids of every text in DATA, every code point alone and beside
                                           others, and random strings; TOKENIZE_STREAM is tools/tokenize_stream.c built

A line of tokens_*.txt: parse_special (0 or 1), the text in hexadecimal ("-" if empty), the ids."""
import csv
import glob
import json
import random
import struct
import subprocess
import sys
import tempfile

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

NORMAL, CONTROL, USER = 1, 3, 4


def build(tokens, types, merges, pre):
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "gpt2":
        tok.pre_tokenizer = byte_level
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, y in zip(tokens, types) if y == CONTROL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t, y in zip(tokens, types) if y == USER])
    return tok


def from_gguf(path):
    fields = gguf.GGUFReader(path).fields
    get = lambda name: fields["tokenizer.ggml." + name].contents()
    return build(get("tokens"), get("token_type"), get("merges"), get("pre"))


def encode(tok, texts, special):
    tok.encode_special_tokens = not special
    return [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]


# ---- texts ----
NASTY = """
it's IT'S don't we'll they've I'm you're he'd o'clock 's 'S '' ''s 'll'll 'lll ' s ’s a'ſ don't' 'tis 'reversed 'vest 'door
  two  spaces   three    four     end
	tab		tabs	 mixed 	x
3.14159 1234567890 1,000,000 12:30pm v2.0 x86_64 0x1F a1b2 1st 2nd ½ ¾ ² ³ ① Ⅷ ٣٤٥ १२३ 〇 一二三 10°C -5 +7 5% $9.99 ₤3
Hello, world! hello world HELLO WORLD hElLo_WoRlD camelCase snake_case kebab-case
naïve café résumé Zürich Straße ﬁ ﬂ Ǆ ß İ ı ſ K Å e\u0301 n\u0303 o\u0308
Привет мир Γειά σου Κόσμε שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก こんにちは世界 你好，世界 안녕하세요 세계 ᚠᛇᚻ ⠓⠑⠇⠇⠕
😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ ☃ ♥ ← → ∑ ∫ √ ∞ ≠ ≤ ‰ ‽ „quoted“ «quoted» ‹a› … – — ‐
x\u00a0y x\u1680y x\u180ey x\u2003y x\u2028y x\u202fy x\u205fy x\u3000y x\u200by x\ufeffy x\u0085y x\u001cy x\u000by x\u000cy
\u2003\u2003word \u00a0\u00a0 \u3000 \u3000\u3000字
\U00011de0\U00011de5 \U00016ff4 \U0001c8a0 \u1c89 \ua7cb \U000105c0 \U0001e030 \U0002ebf0 \U00031350 \U000e0001 \U0010ffff \ud7ff \ue000 \uffff
a<|im_start|>b <|im_start|><|im_end|> <|im_start <|endoftext|>x im_start|> <| <|im_end|>\n <|IM_END|> <repo_name>r<file_sep>f
<tool> <tool>> <tool>>> <<tool> <too l> a<tool>b
https://example.org/a?b=c&d=%20#e user@example.org C:\\dir\\file.txt ~/.bashrc ../.. a/b//c
int main(void) { return 0; } // comment\tdef f(x): return x**2 ### Title *bold* `code` [link](url) | a | b |
((((())))) !!!! ???? ..... ---- ____ ==== :-) ;) :'( \"\" '' `` {{}} [[]] <<>> @@ ## $$ %% ^^ && ** ~~ ||
"""


def nasty():
    texts = [""]
    for line in NASTY.strip("\n").split("\n"):
        line = line.encode("utf-8", "surrogatepass").decode("utf-8")
        texts.append(line)
        texts += line.split(" ")
    texts += ["\n", "\n\n", "\n\n\n", " \n", "\n ", "\r\n", "a\n", "a\n\nb", "a \nb", "a\n b", "a \n b", "a  \n\n  b", "\t", " \t",
              " ", "  ", "   ", "    a", "a    ", " 1", "  1", "1 ", "1  2", " \n1", "\n1", "1\n", "a 1", "a  1b", " '", "  's", "\0", "a\0b",
              "\x01\x02\x7f", "\x80\x9f", "a" * 300, "ab" * 100, " " * 70 + "x", "\n" * 50, "1" * 40, "é" * 33, "字" * 20, "=" * 65]
    random.seed(20260913)
    texts += ["".join(mixed_char() for _ in range(random.randint(2, 24))) for _ in range(120)]
    return list(dict.fromkeys(texts))


POOLS = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJ", "0123456789", "     ", "\n\r\t\v\f\x85\xa0\u1680\u2000\u2028\u202f\u3000", "''''stmdrevl", ".,!?-_()[]{}<>|",
         "éüßñçœ", "привет", "日本語中文", "한국어", "العربية", "नमस्ते", "²½Ⅷ٣①", "😀👍🏽\u200d", "\u0301\u180e\u200b\ufeff\x1c\x1f"]


def mixed_char():
    if random.random() < 0.12:
        code = random.randrange(0x110000 if random.random() < 0.5 else 0x3000)
        return chr(code) if not 0xD800 <= code < 0xE000 else "x"
    return random.choice(random.choice(POOLS))


# ---- golden files ----
def write_lines(path, tok, texts):
    with open(path, "w") as out:
        for special in (0, 1):
            chosen = [t for t in texts if not special or "<" in t]
            for text, ids in zip(chosen, encode(tok, chosen, special)):
                out.write(" ".join([str(special), text.encode().hex() or "-", *map(str, ids)]) + "\n")


def write_vocabulary(path, tokens, types, merges, pre):
    w = gguf.GGUFWriter(path, "vocabulary")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def golden(model, out):
    texts = nasty()
    write_lines(f"{out}/tokens_smollm2.txt", from_gguf(model), texts)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", "<tool>>"]
    tok.train_from_iterator(texts * 3, trainers.BpeTrainer(vocab_size=256 + 500, initial_alphabet=alphabet, show_progress=False))
    state = json.loads(tok.to_str())["model"]
    tokens = special + sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(m) for m in state["merges"]]
    types = [CONTROL] * 3 + [USER] * 2 + [NORMAL] * len(state["vocab"])
    for pre in ("gpt2", "smollm"):
        write_vocabulary(f"{out}/vocab_{pre}.gguf", tokens, types, merges, pre)
        write_lines(f"{out}/tokens_{pre}.txt", from_gguf(f"{out}/vocab_{pre}.gguf"), texts)


# ---- comparison ----
def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for v in value:
            yield from strings(v)
    elif isinstance(value, dict):
        for k, v in value.items():
            yield k
            yield from strings(v)


def data_texts(folder):
    for path in sorted(glob.glob(folder + "/**/*.json*", recursive=True)):
        lines = open(path, encoding="utf-8").read().split("\n")
        for line in filter(None, lines):
            yield line
            yield from strings(json.loads(line))
    for path in sorted(glob.glob(folder + "/**/*.csv", recursive=True)):
        for row in csv.reader(open(path, encoding="utf-8", newline="")):
            yield from row
            yield "\n".join(row)


def code_points():
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            c = chr(code)
            yield c
            yield f"a{c}b {c}{c} 1{c}2 {c}\n{c} '{c}"


def random_texts(count):
    random.seed(7)
    for _ in range(count):
        yield "".join(mixed_char() for _ in range(random.randint(1, 40)))


def ours(stream, model, texts, special):
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as answer:
        for t in texts:
            data = t.encode()
            given.write(struct.pack("<IB", len(data), special) + data)
        given.seek(0)
        subprocess.run([stream, model], stdin=given, stdout=answer, check=True)
        answer.seek(0)
        blob = answer.read()
    at = 0
    for _ in texts:
        (n,) = struct.unpack_from("<I", blob, at)
        yield None if n == 0xFFFFFFFF else list(struct.unpack_from(f"<{n}i", blob, at + 4))
        at += 4 + (0 if n == 0xFFFFFFFF else 4 * n)


def check(model, stream, data):
    tok = from_gguf(model)
    bad = 0
    for name, texts in (("nasty", nasty()), ("data", data_texts(data)), ("code points", code_points()), ("random", random_texts(300000))):
        n = chars = 0
        chunk = []

        def compare():
            nonlocal bad
            for special in (0, 1):
                for text, want, got in zip(chunk, encode(tok, chunk, special), ours(stream, model, chunk, special)):
                    if want != got:
                        bad += 1
                        if bad <= 20:
                            print("DIFFERENT", special, repr(text), want, got)

        for t in texts:
            chunk.append(t)
            n, chars = n + 1, chars + len(t)
            if len(chunk) == 100000:
                compare()
                chunk.clear()
        compare()
        print(f"{name}: {n} texts, {chars} characters, each with special tokens parsed and not; different so far: {bad}", flush=True)
    return bad


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "golden":
        golden(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 5 and sys.argv[1] == "check":
        sys.exit(check(*sys.argv[2:]) != 0)
    else:
        sys.exit(__doc__)
