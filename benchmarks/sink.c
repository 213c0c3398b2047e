/* The server of the benchmarks: cheap enough never to be what is measured.
 *
 *     POST, PUT  any path   takes the body, of known length or chunked, and answers {"bytes": N, "chunks": M}
 *     GET        /small     100 bytes under the headers a file server sends
 *     GET        /bytes/N   N bytes, of known length
 *     any        /wait/MS   as long as that nothing happens behind the head: no body is taken, and no answer sent;
 *                           then the body is taken, and the answer is that of /small
 *     GET        /stall/MS  half a body, and the other half as much later
 *
 * Who hangs up while it waits is let go of at once.
 *
 * It listens on a free port of 127.0.0.1, prints that port, keeps every connection alive, and ends when its
 * standard input does, so it never outlives the program that started it. Framing is judged strictly: whatever
 * is not exactly right is answered with 400 and the reason, and the connection is closed.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_SIZE = 256 * 1024, LINE_SIZE = 8 * 1024, HEADERS_LIMIT = 2000, BACKLOG = 4096, LONGEST_WAIT = 3600000 };

#ifndef POLLRDHUP /* Linux has it; elsewhere a peer that has gone is met when its time is over */
#define POLLRDHUP 0
#endif

typedef struct {
    int fd;
    size_t start, end; /* what has been received and not yet used is buffer[start..end) */
    char buffer[BUFFER_SIZE];
} Connection;

typedef struct {
    char method[16];
    char path[256];
    bool chunked, has_length, expects_continue, wants_close;
    uint64_t length;
} Request;

typedef struct {
    uint64_t bytes, chunks;
} Count;

/* What a step came to: NULL when all is well, GONE when the peer hung up, else the reason for a 400. */
typedef const char *Problem;
static const char GONE[] = "the connection was closed";

static const char SMALL_ANSWER[] =
    "HTTP/1.1 200 OK\r\n"
    "Server: sink/1.0\r\n"
    "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: 100\r\n"
    "Last-Modified: Wed, 31 Dec 2025 12:00:00 GMT\r\n"
    "Connection: keep-alive\r\n"
    "ETag: \"69550fc0-64\"\r\n"
    "Accept-Ranges: bytes\r\n"
    "\r\n"
    "0123456789abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQR"
    "0123456789abcdefghijklmnopqrstuvwxyz STUVWXYZ";

static const char STALLED_HEAD[] =
    "HTTP/1.1 200 OK\r\n"
    "Server: sink/1.0\r\n"
    "Content-Type: application/octet-stream\r\n"
    "Content-Length: 2000\r\n"
    "\r\n";

static char download_data[BUFFER_SIZE];

/* ---- bytes in and out ------------------------------------------------------------------------------- */

static Problem receive_more(Connection *connection)
{
    if (connection->start == connection->end)
        connection->start = connection->end = 0;
    else if (connection->end == BUFFER_SIZE) {
        connection->end -= connection->start;
        memmove(connection->buffer, connection->buffer + connection->start, connection->end);
        connection->start = 0;
    }
    ssize_t received = recv(connection->fd, connection->buffer + connection->end, BUFFER_SIZE - connection->end, 0);
    if (received <= 0)
        return GONE;
    connection->end += (size_t)received;
    return NULL;
}

static Problem send_all(const Connection *connection, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(connection->fd, data, size, 0);
        if (sent <= 0)
            return GONE;
        data += sent;
        size -= (size_t)sent;
    }
    return NULL;
}

/* Copies the next line without its CRLF. A CR or LF anywhere else is refused. */
static Problem read_line(Connection *connection, char line[LINE_SIZE])
{
    size_t length = 0;
    for (;;) {
        while (connection->start < connection->end) {
            char byte = connection->buffer[connection->start++];
            if (length > 0 && line[length - 1] == '\r') {
                if (byte != '\n')
                    return "a CR without LF";
                line[length - 1] = '\0';
                return NULL;
            }
            if (byte == '\n')
                return "an LF without CR";
            if (length == LINE_SIZE - 1)
                return "a line is too long";
            line[length++] = byte;
        }
        Problem problem = receive_more(connection);
        if (problem)
            return problem;
    }
}

