/* kernels.c: which table this CPU gets. */
#include "kernels/gemm.h"

#include "base/status.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

enum { MAX_TABLES = 4 };

static pthread_once_t probe_once = PTHREAD_ONCE_INIT;
static const vm_kernels *tables[MAX_TABLES]; /* [n_tables], ref first, the best last */
static int n_tables;
static const vm_kernels *chosen;
static char refused[32]; /* the value of VMOER_ISA that this CPU cannot run, "" if none */
static const vm_kernels *forced;

#if defined(__x86_64__)
/* AMX needs the CPU's three features and, on Linux, a permission a process asks for once (its tiles enlarge every
 * signal frame). Read by cpuid: gcc 12's __builtin_cpu_supports does not know them. */
static bool amx_usable(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    if (!(d & amx_bf16) || !(d & amx_tile)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}
#endif

static void probe(void) {
    tables[n_tables++] = &vm_kernels_ref;
#if defined(__x86_64__)
    /* The builtins also ask whether the operating system saves the registers (xgetbv). */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables[n_tables++] = &vm_kernels_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        bool bf16 = __builtin_cpu_supports("avx512bf16");
        tables[n_tables++] = bf16 ? &vm_kernels_avx512_bf16 : &vm_kernels_avx512;
        if (bf16 && amx_usable()) tables[n_tables++] = &vm_kernels_amx;
    }
#endif
    chosen = tables[n_tables - 1];
    const char *wanted = getenv("VMOER_ISA");
    if (!wanted || !*wanted) return;
    for (int i = 0; i < n_tables; i++) {
        if (strcmp(tables[i]->name, wanted) == 0) {
            chosen = tables[i];
            return;
        }
    }
    strncpy(refused, wanted, sizeof refused - 1);
}

const vm_kernels *vm_kernels_get(void) {
    pthread_once(&probe_once, probe);
    return forced ? forced : chosen;
}

vmoer_status vm_kernels_status(void) {
    pthread_once(&probe_once, probe);
    if (!refused[0]) return VMOER_OK;
    return vm_error(
        VMOER_ERROR_UNSUPPORTED,
        "VMOER_ISA=%s: this CPU runs no kernels of that name; of ref, avx2, avx512, amx it has those up to %s", refused,
        chosen->name);
}

int vm_kernels_all(const vm_kernels **out, int max) {
    pthread_once(&probe_once, probe);
    int count = n_tables < max ? n_tables : max;
    for (int i = 0; i < count; i++) out[i] = tables[i];
    return count;
}

void vm_kernels_force(const vm_kernels *k) { forced = k; }
