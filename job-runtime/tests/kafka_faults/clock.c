/* Lies to a process about the time of day: adds the seconds in the file that MILLSTREAM_TEST_CLOCK names. The monotonic clock stays right. Waits
 * that end at a time of day (the Kafka client's) are taken back by as much: the kernel's clock, which ends them, is not changed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long off(void) {
  const char *path = getenv("MILLSTREAM_TEST_CLOCK");
  char text[32] = {0};
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return 0;
  long got = read(file, text, sizeof text - 1);
  close(file);
  return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += off();
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int result = syscall(SYS_gettimeofday, now, zone);
  if (result == 0) now->tv_sec += off();
  return result;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

int cnd_timedwait(cnd_t *restrict changed, mtx_t *restrict lock, const struct timespec *restrict until) {
  static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
  struct timespec now, end = *until;
  if (!real) real = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
  end.tv_sec -= off();
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  /* The clock may have jumped since the end was worked out. */
  if (end.tv_sec > now.tv_sec + 5) end.tv_sec = now.tv_sec + 5;
  return real(changed, lock, &end);
}
