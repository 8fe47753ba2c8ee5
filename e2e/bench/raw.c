/* Runs ONNX Runtime sessions and nothing else: what is left of a server without the server.
 *
 *   raw LIBRARY MODEL INPUT SHAPE answer              runs once, writes the output's floats to standard output
 *   raw LIBRARY MODEL INPUT SHAPE THREADS WARM TIME   THREADS sessions, each in a loop on its own thread; after WARM
 *                                                     seconds counts for TIME seconds; prints the runs a second and the
 *                                                     CPU time of one in microseconds
 *
 * INPUT is a file of floats for the model's `input` of this SHAPE (1x64); the result is `output`. As in a server, each
 * run makes a new output, which is given back. See holder.c for how functions are found.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  API_VERSION = 24,
  GET_ERROR_MESSAGE = 2,
  CREATE_ENV = 3,
  DISABLE_TELEMETRY = 6,
  CREATE_SESSION = 7,
  RUN = 9,
  CREATE_SESSION_OPTIONS = 10,
  SET_INTRA_OP_THREADS = 24,
  SET_INTER_OP_THREADS = 25,
  CREATE_TENSOR_WITH_DATA = 49,
  GET_TENSOR_DATA = 51,
  GET_ELEMENT_COUNT = 64,
  GET_TENSOR_SHAPE = 65,
  CREATE_CPU_MEMORY_INFO = 69,
  RELEASE_VALUE = 96,
  ADD_CONFIG_ENTRY = 130,
};
enum { LEVEL_WARNING = 2, ARENA_ALLOCATOR = 1, DEFAULT_MEMORY = 0, FLOAT = 1 };
enum { MOST_THREADS = 64, MOST_AXES = 8 };

typedef struct {
  const void *(*get_api)(uint32_t version);
  const char *(*version)(void);
} ApiBase;

typedef struct {
  void *session, *input;
  _Atomic long runs;
} Worker;

static void *const *api;

static void check(void *status, const char *what) {
  if (status == NULL) return;
  const char *(*message)(void *) = (const char *(*)(void *))api[GET_ERROR_MESSAGE];
  fprintf(stderr, "%s: %s\n", what, message(status));
  exit(1);
}

/* Calls the function at a place in the table; all of these return a status. */
#define CALL(place, types, ...) check(((void *(*) types)api[place])(__VA_ARGS__), #place)

static void *run(const Worker *worker) {
  const char *input_names[] = {"input"}, *output_names[] = {"output"};
  void *output = NULL;
  CALL(RUN, (void *, void *, const char **, void *const *, size_t, const char **, size_t, void **), worker->session,
       NULL, input_names, &worker->input, 1, output_names, 1, &output);
  return output;
}

static void *work(void *argument) {
  Worker *worker = argument;
  for (;;) {
    ((void (*)(void *))api[RELEASE_VALUE])(run(worker));
    atomic_fetch_add_explicit(&worker->runs, 1, memory_order_relaxed);
  }
  return NULL;
}

static void *open_session(void *environment, const char *model) {
  void *options, *session;
  /* The options that the agent sets. */
  CALL(CREATE_SESSION_OPTIONS, (void **), &options);
  CALL(SET_INTRA_OP_THREADS, (void *, int), options, 1);
  CALL(SET_INTER_OP_THREADS, (void *, int), options, 1);
  CALL(ADD_CONFIG_ENTRY, (void *, const char *, const char *), options, "session.intra_op.allow_spinning", "0");
  CALL(ADD_CONFIG_ENTRY, (void *, const char *, const char *), options, "session.inter_op.allow_spinning", "0");
  CALL(CREATE_SESSION, (void *, const char *, void *, void **), environment, model, options, &session);
  return session;
}

static float *read_floats(const char *path, size_t count) {
  float *floats = malloc(count * sizeof *floats);
  FILE *file = fopen(path, "rb");
  if (floats == NULL || file == NULL || fread(floats, sizeof *floats, count, file) != count) {
    fprintf(stderr, "%s does not hold %zu floats\n", path, count);
    exit(1);
  }
  fclose(file);
  return floats;
}

