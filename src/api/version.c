/* version.c: who we are and how the last call failed. */
#include "vmoer/vmoer.h"

#include "base/status.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static char build_info[256];

static void build_info_write(void) {
    snprintf(build_info, sizeof build_info, "%s (commit %s, %s, ISA %s)", VMOER_VERSION, VMOER_COMMIT, COMPILER,
             vm_kernels_get()->name);
}

const char *vmoer_last_error(void) { return vm_error_text(); }

const char *vmoer_status_text(vmoer_status status) { return vm_status_text(status); }

const char *vmoer_version(void) { return VMOER_VERSION; }

const char *vmoer_build_info(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build_info_write);
    return build_info;
}

void vmoer_free(void *text) { free(text); }
