/* A light load generator: one thread, one epoll, answers of a fixed length that is learned first.
 *
 *     load_client [-c CONNECTIONS] [-d SECONDS | -r REQUESTS] [-p DEPTH] [-aoiz] PORT PATH
 *       -p  requests per write (pipelining)       -o  a new connection for every request
 *       -z  accept gzip                           -i  hold the connections idle after one request
 *                                                     each, until standard input ends
 *       -a  header fields as a browser sends
 * Prints `requests N seconds S errors E`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 65536, EVENTS_MAX = 256, READ_BYTES = 262144 };

static struct sockaddr_in server;
static char *batch;              /* the request, DEPTH times */
static size_t request_bytes, batch_bytes;
static long answer_bytes;
static long due[DESCRIPTORS_MAX];   /* bytes still to come on a connection */
static char input[READ_BYTES];
static int loop, depth = 1;
static bool one_shot;
static long finished, errors;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int dial(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&server, sizeof server)) {
        perror("connect");
        exit(1);
    }
    return fd;
}

static void ask(int fd) {
    due[fd] = answer_bytes * depth;
    if (send(fd, batch, batch_bytes, MSG_NOSIGNAL) != (ssize_t)batch_bytes) errors++;
}

static void open_one(void) {
    int fd = dial();
    if (one_shot) {
        struct linger reset = {1, 0};   /* no TIME_WAIT: ports would run out */
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
    ask(fd);
}

/* Bytes of one answer: what comes until nothing did for a while. */
static void learn(void) {
    int fd = dial();
    struct timeval quiet = {0, 300000};
    send(fd, batch, request_bytes, MSG_NOSIGNAL);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof quiet);
    char first[13] = "";
    for (ssize_t n; (n = recv(fd, input, sizeof input, 0)) > 0; answer_bytes += n)
        if (answer_bytes == 0) memcpy(first, input, n < 12 ? (size_t)n : 12);
    close(fd);
    if (strcmp(first, "HTTP/1.1 200")) {
        fprintf(stderr, "the first answer begins with: %s\n", first);
        exit(1);
    }
}

static void receive(int fd) {
    ssize_t n = recv(fd, input, sizeof input, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0) {
        due[fd] -= n;
        if (due[fd] > 0) return;
        if (due[fd] < 0) errors++;
        if (!one_shot) {
            finished += depth;
            ask(fd);
            return;
        }
    }
    if (one_shot && due[fd] <= 0) finished++;
    else errors++;
    close(fd);
    open_one();
}

static double drive(int connections, double limit, long requests) {
    struct epoll_event events[EVENTS_MAX];
    double started = seconds_now(), now = started;
    for (int i = 0; i < connections; i++) open_one();
    while (now < started + limit && (requests == 0 || finished < requests)) {
        int count = epoll_wait(loop, events, EVENTS_MAX, 100);
        for (int i = 0; i < count; i++)
            if (requests == 0 || finished < requests) receive(events[i].data.fd);
        now = seconds_now();
    }
    return now - started;
}

static void hold(int connections) {
    for (int i = 0; i < connections; i++) {
        int fd = dial();
        ask(fd);
        while (due[fd] > 0) {
            ssize_t n = recv(fd, input, sizeof input, 0);
            if (n <= 0) {
                errors++;
                break;
            }
            due[fd] -= n;
        }
    }
    printf("holding %d errors %ld\n", connections, errors);
    fflush(stdout);
    while (read(0, input, sizeof input) > 0) continue;
}

static const char browser[] =
    "Accept: text/html,application/xhtml+xml\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) test\r\n"
    "Accept-Language: en-GB,en;q=0.5\r\n"
    "Cookie: session=abcdef0123456789; theme=dark\r\n";

static void compose(const char *path, bool gzip, bool agent) {
    char request[1024];
    int bytes = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: localhost\r\n%s%s%s\r\n", path,
                         agent ? browser : "", gzip ? "Accept-Encoding: gzip\r\n" : "",
                         one_shot ? "Connection: close\r\n" : "");
    request_bytes = (size_t)bytes;
    batch_bytes = request_bytes * (size_t)depth;
    batch = malloc(batch_bytes);
    for (int i = 0; i < depth; i++)
        memcpy(batch + (size_t)i * request_bytes, request, request_bytes);
}

int main(int argc, char **argv) {
    int connections = 64;
    double limit = 1e9;
    long requests = 0;
    bool gzip = false, idle = false, agent = false;
    for (int option; (option = getopt(argc, argv, "c:d:r:p:aozi")) != -1;) switch (option) {
        case 'c': connections = atoi(optarg); break;
        case 'd': limit = atof(optarg); break;
        case 'r': requests = atol(optarg); break;
        case 'p': depth = atoi(optarg); break;
        case 'o': one_shot = true; break;
        case 'a': agent = true; break;
        case 'z': gzip = true; break;
        case 'i': idle = true; break;
        default: return 2;
    }
    if (argc - optind != 2) return fprintf(stderr, "usage: see the head of load_client.c\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit descriptors;
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    server = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(argv[optind])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    compose(argv[optind + 1], gzip, agent);
    learn();
    loop = epoll_create1(0);
    if (idle) return hold(connections), 0;
    double spent = drive(connections, limit, requests);
    printf("requests %ld seconds %.3f errors %ld\n", finished, spent, errors);
    return 0;
}
