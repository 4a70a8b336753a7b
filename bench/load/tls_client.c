/* The load generator for https: as load_client.c, over TLS 1.3 (or -2: TLS 1.2).
 *
 *     tls_client [-c CONNECTIONS] [-d SECONDS | -r REQUESTS] [-2iot] PORT PATH
 *       -o  a new connection, with a full handshake, for every request
 *       -t  with -o: resumes the session of the connection before (a ticket)
 *       -i  hold the connections idle after one request each, until standard input ends
 * The certificate is not checked. Prints `requests N seconds S errors E`; a handshake that was to
 * be resumed and was not, or the other way round, is an error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 65536, EVENTS_MAX = 256, READ_BYTES = 262144 };

struct client {
    SSL *ssl;
    long due;        /* bytes of the answer still to come */
    bool asked;
};

static struct client clients[DESCRIPTORS_MAX];
static struct sockaddr_in server;
static SSL_CTX *context;
static SSL_SESSION *ticket;
static char request[1024];
static int request_bytes;
static long answer_bytes;
static char input[READ_BYTES];
static int loop;
static bool one_shot, resuming;
static long finished, errors;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int keep_ticket(SSL *ssl, SSL_SESSION *session) {
    (void)ssl;
    if (ticket) SSL_SESSION_free(ticket);
    ticket = session;
    return 1;
}

static int dial(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&server, sizeof server)) {
        perror("connect");
        exit(1);
    }
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    SSL_set_connect_state(ssl);
    if (resuming && ticket) {
        SSL_SESSION *own = SSL_SESSION_dup(ticket);   /* OpenSSL lets each be used only once */
        SSL_set_session(ssl, own);
        SSL_SESSION_free(own);
    }
    clients[fd] = (struct client){ssl, answer_bytes, false};
    return fd;
}

/* Closed without a word, and not for a failure: OpenSSL would forget the session. */
static void shut(int fd) {
    SSL *ssl = clients[fd].ssl;
    SSL_set_quiet_shutdown(ssl, 1);
    SSL_shutdown(ssl);
    SSL_free(ssl);
    close(fd);
}

/* Bytes of one answer, by its length or the end of its chunks. */
static void learn(void) {
    int fd = dial();
    SSL *ssl = clients[fd].ssl;
    long whole = 0;
    bool good = SSL_write(ssl, request, request_bytes) > 0;
    for (bool ended = false; good && !ended;) {
        int n = SSL_read(ssl, input, sizeof input - 1);
        if (n <= 0) break;
        input[n] = 0;
        if (answer_bytes == 0) {
            char *length = strcasestr(input, "\r\nContent-Length:");
            char *body = strstr(input, "\r\n\r\n");
            good = !strncmp(input, "HTTP/1.1 200", 12) && body;
            if (good && length) whole = atol(length + 17) + (body + 4 - input);
        }
        answer_bytes += n;
        ended = whole ? answer_bytes >= whole : n >= 5 && !memcmp(input + n - 5, "0\r\n\r\n", 5);
    }
    shut(fd);
    if (good && answer_bytes > 0) return;
    fprintf(stderr, "no answer of status 200 to learn from\n");
    exit(1);
}

static void open_one(void) {
    int fd = dial();
    if (one_shot) {
        struct linger reset = {1, 0};   /* no TIME_WAIT: ports would run out */
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
    SSL_do_handshake(clients[fd].ssl);   /* the hello leaves */
}

static void ask(struct client *client) {
    client->asked = true;
    client->due = answer_bytes;
    if (SSL_write(client->ssl, request, request_bytes) != request_bytes) errors++;
}

/* True: the connection is of no more use. */
static bool receive(struct client *client) {
    SSL *ssl = client->ssl;
    if (!client->asked) {
        int result = SSL_do_handshake(ssl);
        if (result != 1) return SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ && ++errors;
        if (one_shot && SSL_session_reused(ssl) != resuming) errors++;
        ask(client);
    }
    for (;;) {
        int n = SSL_read(ssl, input, sizeof input);
        if (n <= 0) return SSL_get_error(ssl, n) != SSL_ERROR_WANT_READ && ++errors;
        client->due -= n;
        if (client->due > 0) continue;
        if (client->due < 0) errors++;
        finished++;
        if (one_shot) return true;
        ask(client);
    }
}

static double drive(int connections, double limit, long requests) {
    struct epoll_event events[EVENTS_MAX];
    double started = seconds_now(), now = started;
    for (int i = 0; i < connections; i++) open_one();
    while (now < started + limit && (requests == 0 || finished < requests)) {
        int count = epoll_wait(loop, events, EVENTS_MAX, 100);
        for (int i = 0; i < count && (requests == 0 || finished < requests); i++) {
            int fd = events[i].data.fd;
            if (!receive(&clients[fd])) continue;
            shut(fd);
            if (requests == 0 || finished < requests) open_one();
        }
        now = seconds_now();
    }
    return now - started;
}

static void hold(int connections) {
    for (int i = 0; i < connections; i++) {
        struct client *client = &clients[dial()];
        if (SSL_write(client->ssl, request, request_bytes) != request_bytes) errors++;
        while (client->due > 0) {
            int n = SSL_read(client->ssl, input, sizeof input);
            if (n <= 0) {
                errors++;
                break;
            }
            client->due -= n;
        }
    }
    printf("holding %d errors %ld\n", connections, errors);
    fflush(stdout);
    while (read(0, input, sizeof input) > 0) continue;
}

int main(int argc, char **argv) {
    int connections = 64, protocol = TLS1_3_VERSION;
    double limit = 1e9;
    long requests = 0;
    bool idle = false;
    for (int option; (option = getopt(argc, argv, "c:d:r:2iot")) != -1;) switch (option) {
        case 'c': connections = atoi(optarg); break;
        case 'd': limit = atof(optarg); break;
        case 'r': requests = atol(optarg); break;
        case '2': protocol = TLS1_2_VERSION; break;
        case 'i': idle = true; break;
        case 'o': one_shot = true; break;
        case 't': resuming = true; break;
        default: return 2;
    }
    if (argc - optind != 2) return fprintf(stderr, "usage: see the head of tls_client.c\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    server = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(argv[optind])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    request_bytes = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                             argv[optind + 1]);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, protocol);
    SSL_CTX_set_max_proto_version(context, protocol);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_ticket);
    learn();
    if (idle) return hold(connections), 0;
    loop = epoll_create1(0);
    double spent = drive(connections, limit, requests);
    printf("requests %ld seconds %.3f errors %ld\n", finished, spent, errors);
    return 0;
}
