/* test_dtype.c: conversions of element types against their definitions and against the reference's file. */
#include "base/dtype.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "io/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static void f16_to_f32_follows_the_definition(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = vm_f16_to_f32((uint16_t)h);
        int exponent = (h >> 10) & 31, mantissa = h & 1023;
        if (exponent == 31) {
            assert_true(mantissa ? isnan(f) : isinf(f));
        } else {
            double expected = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
            assert_true(fabsf(f) == expected);
        }
        assert_int_equal(signbit(f) != 0, h >> 15);
        if (!isnan(f))
            assert_int_equal(vm_f32_to_f16(f), h);
        else
            assert_int_equal(vm_f32_to_f16(f), h | 0x200);
    }
}

/* Between each two neighbours the midpoint goes to the even one and what is beside it to the nearer one: with the
 * exact values above, this is all of f32. */
static void f32_to_f16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = vm_f16_to_f32((uint16_t)h);
        float high =
            h == 0x7bff ? 65536.0f : vm_f16_to_f32((uint16_t)(h + 1)); /* beyond the largest: as if it went on */
        float middle = (float)(((double)low + high) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        assert_int_equal(vm_f32_to_f16(middle), even);
        assert_int_equal(vm_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(vm_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(vm_f32_to_f16(-middle), even | 0x8000);
    }
    assert_int_equal(vm_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(vm_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(vm_f32_to_f16(1e-30f), 0);
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        float middle;
        uint32_t bits = h << 16 | 0x8000;
        memcpy(&middle, &bits, 4);
        assert_int_equal(vm_f32_to_bf16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(vm_f32_to_bf16(nextafterf(middle, 0)), h);
        assert_int_equal(vm_f32_to_bf16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(bits_of(vm_bf16_to_f32((uint16_t)h)), h << 16);
    }
    assert_true(isnan(vm_bf16_to_f32(vm_f32_to_bf16(NAN))));
}

static void blocks_and_names(void **state) {
    (void)state;
    size_t elements, bytes;
    assert_true(vm_dtype_block(VM_Q4_1, &elements, &bytes));
    assert_int_equal(elements, 32);
    assert_int_equal(bytes, 20);
    assert_true(vm_dtype_block(VM_Q4_K, &elements, &bytes));
    assert_int_equal(elements, 256);
    assert_int_equal(bytes, 144);
    static const uint32_t absent[] = {4, 5, 31, 32, 33, 36, 37, 38, 42, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        assert_false(vm_dtype_block(absent[i], &elements, &bytes));
        assert_string_equal(vm_dtype_name(absent[i]), "?");
    }
    assert_string_equal(vm_dtype_name(VM_BF16), "BF16");
}

static vm_gguf *open_golden(const char *name) {
    const char *tests = getenv("VMOER_TESTS");
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/%s", tests ? tests : VMOER_TESTS_DIR, name);
    vm_gguf *g;
    assert_int_equal(vm_gguf_open(path, &g), VMOER_OK);
    return g;
}

/* Every type in the file of tools/make_io_golden.py: the bits of the reference's values. */
static void dequantizes_as_the_reference(void **state) {
    (void)state;
    vm_gguf *g = open_golden("io-types.gguf");
    static const char *const names[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char expected_name[32];
        snprintf(expected_name, sizeof expected_name, "%s.expected", names[i]);
        const vm_gguf_tensor *t = vm_gguf_find_tensor(g, names[i]), *expected = vm_gguf_find_tensor(g, expected_name);
        assert_non_null(t);
        assert_non_null(expected);
        assert_string_equal(vm_dtype_name(t->type), names[i]);
        float values[192];
        assert_int_equal(t->ne[0] * t->ne[1], 192);
        assert_true(vm_dequantize(t->type, t->data, 192, values));
        assert_memory_equal(values, expected->data, sizeof values);
    }
    /* Quantizing the original values gives the reference's bytes. */
    const vm_gguf_tensor *original = vm_gguf_find_tensor(g, "F32");
    for (int i = 1; i < 5; i++) {
        const vm_gguf_tensor *t = vm_gguf_find_tensor(g, names[i]);
        float values[192];
        uint8_t bytes[192 * 4];
        memcpy(values, original->data, sizeof values);
        assert_true(vm_quantize(t->type, values, 192, bytes));
        assert_memory_equal(bytes, t->data, t->size);
    }
    vm_gguf_free(g);
}

enum { BLOCKS = 4096 };

/* The rule of tools/golden_blocks.py. */
static void random_blocks(uint8_t *out, size_t block) {
    static const uint16_t special[8] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x7c00, 0xfc00, 0x7e00, 0x7c01};
    for (size_t i = 0; i < BLOCKS * block; i++) {
        uint64_t z = (i / 8 + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        out[i] = (uint8_t)((z ^ z >> 31) >> i % 8 * 8);
    }
    for (size_t b = 0; b < BLOCKS; b++)
        for (size_t i = 0; b % 64 < 8 && i < block; i++) out[b * block + i] = (uint8_t)(special[b % 64] >> i % 2 * 8);
}

static void one_nan(float *values, size_t n) {
    static const uint32_t quiet = 0x7fc00000;
    for (size_t i = 0; i < n; i++)
        if (isnan(values[i])) memcpy(&values[i], &quiet, 4);
}

/* Every quantised type: one row value by value, and thousands of blocks by the hash of their values. Scales that are
 * subnormal, infinite or no number are among them. */
static void blocks_mean_what_the_reference_says(void **state) {
    (void)state;
    vm_gguf *g = open_golden("blocks.gguf");
    static const uint32_t types[] = {VM_Q4_0, VM_Q4_1, VM_Q5_0, VM_Q5_1,   VM_Q8_0,   VM_Q2_K, VM_Q3_K,
                                     VM_Q4_K, VM_Q5_K, VM_Q6_K, VM_IQ4_NL, VM_IQ4_XS, VM_MXFP4};
    uint8_t *blocks = vm_malloc(BLOCKS, 256);
    float *values = vm_malloc(BLOCKS, 256 * sizeof *values);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char name[64], hex[65];
        size_t elements, bytes, length;
        const char *expected_hash;
        const vm_gguf_tensor *t = vm_gguf_find_tensor(g, vm_dtype_name(types[i]));
        assert_non_null(t);
        assert_int_equal(t->type, types[i]);
        snprintf(name, sizeof name, "%s.expected", t->name);
        const vm_gguf_tensor *expected = vm_gguf_find_tensor(g, name);
        assert_non_null(expected);
        assert_int_equal(expected->size, 256 * sizeof *values);
        assert_true(vm_dequantize(types[i], t->data, 256, values));
        one_nan(values, 256);
        for (int k = 0; k < 256; k++) {
            float e;
            memcpy(&e, expected->data + k * sizeof e, sizeof e);
            if (bits_of(values[k]) != bits_of(e)) fail_msg("%s: element %d is %g, not %g", t->name, k, values[k], e);
        }
        assert_true(vm_dtype_block(types[i], &elements, &bytes));
        random_blocks(blocks, bytes);
        assert_true(vm_dequantize(types[i], blocks, BLOCKS * elements, values));
        one_nan(values, BLOCKS * elements);
        vm_sha256(values, BLOCKS * elements * sizeof *values, hex);
        snprintf(name, sizeof name, "sha256.%s", t->name);
        assert_int_equal(vm_gguf_get_string(g, name, &expected_hash, &length), VMOER_OK);
        assert_int_equal(length, 64);
        if (memcmp(hex, expected_hash, 64) != 0) fail_msg("%s: blocks of other values", t->name);
    }
    vm_free(blocks);
    vm_free(values);
    vm_gguf_free(g);
}

/* As one block after the other, from anywhere in memory. */
static void rows_are_their_blocks(void **state) {
    (void)state;
    uint8_t *blocks = vm_malloc(BLOCKS, 256), *apart = vm_malloc(1, 257);
    float *values = vm_malloc(BLOCKS, 256 * sizeof *values), alone[256];
    for (uint32_t type = 0; type < 42; type++) {
        size_t elements, bytes;
        if (!vm_dequantize(type, NULL, 0, NULL)) continue;
        assert_true(vm_dtype_block(type, &elements, &bytes));
        random_blocks(blocks, bytes);
        assert_true(vm_dequantize(type, blocks, BLOCKS * elements, values));
        for (size_t b = 0; b < BLOCKS; b++) {
            memcpy(apart + 1, blocks + b * bytes, bytes);
            assert_true(vm_dequantize(type, apart + 1, elements, alone));
            one_nan(alone, elements);
            one_nan(values + b * elements, elements);
            assert_memory_equal(alone, values + b * elements, elements * sizeof *alone);
        }
    }
    vm_free(blocks);
    vm_free(apart);
    vm_free(values);
}

/* What messages say can be read is what can be read. */
static void the_list_of_types_is_whole(void **state) {
    (void)state;
    char list[256] = VM_DTYPES;
    int listed = 0, readable = 0;
    for (uint32_t type = 0; type < 64; type++) readable += vm_dequantize(type, NULL, 0, NULL);
    for (char *name = strtok(list, ", "); name; name = strtok(NULL, ", ")) {
        if (strcmp(name, "to") == 0) { /* Q2_K to Q6_K: the three between them */
            listed += 3;
            for (uint32_t type = VM_Q2_K; type <= VM_Q6_K; type++) assert_true(vm_dequantize(type, NULL, 0, NULL));
            continue;
        }
        listed++;
        bool found = false;
        for (uint32_t type = 0; type < 64; type++)
            found |= strcmp(vm_dtype_name(type), name) == 0 && vm_dequantize(type, NULL, 0, NULL);
        if (!found) fail_msg("%s cannot be read", name);
    }
    assert_int_equal(listed, readable);
}

static void refuses_what_it_cannot_convert(void **state) {
    (void)state;
    uint8_t block[144] = {0};
    float values[256];
    assert_false(vm_dequantize(VM_Q8_0, block, 31, values));
    assert_false(vm_dequantize(VM_Q4_K, block, 32, values));
    assert_false(vm_dequantize(9, block, 32, values)); /* Q8_1: known by size only */
    assert_false(vm_dequantize(99, block, 32, values));
    assert_false(vm_quantize(VM_Q4_1, values, 32, block));
    assert_true(vm_dequantize(VM_F32, NULL, 0, NULL));
}

/* The reference's own quantisation of normal numbers loses .0713 (Q4_K) and .0178 (Q6_K) of their root mean square. */
static void k_quants_lose_little(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    static const struct {
        uint32_t type;
        double most;
    } kinds[] = {{VM_Q8_0, 0.0055}, {VM_Q4_0, 0.087}, {VM_Q4_K, 0.0703}, {VM_Q6_K, 0.0172}};
    float *x = vm_malloc(N, sizeof *x), *y = vm_malloc(N, sizeof *y);
    uint8_t *stored = vm_malloc(N, 2);
    vm_rng rng = vm_rng_start(5, VM_RNG_INIT, 0);
    for (int i = 0; i < N; i++) x[i] = 0.02f * vm_rng_normal(&rng);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        double error = 0, energy = 0;
        assert_true(vm_quantize(kinds[k].type, x, N, stored));
        assert_true(vm_dequantize(kinds[k].type, stored, N, y));
        for (int i = 0; i < N; i++) {
            error += (y[i] - x[i]) * (double)(y[i] - x[i]);
            energy += x[i] * (double)x[i];
        }
        if (!(sqrt(error / energy) < kinds[k].most))
            fail_msg("%s loses %.5f", vm_dtype_name(kinds[k].type), sqrt(error / energy));
    }
    vm_free(x);
    vm_free(y);
    vm_free(stored);
}

/* What a type holds exactly comes back: zeros; one value everywhere; whole multiples of
 * a scale, up to its rounding to 63rds of the largest. */
static void what_fits_is_kept(void **state) {
    (void)state;
    static const uint32_t types[] = {VM_Q8_0, VM_Q4_0, VM_Q4_K, VM_Q6_K};
    float x[256], y[256];
    uint8_t block[512];
    for (size_t k = 0; k < 4; k++) {
        for (int i = 0; i < 256; i++) x[i] = 0;
        assert_true(vm_quantize(types[k], x, 256, block) && vm_dequantize(types[k], block, 256, y));
        for (int i = 0; i < 256; i++) assert_true(y[i] == 0);
        for (int sign = -1; sign <= 1; sign += 2) {
            for (int i = 0; i < 256; i++) x[i] = 0.37f * (float)sign;
            assert_true(vm_quantize(types[k], x, 256, block) && vm_dequantize(types[k], block, 256, y));
            for (int i = 0; i < 256; i++) assert_true(fabsf(y[i] - x[i]) < 4e-4f);
        }
    }
    for (int i = 0; i < 256; i++) x[i] = (float)((i * 7 + i / 32) % 16 - 5) * 0.125f * (float)(1 + i / 32);
    assert_true(vm_quantize(VM_Q4_K, x, 256, block) && vm_dequantize(VM_Q4_K, block, 256, y));
    for (int i = 0; i < 256; i++) assert_true(fabsf(y[i] - x[i]) < 0.2f * 0.125f * (float)(1 + i / 32));
}

static void quantizing_survives_any_value(void **state) {
    (void)state;
    static const uint32_t types[] = {VM_Q8_0, VM_Q4_0, VM_Q4_K, VM_Q6_K};
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, -1e-45f, 0};
    float values[256];
    uint8_t block[512];
    for (size_t k = 0; k < 4; k++) {
        for (size_t mask = 1; mask < 256; mask++) {
            for (int i = 0; i < 256; i++) values[i] = mask >> i % 8 & 1 ? odd[i % 8] : 1;
            assert_true(vm_quantize(types[k], values, 256, block));
        }
        for (int i = 0; i < 256; i++) values[i] = i % 2 ? 1e-45f : -1e-45f;
        assert_true(vm_quantize(types[k], values, 256, block));
        assert_true(vm_dequantize(types[k], block, 256, values));
        for (int i = 0; i < 256; i++) assert_true(values[i] == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_to_f32_follows_the_definition),
        cmocka_unit_test(f32_to_f16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(blocks_and_names),
        cmocka_unit_test(dequantizes_as_the_reference),
        cmocka_unit_test(blocks_mean_what_the_reference_says),
        cmocka_unit_test(rows_are_their_blocks),
        cmocka_unit_test(the_list_of_types_is_whole),
        cmocka_unit_test(refuses_what_it_cannot_convert),
        cmocka_unit_test(k_quants_lose_little),
        cmocka_unit_test(what_fits_is_kept),
        cmocka_unit_test(quantizing_survives_any_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
