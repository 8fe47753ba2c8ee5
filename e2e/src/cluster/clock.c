// Loaded into a process before libc: its wall clock is CLOCK_SHIFT_S seconds ahead of the machine's, or behind. Its
// steady clock is left alone, as on a machine whose clock was set wrong.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int (*of_libc)(clockid_t, struct timespec *);
static long shift;

__attribute__((constructor)) static void prepare(void) {
  of_libc = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  const char *seconds = getenv("CLOCK_SHIFT_S");
  shift = seconds ? strtol(seconds, NULL, 10) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int failed = of_libc(clock, time);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += shift;
  return failed;
}
