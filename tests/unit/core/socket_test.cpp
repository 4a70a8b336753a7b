// Addresses, listening, connecting, and Stream over plain sockets.
#include "core/socket.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/arena.h"

namespace {

using namespace core;

Address address(const char* ip, int port = 0) {
    Address result;
    EXPECT_TRUE(Address::parse_ip(ip, result)) << ip;
    result.set_port(port);
    return result;
}

TEST(Address, ParseAndPrint) {
    EXPECT_EQ(address("127.0.0.1", 80).text(), "127.0.0.1:80");
    EXPECT_EQ(address("255.10.9.0").ip_text(), "255.10.9.0");
    EXPECT_EQ(address("::1", 8080).text(), "[::1]:8080");
    EXPECT_EQ(address("[2001:db8::5]").ip_text(), "2001:db8::5");
    Address bad;
    for (const char* text : {"", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.0004", "1..2.3",
                             "a.b.c.d", "1.2.3.4 ", ":::", "[::1", "::1]", "[1.2.3.4]",
                             "12345::1"}) {
        EXPECT_FALSE(Address::parse_ip(text, bad)) << text;
    }
    EXPECT_FALSE(Address::parse_ip(Slice("::1\0", 4), bad));
    EXPECT_TRUE(address("0.0.0.0").is_wildcard());
    EXPECT_TRUE(address("::").is_wildcard());
    EXPECT_FALSE(address("::1").is_wildcard());
    EXPECT_TRUE(address("1.2.3.4", 5) == address("1.2.3.4", 5));
    EXPECT_FALSE(address("1.2.3.4", 5) == address("1.2.3.4", 6));
    Address local;
    ASSERT_TRUE(local.set_local_path("/tmp/x.sock"));
    EXPECT_EQ(local.text(), "unix:/tmp/x.sock");
    EXPECT_FALSE(local.set_local_path(std::string(200, 'x')));
    EXPECT_EQ(Address().text(), "");
}

std::string split(const char* text) {
    auto parsed = parse_host_port(text);
    if (!parsed) return "! " + parsed.error().what;
    return (parsed->is_unix ? "unix " : "") + parsed->host + "|" + std::to_string(parsed->port);
}

TEST(Address, HostPort) {
    EXPECT_EQ(split("80"), "|80");
    EXPECT_EQ(split("*:80"), "|80");
    EXPECT_EQ(split("127.0.0.1:80"), "127.0.0.1|80");
    EXPECT_EQ(split("localhost"), "localhost|0");
    EXPECT_EQ(split("[::1]:80"), "[::1]|80");
    EXPECT_EQ(split("[::1]"), "[::1]|0");
    EXPECT_EQ(split("unix:/a:b"), "unix /a:b|0");
    EXPECT_EQ(split("99999"), "! invalid port");
    EXPECT_EQ(split("0"), "! invalid port");
    EXPECT_EQ(split("a:"), "! invalid port");
    EXPECT_EQ(split("a:b"), "! invalid port");
    EXPECT_EQ(split(":80"), "! no host");
    EXPECT_EQ(split(""), "! no host");
    EXPECT_EQ(split("unix:"), "! no path in the unix domain socket");
    EXPECT_EQ(split("[::1"), "! invalid host");
    EXPECT_EQ(split("[zz]:1"), "! invalid IPv6 address");
}

struct Pair {
    Stream near, far;
    explicit Pair(int buffer_bytes = 0) {
        int fds[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        if (buffer_bytes) setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(int));
        near = Stream(Fd(fds[0]));
        far = Stream(Fd(fds[1]));
    }
    std::string drain() {
        std::string all;
        char room[4096];
        for (;;) {
            IoResult got = far.read(room, sizeof room);
            if (got.status != Io::done) return all;
            all.append(room, size_t(got.bytes));
        }
    }
};

OpenFile* temp_file(const std::string& content) {
    char name[] = "/tmp/resty-socket-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    EXPECT_EQ(write(fd, content.data(), content.size()), ssize_t(content.size()));
    return OpenFile::adopt(fd);
}

std::string pattern(size_t size) {
    std::string text(size, 0);
    for (size_t i = 0; i < size; ++i) text[i] = char('a' + i * 7 % 26);
    return text;
}

TEST(Stream, ReadOutcomes) {
    Pair pair;
    char room[10];
    EXPECT_EQ(pair.near.read(room, 10).status, Io::again);
    EXPECT_EQ(pair.far.write("hello").bytes, 5);
    IoResult got = pair.near.read(room, 3);
    EXPECT_EQ(got.bytes, 3);
    EXPECT_FALSE(got.drained);
    got = pair.near.read(room, 10);
    EXPECT_EQ(got.bytes, 2);
    EXPECT_TRUE(got.drained);
    pair.far.shutdown_write();
    EXPECT_EQ(pair.near.read(room, 10).status, Io::closed);
    EXPECT_EQ(pair.near.write("x").status, Io::done);
    pair.far.close();
    IoResult sent = pair.near.write("x");
    EXPECT_EQ(sent.status, Io::failed);
    EXPECT_EQ(sent.error, EPIPE);
}

TEST(Stream, WritesChainsOfMemoryAndFiles) {
    Pair pair;
    std::string small = pattern(1000), large = pattern(100000);
    Chain chain;
    chain.add("head ");
    chain.add_mark(Buffer::flush);
    chain.add_file(temp_file(small), 10, 1000);
    chain.add(" middle ");
    chain.add_file(temp_file(large), 0, 100000);
    chain.add(" tail");
    chain.add_mark(Buffer::last);
    int64_t total = chain.bytes();
    std::string wanted = "head " + small.substr(10) + " middle " + large + " tail", all;
    int64_t moved = 0;
    for (int i = 0; i < 1000 && !chain.empty(); ++i) {
        IoResult result = pair.near.write(chain);
        ASSERT_NE(result.status, Io::failed);
        moved += result.bytes;
        EXPECT_EQ(result.status == Io::done, chain.empty());
        all += pair.drain();
    }
    EXPECT_EQ(moved, total);
    EXPECT_EQ(all, wanted);
}

TEST(Stream, ManyPieces) {
    Pair pair;
    Chain chain;
    std::string wanted;
    std::string text = pattern(500);
    for (size_t i = 0; i < 500; ++i) {
        chain.add(Slice(text).substr(i, 1));
        wanted += text[i];
    }
    IoResult result = pair.near.write(chain);
    EXPECT_EQ(result.status, Io::done);
    EXPECT_EQ(result.bytes, 500);
    EXPECT_EQ(pair.drain(), wanted);
}

TEST(Stream, StopsAtTheLimit) {
    Pair pair;
    Chain chain;
    chain.add("0123456789");
    chain.add_file(temp_file(pattern(50000)), 0, 50000);
    IoResult result = pair.near.write(chain, 4);
    EXPECT_EQ(result.status, Io::done);
    EXPECT_EQ(result.bytes, 4);
    EXPECT_EQ(pair.drain(), "0123");
    result = pair.near.write(chain, 16);
    EXPECT_EQ(result.bytes, 16);
    EXPECT_EQ(pair.drain(), "456789" + pattern(10));
    EXPECT_EQ(pair.near.write(chain, 0).bytes, 0);
    EXPECT_EQ(chain.bytes(), 49990);
}

TEST(Stream, PartialWrites) {
    Pair pair(4096);
    std::string text = pattern(300000);
    Chain chain;
    for (size_t at = 0; at < text.size(); at += 3000) chain.add(Slice(text).substr(at, 3000));
    std::string all;
    int rounds = 0;
    while (!chain.empty() && ++rounds < 10000) {
        IoResult result = pair.near.write(chain);
        if (result.status == Io::done) break;
        ASSERT_EQ(result.status, Io::again);
        all += pair.drain();
    }
    all += pair.drain();
    EXPECT_GT(rounds, 2);
    EXPECT_EQ(all, text);
}

TEST(Stream, TruncatedFile) {
    for (int64_t size : {100, 100000}) {
        Pair pair;
        Chain chain;
        chain.add_file(temp_file("0123456789"), 0, size);
        IoResult result = pair.near.write(chain);
        EXPECT_EQ(result.status, Io::failed);
        EXPECT_EQ(result.error, ENODATA);
    }
}

TEST(Stream, OnlyMarks) {
    Pair pair;
    Chain chain;
    chain.add_mark(Buffer::flush);
    chain.add_mark(Buffer::last);
    EXPECT_EQ(pair.near.write(chain).status, Io::done);
    EXPECT_TRUE(chain.empty());
}

TEST(Stream, WriteMakesNoAllocationInSteadyState) {
    Pair pair;
    std::string text = pattern(100);
    auto round = [&] {
        Chain chain;
        chain.add(text);
        chain.add(text);
        chain.add_copy(text);
        EXPECT_EQ(pair.near.write(chain).status, Io::done);
        pair.drain();
    };
    round();
    uint64_t before = heap_allocations();
    for (int i = 0; i < 10; ++i) round();
    EXPECT_EQ(heap_allocations(), before);
}

TEST(Listen, ConnectAcceptReset) {
    for (const char* ip : {"127.0.0.1", "::1"}) {
        ListenOptions options;
        options.reuse_port = true;
        options.deferred = false;
        options.fast_open = 5;
        options.keepalive_set = options.keepalive = true;
        options.keepalive_idle_s = 30;
        options.receive_buffer_bytes = 65536;
        auto listener = listen_on(address(ip), options);
        ASSERT_TRUE(listener) << listener.error().what;
        Address at = local_address(listener->get());
        ASSERT_GT(at.port(), 0);
        auto again = listen_on(at, options);   // reuseport: both may listen
        EXPECT_TRUE(again) << again.error().what;
        again->reset();
        auto fd = connect_to(at);
        ASSERT_TRUE(fd) << fd.error().what;
        pollfd wait{fd->get(), POLLOUT, 0};
        ASSERT_EQ(poll(&wait, 1, 1000), 1);
        EXPECT_EQ(socket_error(fd->get()), 0);
        set_nodelay(fd->get());
        wait = {listener->get(), POLLIN, 0};
        ASSERT_EQ(poll(&wait, 1, 1000), 1);
        int accepted = accept(listener->get(), nullptr, nullptr);
        ASSERT_GE(accepted, 0);
        EXPECT_TRUE(peer_address(accepted) == local_address(fd->get()));
        Stream server{Fd(accepted)};
        server.reset();
        wait = {fd->get(), POLLIN, 0};
        poll(&wait, 1, 1000);
        Stream client(std::move(*fd));
        char room[4];
        EXPECT_EQ(client.read(room, 4).error, ECONNRESET);
    }
}

TEST(Listen, AddressInUse) {
    auto first = listen_on(address("127.0.0.1"), {});
    ASSERT_TRUE(first);
    Address at = local_address(first->get());
    auto second = listen_on(at, {});
    ASSERT_FALSE(second);
    EXPECT_EQ(errno, EADDRINUSE);
    EXPECT_EQ(second.error().what,
              "bind() to " + at.text() + " failed (98: Address already in use)");
}

TEST(Listen, UnixSockets) {
    std::string path = "/tmp/resty-listen-" + std::to_string(getpid()) + ".sock";
    Address at;
    ASSERT_TRUE(at.set_local_path(path));
    {
        auto first = listen_on(at, {});
        ASSERT_TRUE(first) << first.error().what;
        auto second = listen_on(at, {});   // somebody listens
        ASSERT_FALSE(second);
        EXPECT_EQ(second.error().what,
                  "bind() to unix:" + path + " failed (98: Address already in use)");
        auto client = connect_to(at);
        EXPECT_TRUE(client) << client.error().what;
        struct stat status;
        ASSERT_EQ(stat(path.c_str(), &status), 0);
        EXPECT_EQ(status.st_mode & 0777, 0666u);
    }
    auto stale = listen_on(at, {});   // the file is there, nobody listens
    EXPECT_TRUE(stale) << stale.error().what;
    unlink(path.c_str());
    FILE* plain = fopen(path.c_str(), "w");
    fclose(plain);
    EXPECT_FALSE(listen_on(at, {}));   // not a socket: never removed
    EXPECT_EQ(access(path.c_str(), F_OK), 0);
    unlink(path.c_str());
    auto nobody = connect_to(at);
    ASSERT_FALSE(nobody);
    EXPECT_EQ(nobody.error().what, "No such file or directory");
}

TEST(Connect, RefusedAndBound) {
    auto listener = listen_on(address("127.0.0.1"), {});
    Address at = local_address(listener->get());
    Address from = address("127.0.0.2");
    auto bound = connect_to(at, {.bind = &from});
    ASSERT_TRUE(bound) << bound.error().what;
    EXPECT_EQ(local_address(bound->get()).ip_text(), "127.0.0.2");
    listener->reset();
    auto fd = connect_to(at);
    if (fd) {
        pollfd wait{fd->get(), POLLOUT, 0};
        poll(&wait, 1, 1000);
        EXPECT_EQ(socket_error(fd->get()), ECONNREFUSED);
    } else {
        EXPECT_EQ(fd.error().what, "Connection refused");
    }
}

}  // namespace
