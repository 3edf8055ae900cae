"""vmoer's draws, written again from src/base/rng.h and src/router (Philox4x32-10, Box-Muller), so that a golden file can state a
seed instead of carrying a table of random numbers."""
import numpy as np

ROUTE, INFERENCE = 3, 4
MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK32, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK32]
        k = [(k[0] + 0x9E3779B9) & MASK32, (k[1] + 0xBB67AE85) & MASK32]
    return c


def block(seed, purpose, counter):
    z = (seed + purpose * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    z ^= z >> 31
    return philox(counter, (z & MASK32, z >> 32))


def normals(seed, purpose, counter):
    words = block(seed, purpose, counter)
    out = []
    for a, b in (words[:2], words[2:]):
        radius = np.sqrt(-2 * np.log((a + 0.5) / 2 ** 32))
        angle = 2 * np.pi * ((b >> 8) / 2 ** 24)
        out += [radius * np.cos(angle), radius * np.sin(angle)]
    return out


def route_draw(seed, step, item, part, position, layer, draw, n):
    """eps [n] of one token in one Bayesian layer, in training."""
    word = block(seed, ROUTE, (step & MASK32, step >> 32, 0, 0x40000000))
    key = word[0] | word[1] << 32
    out = []
    for i in range(0, n, 4):
        out += normals(key, ROUTE, (item, part << 16 | position, layer << 16 | draw, i // 4))
    return np.array(out[:n], np.float32)


def inference_table(seed, layer, pairs, n):
    """eps [pairs, n]: the same for every token of a layer."""
    return np.array([[v for i in range(0, n, 4) for v in normals(seed, INFERENCE, (layer, pair, i // 4, 0))][:n]
                     for pair in range(pairs)], np.float32)
