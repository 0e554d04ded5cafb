/* Preloaded, it makes one call of the C library fail, of those that open, read and change files:
   `fail_next(name, n, error)` says which. A write that fails with error 0 writes a half. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char failing[16];
static long left, seen;
static int with;

void fail_next(const char *name, long n, int error)
{
    strncpy(failing, name, sizeof failing - 1);
    left = n, with = error, seen = 0;
}

long calls_seen(void)
{
    return seen;
}

static int fails(const char *name)
{
    if (strcmp(name, failing) != 0)
        return 0;
    seen++;
    if (seen != left)
        return 0;
    errno = with;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(result, name, parameters, arguments) \
    result name parameters                        \
    {                                             \
        if (fails(#name))                         \
            return -1;                            \
        return REAL(name) arguments;              \
    }

CALL(int, fsync, (int file), (file))
CALL(int, ftruncate, (int file, off_t size), (file, size))
CALL(int, ftruncate64, (int file, off_t size), (file, size))
CALL(int, rename, (const char *from, const char *to), (from, to))
CALL(int, unlink, (const char *path), (path))
CALL(int, rmdir, (const char *path), (path))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(ssize_t, read, (int file, void *data, size_t size), (file, data, size))
CALL(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
CALL(ssize_t, writev, (int file, const struct iovec *data, int count), (file, data, count))

ssize_t write(int file, const void *data, size_t size)
{
    if (fails("write")) {
        if (with)
            return -1;
        size = (size + 1) / 2;
    }
    return REAL(write)(file, data, size);
}

int close(int file) /* of what was written, where it may be the first to say that it is not there */
{
    int flags = fcntl(file, F_GETFL);
    int found = flags != -1 && (flags & O_ACCMODE) != O_RDONLY && fails("close");
    int done = REAL(close)(file);
    if (found)
        errno = with;
    return found ? -1 : done;
}

static int opened(const char *path, int flags, va_list more)
{
    if (fails("open"))
        return -1;
    return REAL(open64)(path, flags, flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0);
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int file = opened(path, flags, more);
    va_end(more);
    return file;
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int file = opened(path, flags, more);
    va_end(more);
    return file;
}