static Problem skip(Connection *connection, uint64_t size)
{
    for (;;) {
        size_t held = connection->end - connection->start;
        if (size <= held) {
            connection->start += (size_t)size;
            return NULL;
        }
        size -= held;
        connection->start = connection->end;
        Problem problem = receive_more(connection);
        if (problem)
            return problem;
    }
}

/* ---- the request ------------------------------------------------------------------------------------ */

/* All of the text must be digits of the base: no sign, no space, no prefix, none missing. */
static bool parse_number(const char *text, int base, uint64_t *number)
{
    size_t digits = strspn(text, base == 16 ? "0123456789abcdefABCDEF" : "0123456789");
    if (digits == 0 || digits > 15 || text[digits] != '\0')
        return false;
    *number = strtoull(text, NULL, base);
    return true;
}

static Problem take_header(Request *request, char *line)
{
    char *colon = strchr(line, ':');
    if (!colon || colon == line)
        return "a header line without name or colon";
    *colon = '\0';
    if (strpbrk(line, " \t"))
        return "a space in a header name";
    const char *value = colon + 1 + strspn(colon + 1, " \t");

    if (strcasecmp(line, "Content-Length") == 0) {
        if (request->has_length || !parse_number(value, 10, &request->length))
            return "a bad or second Content-Length";
        request->has_length = true;
    } else if (strcasecmp(line, "Transfer-Encoding") == 0) {
        if (request->chunked || strcasecmp(value, "chunked") != 0)
            return "a bad or second Transfer-Encoding";
        request->chunked = true;
    } else if (strcasecmp(line, "Expect") == 0)
        request->expects_continue = strcasecmp(value, "100-continue") == 0;
    else if (strcasecmp(line, "Connection") == 0)
        request->wants_close = strcasecmp(value, "close") == 0;
    return NULL;
}

static Problem read_head(Connection *connection, Request *request)
{
    char line[LINE_SIZE];
    int used = 0;
    memset(request, 0, sizeof *request);
    Problem problem = read_line(connection, line);
    if (problem)
        return problem;
    if (sscanf(line, "%15s %255s HTTP/1.1%n", request->method, request->path, &used) != 2 || line[used] || !used)
        return "a bad request line";
    for (int count = 0; count < HEADERS_LIMIT; count++) {
        problem = read_line(connection, line);
        if (problem)
            return problem;
        if (line[0] == '\0')
            return request->chunked && request->has_length ? "both a length and chunks" : NULL;
        problem = take_header(request, line);
        if (problem)
            return problem;
    }
    return "too many headers";
}

static Problem read_chunks(Connection *connection, Count *count)
{
    char line[LINE_SIZE];
    for (;;) {
        uint64_t size;
        Problem problem = read_line(connection, line);
        if (problem)
            return problem;
        if (!parse_number(line, 16, &size))
            return "a bad chunk size";
        if (size > 0) {
            problem = skip(connection, size);
            if (problem)
                return problem;
            count->bytes += size;
            count->chunks++;
        }
        problem = read_line(connection, line);
        if (problem)
            return problem;
        if (line[0] != '\0')
            return size > 0 ? "a chunk is longer than its size" : "a trailer, which nobody announced";
        if (size == 0)
            return NULL;
    }
}

static Problem read_body(Connection *connection, const Request *request, Count *count)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (request->expects_continue) {
        Problem problem = send_all(connection, go_on, sizeof go_on - 1);
        if (problem)
            return problem;
    }
    if (request->chunked)
        return read_chunks(connection, count);
    count->bytes = request->length;
    return skip(connection, request->length);
}

/* Sleeps, unless the peer hangs up. */
static Problem wait_for(const Connection *connection, uint64_t milliseconds)
{
    struct pollfd peer = {.fd = connection->fd, .events = POLLRDHUP};
    return poll(&peer, 1, (int)milliseconds) == 0 ? NULL : GONE;
}

static bool has_number(const char *path, const char *prefix, uint64_t *number)
{
    size_t size = strlen(prefix);
    return strncmp(path, prefix, size) == 0 && parse_number(path + size, 10, number);
}

static bool is_wait(const Request *request, const char *prefix, uint64_t *milliseconds)
{
    return has_number(request->path, prefix, milliseconds) && *milliseconds <= LONGEST_WAIT;
}

/* ---- the answers ------------------------------------------------------------------------------------ */

