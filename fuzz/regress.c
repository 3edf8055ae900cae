/* regress.c: runs a fuzz target over its committed corpus, so that every input that once broke a parser stays in the
 * ordinary tests. Arguments: files or folders (searched to any depth). Fails where nothing was found to run. */
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int n_run;

static int run_file(const char *path, const struct stat *info, int kind, struct FTW *position) {
    (void)position;
    if (kind != FTW_F) return 0;
    size_t size = (size_t)info->st_size;
    uint8_t *data = malloc(size ? size : 1); /* exact, so that a read past the end meets the sanitizer's red zone */
    FILE *file = fopen(path, "rb");
    int failed = !data || !file || fread(data, 1, size, file) != size;
    if (file) fclose(file);
    if (failed) {
        fprintf(stderr, "regress: cannot read %s\n", path);
    } else {
        LLVMFuzzerTestOneInput(data, size);
        n_run++;
    }
    free(data);
    return failed;
}

int main(int argc, char **argv) {
    const uint8_t empty = 0;
    LLVMFuzzerTestOneInput(&empty, 0);
    for (int i = 1; i < argc; i++) {
        if (nftw(argv[i], run_file, 16, FTW_PHYS) != 0) {
            fprintf(stderr, "regress: stopped at %s\n", argv[i]);
            return 1;
        }
    }
    printf("regress: %d inputs\n", n_run);
    return n_run == 0;
}
