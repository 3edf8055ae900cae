#!/usr/bin/env python3
"""The tokenizer against its oracle, Hugging Face `tokenizers`, rebuilt from the same GGUF metadata.

  golden_tokens.py golden MODEL.gguf OUT   writes OUT/tokens_*.txt and the tiny vocabularies OUT/vocab_*.gguf
  golden_tokens.py pieces OUT              writes OUT/pieces.txt: how the other pre-tokenizers cut texts
  golden_tokens.py nfc OUT                 writes OUT/nfc.txt: normal forms, and hashes of those of every code point
  golden_tokens.py json OUT                writes OUT/tokenizer.json, OUT/tokens_json.txt and OUT/pre_tokenizers.json
  golden_tokens.py spm OUT                 writes SentencePiece's BPE: OUT/vocab_spm.gguf, OUT/tokens_spm.txt (llama.cpp's ids)
                                           and OUT/tokenizer_*.json, OUT/tokens_spm-*.txt (Hugging Face's)
  golden_tokens.py kinds TOKENIZE_STREAM COUNT [KIND...]
                                           compares ids under a made-up vocabulary for each kind: every code point alone
                                           and beside others, COUNT random strings; of all but these what is decoded, too
  golden_tokens.py check MODEL.gguf TOKENIZE_STREAM DATA
                                           compares the ids of every text in DATA, every code point alone and beside
                                           others, and random strings; TOKENIZE_STREAM is tools/tokenize_stream.c built

A line of tokens_*.txt: parse_special (0 or 1), the text in hexadecimal ("-" if empty), the ids.
A line of pieces.txt: tokenizer.ggml.pre, the text in hexadecimal, the lengths of its pieces in bytes.
A line of nfc.txt: a text and its normal form C in hexadecimal; or "sha256", what stands before and behind each code
point but the surrogates (in hexadecimal, "-" if empty), and the SHA-256 of all those normal forms, a newline after each."""
import csv
import glob
import hashlib
import json
import random
import struct
import subprocess
import sys
import tempfile

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

NORMAL, CONTROL, USER = 1, 3, 4

