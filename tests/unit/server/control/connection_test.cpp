// Clients of the control sockets that take their time.
#include "server/control/connection.h"

#include <gtest/gtest.h>

#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"

namespace {

using namespace server;

constexpr int64_t idle_ms = 100;
constexpr int64_t byte_ms = 10;
constexpr int64_t patience_ms = 20'000;

class ControlTrickle : public testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(core::Reactor::open()); }
    void TearDown() override {
        core::Reactor::current().turn(0);          // what was closed goes
        core::Reactor::close();
    }

    // Sends `begin`, then `byte` again and again. What the server says until it hangs up.
    std::string trickle(core::Slice begin, char byte, const std::string& token) {
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
        core::Fd client(fds[1]);
        ControlServer server([](const auto& from, const ControlRequest&) { from->answer({}); });
        auto connection = std::make_shared<ControlConnection>(server, core::Fd(fds[0]), token,
                                                              idle_ms);
        core::Clock::update();
        connection->begin();
        EXPECT_EQ(::send(client.get(), begin.data(), begin.size(), MSG_NOSIGNAL),
                  ssize_t(begin.size()));
        std::string said;
        int64_t began_ms = core::Clock::monotonic_ms(), sent_ms = began_ms;
        for (ssize_t got = -1; got != 0;) {
            core::Reactor::current().turn(byte_ms);
            char room[4096];
            got = ::recv(client.get(), room, sizeof room, 0);
            if (got > 0) said.append(room, size_t(got));
            int64_t now_ms = core::Clock::monotonic_ms();
            if (now_ms - began_ms > patience_ms) {
                connection->close();
                return "it was not closed";
            }
            if (now_ms - sent_ms < byte_ms) continue;
            sent_ms = now_ms;
            ::send(client.get(), &byte, 1, MSG_NOSIGNAL);
        }
        return said;
    }
};

TEST_F(ControlTrickle, AHeadHasItsTimeInAll) {
    for (const char* token : {"", "0123456789abcdef"}) {
        EXPECT_EQ(trickle("GET / HTTP/1.1\r\nX: ", 'x', token), "");
        EXPECT_EQ(trickle("\r\n", '\n', token), "");
    }
}

TEST_F(ControlTrickle, SoHasTheBodyOfAStranger) {
    core::Slice head = "PUT /x HTTP/1.1\r\nContent-Length: 60000\r\n\r\n";
    EXPECT_EQ(trickle(head, 'x', "0123456789abcdef"), "");
}

TEST_F(ControlTrickle, AStrangerHasOneRequest) {
    std::string said = trickle("GET /v1/ping HTTP/1.1\r\n\r\n", '\n', "0123456789abcdef");
    EXPECT_TRUE(said.starts_with("HTTP/1.1 401 ")) << said;
    EXPECT_NE(said.find("Connection: close\r\n"), said.npos) << said;
}

}  // namespace
