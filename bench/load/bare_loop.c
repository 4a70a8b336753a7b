/* The floor under any server's cost: one thread, one epoll, canned answers, no parsing.
 * A request is an empty line seen; each read is answered by one write. With -f the body is sent
 * from an open file. What a real server spends beyond this is its own code.
 *
 *     bare_loop [-c] [-b BODY_BYTES | -f FILE] PORT       -c: chunked answer */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 65536, ANSWERS_MAX = 64, EVENTS_MAX = 512 };

struct client {
    int owed;     /* answers still to send, file mode */
    off_t sent;   /* bytes of the present file sent */
};

static struct client clients[DESCRIPTORS_MAX];
static char *answers;      /* ANSWERS_MAX copies of the answer in a row */
static size_t answer_bytes;
static int file = -1;
static off_t file_bytes;
static int loop;

static const char fields[] =
    "HTTP/1.1 200 OK\r\nServer: bare\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    "Content-Type: text/plain\r\nConnection: keep-alive\r\n";

static void prepare(bool chunked, long body_bytes) {
    char head[512];
    int head_bytes = chunked
        ? snprintf(head, sizeof head, "%sTransfer-Encoding: chunked\r\n\r\n%s", fields,
                   "6\r\nhello\n\r\n0\r\n\r\n")
        : snprintf(head, sizeof head, "%sContent-Length: %ld\r\n\r\n", fields, body_bytes);
    long tail = chunked || file >= 0 ? 0 : body_bytes;
    answer_bytes = (size_t)(head_bytes + tail);
    answers = malloc(answer_bytes * ANSWERS_MAX);
    for (int i = 0; i < ANSWERS_MAX; i++) {
        char *at = answers + (size_t)i * answer_bytes;
        memcpy(at, head, (size_t)head_bytes);
        memset(at + head_bytes, 'x', (size_t)tail);
    }
}

static void watch(int operation, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(loop, operation, fd, &event);
}

/* Sends what is owed from the file; false when the connection broke. */
static bool send_files(int fd) {
    struct client *client = &clients[fd];
    while (client->owed > 0) {
        if (client->sent == 0 &&
            send(fd, answers, answer_bytes, MSG_MORE | MSG_NOSIGNAL) != (ssize_t)answer_bytes)
            return false;
        while (client->sent < file_bytes) {
            if (sendfile(fd, file, &client->sent, (size_t)(file_bytes - client->sent)) >= 0)
                continue;
            if (errno != EAGAIN) return false;
            watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
            return true;
        }
        client->sent = 0;
        client->owed--;
    }
    return true;
}

static bool send_answers(int fd, int count) {
    while (count > 0) {
        int now = count < ANSWERS_MAX ? count : ANSWERS_MAX;
        size_t bytes = answer_bytes * (size_t)now;
        for (size_t sent = 0; sent < bytes;) {
            ssize_t n = send(fd, answers + sent, bytes - sent, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) return false;
            if (n > 0) sent += (size_t)n;
        }
        count -= now;
    }
    return true;
}

static int count_requests(const char *data, size_t size) {
    int count = 0;
    const char *end = data + size;
    while ((data = memmem(data, (size_t)(end - data), "\r\n\r\n", 4))) {
        count++;
        data += 4;
    }
    return count;
}

static void serve(int fd, unsigned events) {
    static char input[65536];
    bool good = true;
    if (events & EPOLLOUT) {
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
        good = send_files(fd);
    } else {
        ssize_t size = recv(fd, input, sizeof input, 0);
        if (size < 0 && errno == EAGAIN) return;
        int count = size > 0 ? count_requests(input, (size_t)size) : 0;
        bool closing = size > 0 && memmem(input, (size_t)size, "Connection: close", 17);
        if (size <= 0) {
            good = false;
        } else if (file >= 0) {
            clients[fd].owed += count;
            good = send_files(fd);
        } else {
            good = send_answers(fd, count) && !closing;
        }
    }
    if (!good) close(fd);
}

static void accept_all(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= DESCRIPTORS_MAX) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        clients[fd] = (struct client){0, 0};
        watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

static int listen_on(int port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);      /* sendfile() to a client that has left */
    bool chunked = false;
    long body_bytes = 6;
    for (int option; (option = getopt(argc, argv, "cb:f:")) != -1;) {
        if (option == 'c') chunked = true;
        if (option == 'b') body_bytes = atol(optarg);
        if (option == 'f') {
            struct stat status;
            file = open(optarg, O_RDONLY);
            if (file < 0 || fstat(file, &status)) return perror(optarg), 1;
            body_bytes = file_bytes = status.st_size;
        }
    }
    if (optind >= argc) return fprintf(stderr, "usage: bare_loop [-c] [-b N | -f FILE] PORT\n"), 2;
    prepare(chunked, body_bytes);
    int listener = listen_on(atoi(argv[optind]));
    loop = epoll_create1(0);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(loop, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener) accept_all(listener);
            else serve(events[i].data.fd, events[i].events);
        }
    }
}