# ---- the pre-tokenizers, as the models' tokenizer.json has them, by their name in tokenizer.ggml.pre ----
# The cased letters of deepseek-ai/deepseek-llm-7b-base; code points written out, for some are not their own NFC.
CASED = (
    r"A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386"
    r"\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf"
    r"\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    r"\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    r"\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    r"\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    r"\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
).encode().decode("unicode_escape")
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CL100K = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + "?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
digits = lambda: pre_tokenizers.Digits(individual_digits=True)
LLM = ["[\r\n]", rf"\s?[{CASED}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"]
STAGES = {
    "gpt2": [],
    "smollm": [digits()],  # HuggingFaceTB/SmolLM2-135M
    "qwen2": [split(CL100K % "")],  # Qwen/Qwen2-7B
    "llama-bpe": [split(CL100K % "{1,3}")],  # meta-llama/Meta-Llama-3-8B
    "gpt-4o": [split(O200K)],  # openai/gpt-oss-20b
    "deepseek-llm": [*map(split, LLM), digits()],
    "deepseek-v3": [*map(split, [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", V3])],  # deepseek-ai/DeepSeek-V3
}
# A GGUF does not name a normalizer; these models' tokenizer.json has NFC.
NFC = ("qwen2", "olmo")


def pre_tokenizer(pre):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt2", "olmo", "smollm"))
    return pre_tokenizers.Sequence([*STAGES.get(pre, []), byte_level])



def build(tokens, types, merges, pre):
    vocabulary = {t: i for i, t in enumerate(tokens)}
    tok = Tokenizer(models.BPE(vocabulary, [tuple(m.split(" ")) for m in merges], ignore_merges=pre == "llama-bpe"))
    tok.pre_tokenizer = pre_tokenizer(pre)
    if pre in NFC:
        tok.normalizer = normalizers.NFC()
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, y in zip(tokens, types) if y == CONTROL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t, y in zip(tokens, types) if y == USER])
    return tok


def from_gguf(path):
    fields = gguf.GGUFReader(path).fields
    get = lambda name: fields["tokenizer.ggml." + name].contents()
    return build(get("tokens"), get("token_type"), get("merges"), get("pre"))


def encode(tok, texts, special):
    if isinstance(tok, LlamaCpp):
        return [tok.encode(t, special) for t in texts]
    tok.encode_special_tokens = not special
    return [e.ids for e in tok.encode_batch_fast(texts, add_special_tokens=False)]


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


# ---- SentencePiece's BPE: Llama 2, Mixtral ----
def spm_pieces(texts, size):
    """Tokens, types and scores as sentencepiece writes them: the unknown, two control tokens, the bytes, what merging makes, the characters."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    texts = [t.replace("\0", "") for t in texts]  # no token has one
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=size // 3))
    state = json.loads(tok.to_str())["model"]
    characters = sorted(t for t in state["vocab"] if len(t) == 1 and t != "\u2581") + ["\u2581"]
    made = [a + b for a, b in state["merges"]] + ["\u2581" * n for n in (2, 4, 3, 8)] + ["aa", "aaa", "====", "=="]
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    made = [m for m in dict.fromkeys(made) if len(m) > 1 and m not in first]
    tokens = first + made + characters
    types = [2, CONTROL, CONTROL] + [6] * 256 + [NORMAL] * (len(made) + len(characters))
    scores = [0.0] * 259 + [-float(i) for i in range(len(made) + len(characters))]
    assert len(set(tokens)) == len(tokens)
    return tokens, types, scores


def spm_merges(tokens, scores):
    """As transformers' convert_slow_tokenizer.py: all ways to make a token of two, by its score."""
    vocab, merges = {t: i for i, t in enumerate(tokens)}, []
    for token, score in zip(tokens, scores):
        ways = [(token[:i], token[i:]) for i in range(1, len(token))]
        ways = sorted((w for w in ways if w[0] in vocab and w[1] in vocab), key=lambda w: (vocab[w[0]], vocab[w[1]]))
        merges += [(a, b, score) for a, b in ways]
    return [m[:2] for m in sorted(merges, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]


def spm_json(kind, tokens, scores):
    """The tokenizer.json of a kind of file: "mixtral" as the models came, "llama" as transformers 5 saves them, the others to see each part."""
    vocab = {t: i for i, t in enumerate(tokens)}
    model = models.BPE(vocab, spm_merges(tokens, scores), unk_token="<unk>", fuse_unk=kind != "unknown", byte_fallback=kind not in ("unknown", "fused"))
    tok = Tokenizer(model)
    if kind in ("mixtral", "unknown", "fused"):
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        scheme = {"llama": "first", "always": "always", "added": "never"}[kind]
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind == "always")
    if kind == "added":
        tok.normalizer = normalizers.NFC()
    strip = [] if kind == "added" else [decoders.Strip(" ", 1, 0)]
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    old = kind == "unknown"  # early files looked for the control tokens in normalised text
    tok.add_special_tokens([AddedToken(t, special=True, normalized=old) for t in tokens[:3]])
    if kind == "added":
        tok.add_special_tokens([AddedToken("<|user|>", special=True, normalized=False, rstrip=True), AddedToken("<|end|>", special=True, normalized=False, lstrip=True)])
        tok.add_tokens([AddedToken(t, normalized=True) for t in ("caf\u00e9", "caf\u00e9s", "e\u0301t", "  ")])
        tok.add_tokens([AddedToken(t, normalized=False, lstrip=True, rstrip=True) for t in ("<tool>",)])
        tok.add_tokens([AddedToken(t, normalized=False) for t in ("end", "end|>x")])
        tok.add_tokens([AddedToken(t, normalized=False, single_word=True) for t in ("1", "word", "two words")])
        tok.add_tokens([AddedToken("<w>", normalized=False, single_word=True, lstrip=True, rstrip=True)])
        tok.add_tokens([AddedToken("\u00e9l", normalized=True, single_word=True)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tok


SPM_KINDS = ("mixtral", "llama", "always", "unknown", "fused", "added")


def write_spm_vocabulary(path, tokens, types, scores):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_scores(scores)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


class LlamaCpp:
    """The vocabulary of a GGUF as llama.cpp has it, with what of Tokenizer is used here."""

    def __init__(self, path):
        import llama_cpp

        self.llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)

    def encode(self, text, special):
        return self.llama.tokenize(text.encode(), add_bos=False, special=special)


def spm_texts():
    extra = ["a  b   c", "   ", " a", "a ", "<s>a</s> b<s>", "<s> x</s>  y", "<unk>z", "<0x41><0x0A>", "\u2581", "\u2581a \u2581", "aaaaaaa", "=======", "\n\n", "a\tb",
             "caf\u00e9s cafe\u0301 e\u0301t", "<|user|>  hi<|end|> \n<|end|>", "a <tool>  b", "<|end|>x", "\u4e16\U0001f600\ue000\u0378"]
    return extra + nasty() + edge_texts()


def word_texts():
    words = ["word", "two words", "<w>", "1", "\u00e9l", "e\u0301l"]
    sides = ["", " ", "a", "_", "-", "1", "\u0301", "\u200d", "\u2460", "\u24b6", "\u00b2", "\u0663", "\u4e16", "\U0001f600", "\u2163", "<s>", "word", "\n", "\u00e9"]
    return [a + w + b for w in words for a in sides for b in sides[:7] + sides[11:12]] + ["words word", "wordword word", "two wordsx word two words", "1word 1 11 1.1", "word <w> word"]


def write_spm(out):
    texts = spm_texts()
    tokens, types, scores = spm_pieces(texts * 2, 700)
    write_spm_vocabulary(f"{out}/vocab_spm.gguf", tokens, types, scores)
    write_lines(f"{out}/tokens_spm.txt", LlamaCpp(f"{out}/vocab_spm.gguf"), texts[::2])
    for kind in ("mixtral", "added"):
        tok = spm_json(kind, tokens, scores)
        tok.save(f"{out}/tokenizer_{kind}.json", pretty=False)
        write_lines(f"{out}/tokens_spm-{kind}.txt", tok, texts[::2] + (word_texts()[::3] if kind == "added" else []))


# ---- pieces ----
EDGES = """
A'ſ we'LL'S 'RE've'D 'll' 'Lx x'sſ ''re' \'t\'
ABCdefGHI XMLHttpRequest iPhone ABCªDEF ªAB Aª ªª ʰABC aʰB ǅab Aǅ \u0301ABC \u0301 x\u0301Y \u0301\u0301Z .ABC'd !\u0301a字Ab
1234567 a1234b ¼½¾⅐ ①②③④ ٣٤٥٦ 12\u0301 1.234 \U00011de0\U00011de1
!a "b (c) _d_ -e #F ~g ^h `i` =J ?é !é .привет _\u0301x @字 a!b c?!d ♥x x♥ $€₤ +- a_b/c\\d
日本・語 ア゠イ カ゛ ー\u3040あ 漢字kanji 仮名カナ字 \u3097\u3099 一龥龦䷿ 가나힣\ud7b0 abc日本123語 、。「」 \uff21\uff22\uff01\uff5e\uff5f “a” ‘b’ ‗‟†
"""


def edge_texts():
    texts = []
    for line in EDGES.strip("\n").split("\n"):
        line = line.encode("utf-8", "surrogatepass").decode("utf-8")
        texts += [line, *line.split(" ")]
    texts += [a + b for a in ["x", "!", "é", "字", "1", "\x01", ""]
              for b in ["\n", "\n\n y", " \n  y", "  \n", "\r\n\r\nz", "/\n/a", " /\n\n//", "\u3000\u3000y", " \u2003字", "\t ", "   é", "\x0b\x85 ", " \x01\x02a", "\x01 !"]]
    random.seed(20261122)
    texts += ["".join(mixed_char() for _ in range(random.randint(2, 24))) for _ in range(80)]
    return list(dict.fromkeys(filter(None, texts)))


def pieces(out):
    with open(f"{out}/pieces.txt", "w") as f:
        for pre in list(STAGES)[2:]:
            cut = pre_tokenizer(pre)
            for text in edge_texts():
                lengths = [str(len(piece)) for piece, _ in cut.pre_tokenize_str(text)]  # a character a byte
                f.write(" ".join([pre, text.encode().hex(), *lengths]) + "\n")


# ---- normal forms ----
COMPOSING = "aeou\u00e2\u1ea0\u0915\u093c\u09c7\u09be\u1100\u1161\u11a8\uac00\u0301\u0302\u0323\u0315\u0345\u0334\u0338<=\u2126\u0344\u0958\ufb2c\U0001d160\U00011099\U000110ba \n"
CONTEXTS = [("", ""), ("e", "\u0301\u0323"), ("\u0345", "\u0334\u0301"), ("\u1100", "\u11a8"), ("a\u0315\u0300\u05ae", "\u0300b")]


def nfc_texts():
    random.seed(15)
    return ["".join(random.choice(COMPOSING) for _ in range(random.randint(1, 12))) for _ in range(300)]


def write_nfc(out):
    nfc = normalizers.NFC().normalize_str
    hexed = lambda text: text.encode().hex() or "-"
    with open(f"{out}/nfc.txt", "w") as f:
        for text in nfc_texts():
            f.write(f"{hexed(text)} {hexed(nfc(text))}\n")
        for before, after in CONTEXTS:
            forms = hashlib.sha256()
            for code in range(0x110000):
                if not 0xD800 <= code < 0xE000:
                    forms.update((nfc(before + chr(code) + after) + "\n").encode())
            f.write(f"sha256 {hexed(before)} {hexed(after)} {forms.hexdigest()}\n")


def write_json(out):
    texts = edge_texts()
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizer("llama-bpe")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts * 2, trainers.BpeTrainer(vocab_size=256 + 100, initial_alphabet=alphabet, show_progress=False))
    state = json.loads(tok.to_str())
    words = {"".join(p for p, _ in tok.pre_tokenizer.pre_tokenize_str(t)) for t in ["camel", "iPhone", " XMLHttp"]}
    for word in sorted(words):  # no merge makes these
        state["model"]["vocab"].setdefault(word, len(state["model"]["vocab"]))
    tok = Tokenizer.from_str(json.dumps(state))
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|begin_of_text|>", "<|end_of_text|>")])
    tok.add_tokens([AddedToken(t, normalized=False) for t in ("<tool>", "<tool>>")])
    bos = "<|begin_of_text|>"
    tok.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tok.token_to_id(bos))])
    tok.save(f"{out}/tokenizer.json", pretty=False)
    texts = texts[::3] + ["camel case iPhone XMLHttp", "a<tool>>b<|end_of_text|><tool>", "<|begin_of_text|>x"]
    write_lines(f"{out}/tokens_json.txt", tok, texts)
    with open(f"{out}/pre_tokenizers.json", "w") as f:
        pres = {}
        for pre in STAGES:
            tok.pre_tokenizer = pre_tokenizer(pre) if STAGES[pre] else pre_tokenizers.ByteLevel(add_prefix_space=False)
            pres[pre] = json.loads(tok.to_str())["pre_tokenizer"]
        json.dump(pres, f, indent=1)


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
    """Every code point alone in a line, and beside others; several to a text, to be quick."""
    texts = []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        c = chr(code)
        texts.append(f"{c}\na{c}b {c}{c} 1{c} '{c}\n{c}")
        if len(texts) == 16:
            yield "\n".join(texts)
            texts.clear()
    yield "\n".join(texts)