static Problem answer(const Connection *connection, const char *status, const char *type, const char *body)
{
    char text[1024];
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 %s\r\nServer: sink/1.0\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
                        status, type, strlen(body), body);
    return send_all(connection, text, (size_t)size);
}

static Problem answer_count(const Connection *connection, Count count)
{
    char body[128];
    snprintf(body, sizeof body, "{\"bytes\": %" PRIu64 ", \"chunks\": %" PRIu64 "}\n", count.bytes, count.chunks);
    return answer(connection, "200 OK", "application/json", body);
}

static Problem answer_bytes(const Connection *connection, uint64_t size)
{
    char head[256];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 200 OK\r\nServer: sink/1.0\r\nContent-Type: application/octet-stream\r\n"
                          "Content-Length: %" PRIu64 "\r\nConnection: keep-alive\r\n\r\n",
                          size);
    Problem problem = send_all(connection, head, (size_t)length);
    while (!problem && size > 0) {
        size_t part = size < BUFFER_SIZE ? (size_t)size : BUFFER_SIZE;
        problem = send_all(connection, download_data, part);
        size -= part;
    }
    return problem;
}

static Problem answer_in_halves(const Connection *connection, uint64_t milliseconds)
{
    Problem problem = send_all(connection, STALLED_HEAD, sizeof STALLED_HEAD - 1);
    if (!problem)
        problem = send_all(connection, download_data, 1000);
    if (!problem)
        problem = wait_for(connection, milliseconds);
    return problem ? problem : send_all(connection, download_data, 1000);
}

static Problem respond(const Connection *connection, const Request *request, Count count)
{
    uint64_t size;
    if (is_wait(request, "/wait/", &size))
        return send_all(connection, SMALL_ANSWER, sizeof SMALL_ANSWER - 1);
    if (strcmp(request->method, "POST") == 0 || strcmp(request->method, "PUT") == 0)
        return answer_count(connection, count);
    if (strcmp(request->method, "GET") != 0)
        return answer(connection, "405 Method Not Allowed", "text/plain", "GET, POST or PUT\n");
    if (strcmp(request->path, "/small") == 0)
        return send_all(connection, SMALL_ANSWER, sizeof SMALL_ANSWER - 1);
    if (has_number(request->path, "/bytes/", &size))
        return answer_bytes(connection, size);
    if (is_wait(request, "/stall/", &size))
        return answer_in_halves(connection, size);
    return answer(connection, "404 Not Found", "text/plain", "there are /small, /bytes/N, /wait/MS and /stall/MS\n");
}

/* ---- connections ------------------------------------------------------------------------------------ */

static Problem serve_one(Connection *connection, bool *last)
{
    Request request;
    Count count = {0, 0};
    uint64_t milliseconds;
    Problem problem = read_head(connection, &request);
    if (!problem && is_wait(&request, "/wait/", &milliseconds))
        problem = wait_for(connection, milliseconds);
    if (!problem)
        problem = read_body(connection, &request, &count);
    if (!problem)
        problem = respond(connection, &request, count);
    *last = request.wants_close;
    return problem;
}

static void *serve_connection(void *argument)
{
    Connection *connection = argument;
    Problem problem = NULL;
    bool last = false;
    while (!problem && !last)
        problem = serve_one(connection, &last);
    if (problem && problem != GONE)
        answer(connection, "400 Bad Request", "text/plain", problem);
    close(connection->fd);
    free(connection);
    return NULL;
}

static void *end_with_standard_input(void *unused)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    exit(0);
    return unused;
}

static void start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) != 0) {
        perror("sink: pthread_create");
        exit(1);
    }
    pthread_detach(thread);
}

static int listen_on_loopback(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, BACKLOG) < 0
        || getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        perror("sink: listen");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    memset(download_data, 'x', sizeof download_data);
    int listener = listen_on_loopback();
    start_thread(end_with_standard_input, NULL);
    for (;;) {
        int yes = 1, fd = accept(listener, NULL, NULL);
        Connection *connection = fd < 0 ? NULL : malloc(sizeof *connection);
        if (!connection) {
            perror("sink: accept");
            return 1;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connection->fd = fd;
        connection->start = connection->end = 0;
        start_thread(serve_connection, connection);
    }
}
