/* file.c: maps for reading; a writer whose file appears whole or not at all. */
#include "base/file.h"

#include "base/memory.h"
#include "base/status.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static vmoer_status io_error(const char *path, const char *what) {
    int saved = errno;
    return vm_error(saved == ENOMEM ? VMOER_ERROR_MEMORY : VMOER_ERROR_IO, "%s: %s: %s", path, what, strerror(saved));
}

/* A regular file for reading; O_NONBLOCK so that a pipe in its place is refused instead of waited for. */
static vmoer_status open_regular(const char *path, int *out_fd, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return io_error(path, "cannot open");
    struct stat st;
    if (fstat(fd, &st) != 0) {
        vmoer_status status = io_error(path, "cannot stat");
        close(fd);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return vm_error(VMOER_ERROR_IO, "%s: not a regular file", path);
    }
    *out_fd = fd;
    *size = (size_t)st.st_size;
    return VMOER_OK;
}

vmoer_status vm_map_open(const char *path, vm_map *out) {
    *out = (vm_map){0};
    int fd;
    size_t size;
    VM_TRY(open_regular(path, &fd, &size));
    if (size == 0) {
        close(fd);
        return VMOER_OK;
    }
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    vmoer_status status = data == MAP_FAILED ? io_error(path, "cannot map") : VMOER_OK;
    close(fd);
    if (status == VMOER_OK) *out = (vm_map){.data = data, .size = size};
    return status;
}

void vm_map_close(vm_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (vm_map){0};
}

void vm_map_release(const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)data + page - 1) / page * page,
              to = ((uintptr_t)data + size) / page * page;
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

/* ---- writer ---- */

enum { BUFFER_SIZE = 64 * 1024 };

struct vm_writer {
    int fd;
    char *path;      /* the target; a symbolic link is followed, so that it stays a link */
    char *temporary; /* beside it: a rename does not leave the file system */
    uint64_t offset; /* bytes taken so far, buffered ones included */
    size_t buffered;
    char buffer[BUFFER_SIZE];
};

static void free_writer(vm_writer *w) {
    if (w->fd >= 0) close(w->fd);
    vm_free(w->path);
    vm_free(w->temporary);
    vm_free(w);
}

static vmoer_status resolve_target(const char *path, char **out) {
    struct stat st;
    char *resolved = NULL;
    if (stat(path, &st) == 0) {
        /* A device or a folder must not be renamed over. */
        if (!S_ISREG(st.st_mode)) return vm_error(VMOER_ERROR_IO, "%s: exists and is not a regular file", path);
        resolved = realpath(path, NULL);
        if (!resolved) return io_error(path, "cannot resolve");
    }
    *out = vm_strdup(resolved ? resolved : path);
    free(resolved);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
}

vmoer_status vm_writer_open(const char *path, vm_writer **out) {
    *out = NULL;
    vm_writer *w = vm_malloc(1, sizeof *w);
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    w->fd = -1;
    w->path = w->temporary = NULL;
    w->offset = 0;
    w->buffered = 0;
    vmoer_status status;
    VM_GOTO(resolve_target(path, &w->path));
    size_t room = strlen(w->path) + 48;
    w->temporary = vm_malloc(room, 1);
    if (!w->temporary) {
        status = vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
        goto done;
    }
    /* O_EXCL with our own name, not mkstemp: the file gets the rights that the umask gives any new file. */
    for (unsigned attempt = 0; w->fd < 0; attempt++) {
        snprintf(w->temporary, room, "%s.%ld.%u.tmp", w->path, (long)getpid(), attempt);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd < 0 && (errno != EEXIST || attempt == 1000)) {
            status = io_error(w->temporary, "cannot create");
            goto done;
        }
    }
    *out = w;
    return VMOER_OK;
done:
    free_writer(w);
    return status;
}

vmoer_status vm_write_all(int fd, const char *path, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        size_t part = size < ((size_t)1 << 30) ? size : (size_t)1 << 30;
        ssize_t n = write(fd, at, part);
        if (n < 0) {
            if (errno == EINTR) continue;
            return io_error(path, "cannot write");
        }
        at += n;
        size -= (size_t)n;
    }
    return VMOER_OK;
}

static vmoer_status flush(vm_writer *w) {
    size_t size = w->buffered;
    w->buffered = 0;
    return vm_write_all(w->fd, w->temporary, w->buffer, size);
}

vmoer_status vm_writer_write(vm_writer *w, const void *data, size_t size) {
    if (size == 0) return VMOER_OK;
    w->offset += size;
    if (size > BUFFER_SIZE - w->buffered) {
        VM_TRY(flush(w));
        if (size >= BUFFER_SIZE) return vm_write_all(w->fd, w->temporary, data, size);
    }
    memcpy(w->buffer + w->buffered, data, size);
    w->buffered += size;
    return VMOER_OK;
}

uint64_t vm_writer_offset(const vm_writer *w) { return w->offset; }

/* Makes the rename itself durable. File systems that cannot sync a folder say EINVAL; there is nothing more to do then.
 */
static vmoer_status sync_folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? vm_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : vm_strdup(".");
    if (!folder) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status = VMOER_OK;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL)) status = io_error(folder, "cannot sync");
    if (fd >= 0) close(fd);
    vm_free(folder);
    return status;
}