MARKS = ["word", "two words", "<w>", " 1 ", "e\u0301l", "_", "<s>", "</s>", "<unk>", "<0x41>", "\u2581", "<|user|>", "<|end|>", "<tool>", "cafe\u0301", "end|>x", "  "]


def random_texts(count):
    random.seed(7)
    characters = [mixed_char() if random.random() < 0.96 else random.choice(MARKS) for _ in range(500000)]
    for _ in range(count):
        yield "".join(random.choices(characters, k=random.randint(1, 24)))


def ours(stream, model, texts, special):
    """Of each text its ids, and what they are decoded to; None where it was refused."""
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
        at += 4
        if n == 0xFFFFFFFF:
            yield None, None
            continue
        (size,) = struct.unpack_from("<I", blob, at + 4 * n)
        yield list(struct.unpack_from(f"<{n}i", blob, at)), blob[at + 4 * n + 4 : at + 4 * n + 4 + size].decode(errors="replace")
        at += 4 * n + 4 + size


def compare_all(tok, stream, model, sources, specials):
    """How many texts have other ids than the oracle's, or are another text when the ids are decoded (not where added tokens are looked for in normalised text:
    Hugging Face decodes those as what they become there, and does not know them for special ones any more)."""
    bad = 0
    decodes = not isinstance(tok, LlamaCpp) and not any(t.normalized for t in tok.get_added_tokens_decoder().values())
    for name, texts in sources:
        n = chars = 0
        chunk = []

        def compare():
            nonlocal bad
            for special in specials:
                want = encode(tok, chunk, special)
                back = tok.decode_batch(want, skip_special_tokens=True) if decodes and name != "random" else [None] * len(chunk)
                for text, ids, decoded, (got, got_back) in zip(chunk, want, back, ours(stream, model, chunk, special)):
                    differs = decoded is not None and decoded != got_back and "\ufffd" not in decoded
                    if ids != got or differs:
                        bad += 1
                        if bad <= 20:
                            print("DIFFERENT", special, repr(text), ids, got, *([repr(decoded), repr(got_back)] if differs else []))

        for t in texts:
            chunk.append(t)
            n, chars = n + 1, chars + len(t)
            if len(chunk) == 100000:
                compare()
                chunk.clear()
        compare()
        print(f"{name}: {n} texts, {chars} characters, different so far: {bad}", flush=True)
    return bad


