/* file.h: reading by map, writing atomically (temporary file beside the target, fsync, rename, fsync of the folder). */
#ifndef VM_BASE_FILE_H
#define VM_BASE_FILE_H

#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct vm_map {
    const uint8_t *data; /* [size], read-only; NULL when size is 0 */
    size_t size;         /* bytes */
} vm_map;
vmoer_status vm_map_open(const char *path, vm_map *out);
void vm_map_close(vm_map *map);
/* Of a map: bytes that are not soon looked at again need no memory until then. */
void vm_map_release(const void *data, size_t size);

typedef struct vm_writer vm_writer;
vmoer_status vm_writer_open(const char *path, vm_writer **out);
vmoer_status vm_writer_write(vm_writer *w, const void *data, size_t size);
uint64_t vm_writer_offset(const vm_writer *w);
vmoer_status vm_writer_commit(vm_writer *w); /* makes the file appear under its name; frees w in any case */
void vm_writer_abort(vm_writer *w);          /* removes the temporary file; frees w; takes NULL */

/* All of data to fd, also where a call takes only a part of it or a signal comes between; path is for the error. */
vmoer_status vm_write_all(int fd, const char *path, const void *data, size_t size);
vmoer_status vm_write_file(const char *path, const void *data, size_t size);
vmoer_status vm_make_dirs(const char *path); /* mkdir -p */
/* A folder of files that appears whole: made under a name of its own beside `path`, which is temporary[size] and in which the files are written, and
 * then given the name. path: no such thing, or an empty folder. */
vmoer_status vm_folder_open(const char *path, char *temporary, size_t size);
vmoer_status vm_folder_commit(const char *temporary, const char *path);
void vm_folder_abort(const char *temporary); /* removes it and the files in it */
bool vm_file_exists(const char *path); /* also a link that leads nowhere: what opens it says so */
bool vm_is_folder(const char *path);
/* dir + "/" + name into out[size]; VMOER_ERROR_LIMIT if it does not fit. */
vmoer_status vm_path_join(char *out, size_t size, const char *dir, const char *name);

/* SHA-256 as 64 hex digits + NUL. */
void vm_sha256(const void *data, size_t size, char hex[65]);
/* The same of several pieces one after the other: `next` gives each, NULL where there are no more. */
void vm_sha256_pieces(const uint8_t *(*next)(void *context, size_t *size), void *context, char hex[65]);
vmoer_status vm_sha256_file(const char *path, char hex[65]);

#endif
