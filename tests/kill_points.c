// Ends a process at its n-th call that changes the disk. Preloaded; armed through ctypes by kill_points.py.
//
// A write counts twice: the process ends before it, or in the middle of it. The count goes on in processes
// that are forked; the one that armed it takes its whole group along, another dies alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

struct state { long calls, end_at, owner; };
static struct state *state;

__attribute__((constructor)) static void begin(void) {
    state = mmap(0, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void arm(long n) { state->calls = 0, state->owner = getpid(), state->end_at = n; }
long calls(void) { return state->calls; }

static int is_last(void) {
    return state->end_at && __atomic_add_fetch(&state->calls, 1, __ATOMIC_SEQ_CST) == state->end_at;
}

static void end(void) {
    kill(getpid() == state->owner ? 0 : getpid(), SIGKILL);
    _exit(137);
}

static int is_file(int fd) {
    struct stat found;
    return !fstat(fd, &found) && S_ISREG(found.st_mode);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define CHANGES(name, parameters, arguments) \
    int name parameters { if (is_last()) end(); return NEXT(name) arguments; }

#define WRITES(name, parameters, half, all) \
    ssize_t name parameters {                              \
        if (is_file(fd)) {                                 \
            if (is_last()) end();                          \
            if (is_last()) { NEXT(name) half; end(); }     \
        }                                                  \
        return NEXT(name) all;                             \
    }

#define OPENS(name, parameters, arguments) \
    int name parameters {                                                      \
        va_list rest; va_start(rest, flags);                                   \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (flags & (O_CREAT | O_TRUNC) && is_last()) end();                   \
        return NEXT(name) arguments;                                           \
    }

WRITES(write, (int fd, const void *data, size_t size), (fd, data, size / 2), (fd, data, size))
WRITES(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size / 2, at), (fd, data, size, at))
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size / 2, at), (fd, data, size, at))
WRITES(sendfile, (int fd, int in, off_t *at, size_t size), (fd, in, at, size / 2), (fd, in, at, size))
WRITES(sendfile64, (int fd, int in, off64_t *at, size_t size), (fd, in, at, size / 2), (fd, in, at, size))
OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))
CHANGES(rename, (const char *old, const char *new), (old, new))
CHANGES(renameat, (int at, const char *old, int to, const char *new), (at, old, to, new))
CHANGES(renameat2, (int at, const char *old, int to, const char *new, unsigned flags), (at, old, to, new, flags))
CHANGES(link, (const char *old, const char *new), (old, new))
CHANGES(linkat, (int at, const char *old, int to, const char *new, int flags), (at, old, to, new, flags))
CHANGES(unlink, (const char *path), (path))
CHANGES(unlinkat, (int at, const char *path, int flags), (at, path, flags))
CHANGES(mkdir, (const char *path, mode_t mode), (path, mode))
CHANGES(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
CHANGES(rmdir, (const char *path), (path))
CHANGES(chmod, (const char *path, mode_t mode), (path, mode))
CHANGES(fchmod, (int fd, mode_t mode), (fd, mode))
CHANGES(ftruncate, (int fd, off_t size), (fd, size))
CHANGES(ftruncate64, (int fd, off64_t size), (fd, size))
CHANGES(fsync, (int fd), (fd))
CHANGES(fdatasync, (int fd), (fd))
CHANGES(syncfs, (int fd), (fd))