def check(model, stream, data):
    texts = [("nasty", nasty()), ("data", data_texts(data)), ("code points", code_points()), ("random", random_texts(300000))]
    return compare_all(from_gguf(model), stream, model, texts, (0, 1))


def byte_vocabulary(texts):
    """The merges are learned without a pre-tokenizer: they would go across any cut that is missing."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=16000, initial_alphabet=alphabet, show_progress=False))
    state = json.loads(tok.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(m) for m in state["merges"]]
    words = {"".join(p for p, _ in tok.pre_tokenizer.pre_tokenize_str(t)) for t in " hello the 123 \u65e5\u672c abc ABC \U0001f600".split(" ") + nasty()[:200] if t}
    return tokens + sorted(words - set(tokens)), merges  # no merge makes the words


def kinds(stream, count, chosen):
    random.seed(3)
    texts = spm_texts() + ["".join(mixed_char() for _ in range(12)) for _ in range(20000)]
    chosen = chosen or [*STAGES, "olmo", "spm", *("spm-" + k for k in SPM_KINDS)]
    if any(not kind.startswith("spm") for kind in chosen):
        tokens, merges = byte_vocabulary(texts)
    spm = spm_pieces(texts, 8000)
    strings = list(random_texts(count))
    bad = 0
    for kind in chosen:
        print(kind, flush=True)
        sources = [("texts", spm_texts() + word_texts()), ("code points", code_points()), ("random", strings)]
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/vocabulary.{'json' if kind.startswith('spm-') else 'gguf'}"
            if kind == "spm":
                write_spm_vocabulary(path, *spm)
                bad += compare_all(LlamaCpp(path), stream, path, sources, (1,))
            elif kind.startswith("spm-"):
                tok = spm_json(kind[4:], spm[0], spm[2])
                tok.save(path)
                bad += compare_all(tok, stream, path, sources, (1,))
            else:
                write_vocabulary(path, tokens, [NORMAL] * len(tokens), merges, kind)
                bad += compare_all(from_gguf(path), stream, path, sources, (0,))
    return bad


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "golden":
        golden(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 3 and sys.argv[1] == "pieces":
        pieces(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "spm":
        write_spm(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "nfc":
        write_nfc(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "json":
        write_json(sys.argv[2])
    elif len(sys.argv) >= 4 and sys.argv[1] == "kinds":
        sys.exit(kinds(sys.argv[2], int(sys.argv[3]), sys.argv[4:]) != 0)
    elif len(sys.argv) == 5 and sys.argv[1] == "check":
        sys.exit(check(*sys.argv[2:]) != 0)
    else:
        sys.exit(__doc__)
