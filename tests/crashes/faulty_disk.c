/* Stands before libc's write, pwrite, fsync, fdatasync and rename (LD_PRELOAD): below one folder, the n-th of these
   calls, or every one from the n-th on, fails with a given error, or the process is killed there, a write half done. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, FAIL_ONCE, FAIL_FROM_THEN_ON, KILL };

static char folder[PATH_MAX];
static long at;
static int action, error_number;
static atomic_long calls;

void faulty_disk_arm(const char *below, long call, int what, int error) {
    snprintf(folder, sizeof folder, "%s/", below);
    at = call;
    error_number = error;
    calls = 0;
    action = what;
}

long faulty_disk_calls(void) { return calls; }

static int strikes_path(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    long call = ++calls;
    if (action == NOTHING) return 0;
    return action == FAIL_FROM_THEN_ON ? call >= at : call == at;
}

static int strikes_file(int fd) {
    if (!folder[0]) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (length < 0) return 0;
    strcpy(path + length, "/"); /* the folder itself counts, too */
    return strikes_path(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int fail(void) {
    if (action == KILL) kill(getpid(), SIGKILL);
    errno = error_number;
    return -1;
}

ssize_t write(int fd, const void *data, size_t size) {
    if (fd > 2 && strikes_file(fd)) {
        if (action == KILL) REAL(write)(fd, data, size / 2);
        return fail();
    }
    return REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    if (strikes_file(fd)) {
        if (action == KILL) REAL(pwrite64)(fd, data, size / 2, offset);
        return fail();
    }
    return REAL(pwrite64)(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

int fsync(int fd) { return strikes_file(fd) ? fail() : REAL(fsync)(fd); }

int fdatasync(int fd) { return strikes_file(fd) ? fail() : REAL(fdatasync)(fd); }

int rename(const char *from, const char *to) { return strikes_path(to) ? fail() : REAL(rename)(from, to); }
