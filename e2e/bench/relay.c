/* Passes requests of HTTP/1.1 on to a server and its answers back, each once it is whole, one connection at a time: what
 * another hop costs where nothing is decided, and nothing copied but by the kernel.
 *
 *   relay PORT    prints the port that it listens on, relays to PORT of this machine, and runs until it is killed
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char message[8 << 20];

static struct sockaddr_in loopback(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static int at_once(int stream) {
  int on = 1;
  setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return stream;
}

/* How many bytes a whole message has; 0 at the end. */
static size_t receive(int stream) {
  size_t come = 0, whole = 0;
  while (whole == 0 || come < whole) {
    ssize_t more = read(stream, message + come, sizeof message - 1 - come);
    if (more <= 0) return 0;
    come += more;
    if (whole != 0) continue;
    message[come] = 0;
    char *end = strstr(message, "\r\n\r\n");
    if (end == NULL) continue;
    char *length = strcasestr(message, "\r\ncontent-length:");
    whole = end + 4 - message + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
  }
  return come;
}

static int send_on(int stream, size_t length) {
  for (size_t sent = 0; sent < length;) {
    ssize_t more = write(stream, message + sent, length - sent);
    if (more <= 0) return 0;
    sent += more;
  }
  return 1;
}

int main(int count, char **arguments) {
  if (count != 2) {
    fputs("usage: relay PORT\n", stderr);
    return 2;
  }
  struct sockaddr_in here = loopback(0), there = loopback(atoi(arguments[1]));
  socklen_t size = sizeof here;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (void *)&here, size) || listen(listener, 1) || getsockname(listener, (void *)&here, &size)) {
    perror("relay");
    return 1;
  }
  printf("%d\n", ntohs(here.sin_port));
  fflush(stdout);
  for (;;) {
    int client = at_once(accept(listener, NULL, NULL)), server = at_once(socket(AF_INET, SOCK_STREAM, 0));
    if (connect(server, (void *)&there, sizeof there)) {
      perror("relay");
      return 1;
    }
    size_t length;
    while ((length = receive(client)) && send_on(server, length) && (length = receive(server)) && send_on(client, length));
    close(client);
    close(server);
  }
}