vmoer_status vm_writer_commit(vm_writer *w) {
    vmoer_status status;
    VM_GOTO(flush(w));
    if (fsync(w->fd) != 0) {
        status = io_error(w->temporary, "cannot sync");
        goto done;
    }
    int closed = close(w->fd);
    w->fd = -1;
    if (closed != 0) {
        status = io_error(w->temporary, "cannot close");
        goto done;
    }
    if (rename(w->temporary, w->path) != 0) {
        status = io_error(w->path, "cannot rename into place");
        goto done;
    }
    status = sync_folder_of(w->path);
    free_writer(w);
    return status;
done:
    vm_writer_abort(w);
    return status;
}

void vm_writer_abort(vm_writer *w) {
    if (!w) return;
    unlink(w->temporary);
    free_writer(w);
}

vmoer_status vm_write_file(const char *path, const void *data, size_t size) {
    vm_writer *w;
    VM_TRY(vm_writer_open(path, &w));
    vmoer_status status = vm_writer_write(w, data, size);
    if (status != VMOER_OK) {
        vm_writer_abort(w);
        return status;
    }
    return vm_writer_commit(w);
}

/* ---- paths ---- */

static vmoer_status make_dir(const char *path) {
    if (mkdir(path, 0777) == 0) return VMOER_OK;
    int saved = errno;
    struct stat st;
    if (saved == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return VMOER_OK;
    errno = saved;
    return io_error(path, "cannot make the folder");
}

vmoer_status vm_make_dirs(const char *path) {
    char *copy = vm_strdup(path);
    if (!copy) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status = VMOER_OK;
    for (char *p = copy; *p && status == VMOER_OK; p++) {
        if (*p != '/' || p == copy) continue;
        *p = '\0';
        status = make_dir(copy);
        *p = '/';
    }
    if (status == VMOER_OK) status = make_dir(copy);
    vm_free(copy);
    return status;
}

/* ---- folders ---- */

static bool is_dot(const char *name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

static bool is_empty(const char *path) {
    DIR *dir = opendir(path);
    struct dirent *entry;
    bool empty = dir != NULL;
    while (empty && (entry = readdir(dir))) empty = is_dot(entry->d_name);
    if (dir) closedir(dir);
    return empty;
}

vmoer_status vm_folder_open(const char *path, char *temporary, size_t size) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (vm_file_exists(path) && !is_empty(path))
        return vm_error(VMOER_ERROR_IO, "%s: exists, and is no empty folder", path);
    for (unsigned attempt = 0; attempt < 1000; attempt++) {
        int n = snprintf(temporary, size, "%.*s.%ld.%u.tmp", (int)length, path, (long)getpid(), attempt);
        if (n < 0 || (size_t)n >= size) return vm_error(VMOER_ERROR_LIMIT, "%s: the path is too long", path);
        if (mkdir(temporary, 0777) == 0) return VMOER_OK;
        if (errno != EEXIST) break;
    }
    return io_error(temporary, "cannot make the folder");
}

vmoer_status vm_folder_commit(const char *temporary, const char *path) {
    if (rename(temporary, path) != 0) return io_error(path, "cannot rename into place");
    return sync_folder_of(path);
}

void vm_folder_abort(const char *temporary) {
    DIR *dir = opendir(temporary);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (!is_dot(entry->d_name)) unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir) closedir(dir);
    rmdir(temporary);
}

bool vm_file_exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

bool vm_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

vmoer_status vm_path_join(char *out, size_t size, const char *dir, const char *name) {
    size_t length = strlen(dir);
    const char *separator = length > 0 && dir[length - 1] == '/' ? "" : "/";
    int n = snprintf(out, size, "%s%s%s", dir, separator, name);
    if (n < 0 || (size_t)n >= size)
        return vm_error(VMOER_ERROR_LIMIT, "path of %zu bytes is too long: %s/%s", length + strlen(name) + 1, dir,
                        name);
    return VMOER_OK;
}

/* ---- SHA-256 (OpenSSL) ---- */

static void to_hex(const unsigned char digest[32], char hex[65]) {
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void vm_sha256(const void *data, size_t size, char hex[65]) {
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    size_t length = 0;
    /* Fails only where OpenSSL itself has no memory: all zeros then, which is no file's hash. */
    EVP_Q_digest(NULL, "SHA256", NULL, data, size, digest, &length);
    to_hex(digest, hex);
}

void vm_sha256_pieces(const uint8_t *(*next)(void *context, size_t *size), void *context, char hex[65]) {
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    const uint8_t *piece;
    size_t size;
    if (sha && EVP_DigestInit_ex(sha, EVP_sha256(), NULL)) {
        while ((piece = next(context, &size))) EVP_DigestUpdate(sha, piece, size);
        EVP_DigestFinal_ex(sha, digest, NULL);
    }
    EVP_MD_CTX_free(sha);
    to_hex(digest, hex);
}

vmoer_status vm_sha256_file(const char *path, char hex[65]) {
    hex[0] = '\0';
    int fd;
    size_t size;
    VM_TRY(open_regular(path, &fd, &size));
    enum { PART = 1 << 20 };
    vmoer_status status = VMOER_OK;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    void *part = vm_malloc(PART, 1);
    if (!context || !part || !EVP_DigestInit_ex(context, EVP_sha256(), NULL)) {
        status = vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
        goto done;
    }
    /* Read, not mapped: a file that shrinks meanwhile gives an error or another hash, not a signal. */
    for (;;) {
        ssize_t n = read(fd, part, PART);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = io_error(path, "cannot read");
            goto done;
        }
        if (n == 0) break;
        EVP_DigestUpdate(context, part, (size_t)n);
    }
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_DigestFinal_ex(context, digest, NULL);
    to_hex(digest, hex);
done:
    EVP_MD_CTX_free(context);
    vm_free(part);
    close(fd);
    return status;
}
