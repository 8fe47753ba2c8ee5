/* Holds ONNX Runtime sessions, as little as a program can: what is left of an agent's memory without the agent.
 *
 *   holder LIBRARY MODEL...    loads each, runs it once on an image of zeros, says "ready", ends with its standard input
 *
 * PyPI's wheel carries no header, so the functions that are needed are taken from their places in the table that
 * OrtGetApiBase gives. The table only ever grows at its end: that is ONNX Runtime's promise of binary compatibility.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

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
  CREATE_CPU_MEMORY_INFO = 69,
  ADD_CONFIG_ENTRY = 130,
};
enum { LEVEL_WARNING = 2, ARENA_ALLOCATOR = 1, DEFAULT_MEMORY = 0, FLOAT = 1 };

typedef struct {
  const void *(*get_api)(uint32_t version);
  const char *(*version)(void);
} ApiBase;

static void *const *api;

static void check(void *status, const char *what) {
  if (status == NULL) return;
  const char *(*message)(void *) = (const char *(*)(void *))api[GET_ERROR_MESSAGE];
  fprintf(stderr, "%s: %s\n", what, message(status));
  exit(1);
}

/* Calls the function at a place in the table; all of these return a status. */
#define CALL(place, types, ...) check(((void *(*) types)api[place])(__VA_ARGS__), #place)

int main(int count, char **arguments) {
  if (count < 3) {
    fputs("usage: holder LIBRARY MODEL...\n", stderr);
    return 2;
  }
  void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  ApiBase *(*base)(void) = library ? (ApiBase * (*)(void)) dlsym(library, "OrtGetApiBase") : NULL;
  api = base ? base()->get_api(API_VERSION) : NULL;
  if (api == NULL) {
    fprintf(stderr, "%s is no ONNX Runtime 1.%d or newer\n", arguments[1], API_VERSION);
    return 1;
  }
  void *environment, *options, *session, *memory, *input;
  CALL(CREATE_ENV, (int, const char *, void **), LEVEL_WARNING, "holder", &environment);
  CALL(DISABLE_TELEMETRY, (void *), environment);
  /* The options that the agent sets. */
  CALL(CREATE_SESSION_OPTIONS, (void **), &options);
  CALL(SET_INTRA_OP_THREADS, (void *, int), options, 1);
  CALL(SET_INTER_OP_THREADS, (void *, int), options, 1);
  CALL(ADD_CONFIG_ENTRY, (void *, const char *, const char *), options, "session.intra_op.allow_spinning", "0");
  CALL(ADD_CONFIG_ENTRY, (void *, const char *, const char *), options, "session.inter_op.allow_spinning", "0");

  float image[64] = {0};
  const int64_t shape[2] = {1, 64};
  const char *input_names[] = {"image"}, *output_names[] = {"label", "probabilities"};
  CALL(CREATE_CPU_MEMORY_INFO, (int, int, void **), ARENA_ALLOCATOR, DEFAULT_MEMORY, &memory);
  CALL(CREATE_TENSOR_WITH_DATA, (void *, void *, size_t, const int64_t *, size_t, int, void **), memory, image,
       sizeof image, shape, 2, FLOAT, &input);
  for (int model = 2; model < count; model++) {
    void *outputs[2] = {NULL, NULL};
    CALL(CREATE_SESSION, (void *, const char *, void *, void **), environment, arguments[model], options, &session);
    CALL(RUN, (void *, void *, const char **, void *const *, size_t, const char **, size_t, void **), session, NULL,
         input_names, &input, 1, output_names, 2, outputs);
  }
  puts("ready");
  fflush(stdout);
  while (getchar() != EOF) {
  }
  return 0;
}
