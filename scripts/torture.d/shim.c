/* Preloaded into a daemon: a wall clock that is wrong and a resolver that fails, as a file says.
 *
 * DORMOUSE_SHIM names a file of four 64-bit integers: seconds that the wall clock is ahead, whether
 * names are not resolved, and, counted here, how many names were not and how often the wrong clock
 * was read. It is mapped, so what a test writes holds at once. The monotonic clock is left alone, as
 * a wrong machine's is right.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *told;

__attribute__((constructor)) static void read_settings(void) {
    const char *path = getenv("DORMOUSE_SHIM");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 4 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) told = mapped;
    close(file);
}

int clock_gettime(clockid_t which, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, time);
    if (result == 0 && told && told[0] &&
        (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        time->tv_sec += told[0];
        __atomic_fetch_add(&told[3], 1, __ATOMIC_RELAXED);
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (told && told[1]) {
        __atomic_fetch_add(&told[2], 1, __ATOMIC_RELAXED);
        return EAI_AGAIN;
    }
    return real(node, service, hints, found);
}
