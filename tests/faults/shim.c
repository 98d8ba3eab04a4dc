/* Moves the wall clock of one process: adds the number of microseconds that a mapped file holds to CLOCK_REALTIME.
 * The monotonic clocks stay as they are, as they do when a machine's time is set. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset_us;

__attribute__((constructor)) static void map_offset(void) {
  const char *path = getenv("FAULTS_CLOCK_FILE");
  if (!path) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) abort();
  void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) abort();
  close(fd);
  offset_us = page;
}

/* The system call itself: looking the real function up could allocate, which hangs under jemalloc's start-up. */
int clock_gettime(clockid_t clock, struct timespec *ts) {
  int result = (int)syscall(SYS_clock_gettime, clock, ts);
  int moved = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  if (result == 0 && moved && offset_us) {
    int64_t ns = ts->tv_nsec + (*offset_us % 1000000) * 1000;
    ts->tv_sec += *offset_us / 1000000;
    if (ns < 0) { ns += 1000000000; ts->tv_sec -= 1; }
    if (ns >= 1000000000) { ns -= 1000000000; ts->tv_sec += 1; }
    ts->tv_nsec = ns;
  }
  return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
  (void)tz;
  struct timespec ts;
  if (clock_gettime(CLOCK_REALTIME, &ts) != 0) return -1;
  tv->tv_sec = ts.tv_sec;
  tv->tv_usec = ts.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec ts;
  if (clock_gettime(CLOCK_REALTIME, &ts) != 0) return (time_t)-1;
  if (at) *at = ts.tv_sec;
  return ts.tv_sec;
}