static void *tensor_of(const char *path, char *shape) {
  int64_t axes[MOST_AXES];
  size_t rank = 0, count = 1;
  void *memory, *tensor;
  for (char *axis = strtok(shape, "x"); axis != NULL && rank < MOST_AXES; axis = strtok(NULL, "x")) {
    axes[rank] = atoll(axis);
    count *= (size_t)axes[rank++];
  }
  CALL(CREATE_CPU_MEMORY_INFO, (int, int, void **), ARENA_ALLOCATOR, DEFAULT_MEMORY, &memory);
  CALL(CREATE_TENSOR_WITH_DATA, (void *, void *, size_t, const int64_t *, size_t, int, void **), memory,
       read_floats(path, count), count * sizeof(float), axes, rank, FLOAT, &tensor);
  return tensor;
}

static void answer(const Worker *worker) {
  void *output = run(worker), *shape;
  float *floats;
  size_t count;
  CALL(GET_TENSOR_SHAPE, (void *, void **), output, &shape);
  CALL(GET_ELEMENT_COUNT, (void *, size_t *), shape, &count);
  CALL(GET_TENSOR_DATA, (void *, float **), output, &floats);
  fwrite(floats, sizeof *floats, count, stdout);
}

static double seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void pause_for(double time) {
  struct timespec left = {(time_t)time, (long)((time - (double)(time_t)time) * 1e9)};
  nanosleep(&left, NULL);
}

static long runs_of(Worker *workers, int count) {
  long runs = 0;
  for (int worker = 0; worker < count; worker++) runs += atomic_load(&workers[worker].runs);
  return runs;
}

static void measure(Worker *workers, int count, double warm, double time) {
  for (int worker = 0; worker < count; worker++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, &workers[worker]) != 0) exit(1);
  }
  pause_for(warm);
  double begun = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_PROCESS_CPUTIME_ID);
  long runs = runs_of(workers, count);
  pause_for(time);
  double took = seconds(CLOCK_MONOTONIC) - begun;
  used = seconds(CLOCK_PROCESS_CPUTIME_ID) - used;
  runs = runs_of(workers, count) - runs;
  printf("%f %f\n", (double)runs / took, used * 1e6 / (double)runs);
  fflush(stdout);
  /* Threads are in the middle of a run. */
  _Exit(0);
}

int main(int count, char **arguments) {
  if (count != 6 && count != 8) {
    fputs("usage: raw LIBRARY MODEL INPUT SHAPE answer | raw LIBRARY MODEL INPUT SHAPE THREADS WARM TIME\n", stderr);
    return 2;
  }
  void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  ApiBase *(*base)(void) = library ? (ApiBase * (*)(void)) dlsym(library, "OrtGetApiBase") : NULL;
  api = base ? base()->get_api(API_VERSION) : NULL;
  if (api == NULL) {
    fprintf(stderr, "%s is no ONNX Runtime 1.%d or newer\n", arguments[1], API_VERSION);
    return 1;
  }
  void *environment;
  CALL(CREATE_ENV, (int, const char *, void **), LEVEL_WARNING, "raw", &environment);
  CALL(DISABLE_TELEMETRY, (void *), environment);
  void *input = tensor_of(arguments[3], arguments[4]);
  int threads = count == 8 ? atoi(arguments[5]) : 1;
  if (threads < 1 || threads > MOST_THREADS) return 2;
  Worker workers[MOST_THREADS] = {0};
  for (int worker = 0; worker < threads; worker++) {
    workers[worker].session = open_session(environment, arguments[2]);
    workers[worker].input = input;
  }
  if (count == 8) {
    measure(workers, threads, atof(arguments[6]), atof(arguments[7]));
  }
  answer(&workers[0]);
  return 0;
}
