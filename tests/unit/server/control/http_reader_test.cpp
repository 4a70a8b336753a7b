// Requests of control connections: any split, any limit.
#include "server/control/http_reader.h"

#include <gtest/gtest.h>

namespace {

using server::ControlHttp;
using State = server::ControlHttp::State;

TEST(ControlHttp, ARequestInAnySplit) {
    const std::string wire = "PUT /v1/x%2F?dry_run=1 HTTP/1.1\r\nHost: a\r\nif-match: \"3\"\r\n"
                             "Authorization: Bearer t\r\nContent-Length: 4\r\n\r\nbody"
                             "GET /v1/next HTTP/1.1\r\nConnection: close\r\n\r\n";
    for (size_t step = 1; step < wire.size(); ++step) {
        ControlHttp http;
        std::string bytes;
        std::vector<std::string> seen;
        for (size_t at = 0; at < wire.size(); at += step) {
            bytes += wire.substr(at, step);
            while (!bytes.empty() && http.feed(bytes) == State::complete) {
                auto& request = http.request();
                seen.push_back(request.method + " " + request.path + " " + request.query + " " +
                               request.body + " " + request.if_match + " " +
                               request.authorization + (request.keep_alive ? " on" : " last"));
                http.next();
            }
        }
        ASSERT_EQ(seen.size(), 2u) << step;
        EXPECT_EQ(seen[0], "PUT /v1/x%2F dry_run=1 body \"3\" Bearer t on");
        EXPECT_EQ(seen[1], "GET /v1/next     last");
    }
}

TEST(ControlHttp, TheClientIsToldToGoOnOnce) {
    ControlHttp http;
    std::string bytes = "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    EXPECT_EQ(http.feed(bytes), State::wants_continue);
    bytes = "1";
    EXPECT_EQ(http.feed(bytes), State::more);
    bytes = "2";
    EXPECT_EQ(http.feed(bytes), State::complete);
    EXPECT_EQ(http.request().body, "12");
}

int status_of(std::string bytes) {
    ControlHttp http;
    State state = http.feed(bytes);
    return state == State::refused ? http.status() : 0;
}

TEST(ControlHttp, Limits) {
    EXPECT_EQ(status_of("nonsense\r\n\r\n"), 400);
    EXPECT_EQ(status_of("GET /" + std::string(ControlHttp::head_bytes_max, 'x')), 431);
    EXPECT_EQ(status_of("GET / HTTP/1.1\r\nA: " + std::string(ControlHttp::head_bytes_max, 'x')),
              431);
    std::string length = std::to_string(ControlHttp::body_bytes_max + 1);
    EXPECT_EQ(status_of("PUT / HTTP/1.1\r\nContent-Length: " + length + "\r\n\r\n"), 413);
    std::string chunk(ControlHttp::body_bytes_max + 1, 'x');
    EXPECT_EQ(status_of("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n" + chunk),
              413);
}

TEST(ControlHttp, FlagsOfTheQuery) {
    server::ControlRequest request;
    for (auto [query, expected] : {std::pair{"", false}, {"dry_run", true}, {"dry_run=1", true},
                                   {"a=b&dry_run=true", true}, {"dry_run=0", false},
                                   {"dry_run=false&x", false}, {"dry_runs=1", false}}) {
        request.query = query;
        EXPECT_EQ(request.flag("dry_run"), expected) << query;
    }
}

}  // namespace
