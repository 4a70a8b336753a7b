// Response heads and body framing of upstream servers.
#include "server/upstream/response_parser.h"

#include <gtest/gtest.h>

#include <string>

#include "core/arena.h"
#include "server/http/headers.h"

namespace {

using core::Slice;
using server::BodyReader;
using server::HeaderList;
using server::ResponseHead;

TEST(ResponseHead, TakesApart) {
    core::Arena arena;
    HeaderList fields(arena);
    ResponseHead head;
    EXPECT_EQ(server::parse_response_head("HTTP/1.1 404 Not Here\r\nContent-Length: 12\r\n"
                                          "X-A:  b \r\nConnection: Close\r\n\r\n", head, fields),
              nullptr);
    EXPECT_EQ(head.status, 404);
    EXPECT_EQ(head.status_line, "404 Not Here");
    EXPECT_EQ(head.content_length, 12);
    EXPECT_TRUE(head.close);
    EXPECT_EQ(fields.find("x-a")->value, "b");
}

TEST(ResponseHead, BareLinesAndOldVersions) {
    core::Arena arena;
    HeaderList fields(arena);
    ResponseHead head;
    EXPECT_EQ(server::parse_response_head("HTTP/1.0 200\nA: b\n\n", head, fields), nullptr);
    EXPECT_EQ(head.status, 200);
    EXPECT_TRUE(head.close);
}

TEST(ResponseHead, RefusesDoubt) {
    for (const char* text : {
             "HTTP/1.1 20 OK\r\n\r\n", "HTTP/2 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n",
             "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", "HTTP/1.1 200 OK\r\n: c\r\n\r\n",
             "HTTP/1.1 200 OK\r\nA : c\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
             "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"}) {
        core::Arena arena;
        HeaderList fields(arena);
        ResponseHead head;
        EXPECT_NE(server::parse_response_head(text, head, fields), nullptr) << text;
    }
}

TEST(ResponseHead, EachByteOfAValue) {
    for (int byte = 0; byte < 256; ++byte) {
        if (byte == '\n') continue;
        for (size_t at = 1; at < 20; ++at) {
            std::string value(21, at % 2 ? 'a' : '\xff');
            value[at] = char(byte);
            core::Arena arena;
            HeaderList fields(arena);
            ResponseHead head;
            const char* wrong = server::parse_response_head(
                "HTTP/1.1 200 OK\r\nServer: " + value + "\r\n\r\n", head, fields);
            bool allowed = byte == '\t' || (byte >= 0x20 && byte != 0x7f);
            EXPECT_EQ(wrong == nullptr, allowed) << byte << " at " << at;
        }
    }
}

TEST(ResponseHead, EndIsFoundWhateverTheSplits) {
    for (Slice text : {Slice("HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest"),
                       Slice("HTTP/1.1 200 OK\nA: b\n\nrest")}) {
        size_t whole = 0;
        size_t end = server::find_head_end(text, whole);
        EXPECT_EQ(text.substr(end), "rest");
        size_t searched = 0;
        for (size_t size = 1; size < end; ++size) {
            EXPECT_EQ(server::find_head_end(text.substr(0, size), searched), 0u) << size;
        }
        EXPECT_EQ(server::find_head_end(text, searched), end);
    }
}

std::string read(BodyReader& reader, const std::string& text, size_t step) {
    std::string body;
    for (size_t at = 0; at < text.size(); at += step) {
        Slice piece = Slice(text).substr(at, step);
        for (Slice run = reader.next(piece); !run.empty(); run = reader.next(piece)) {
            body.append(run);
        }
    }
    return body;
}

TEST(Body, Chunks) {
    std::string text = "5;x=\"y\"\r\nhello\r\n11 \r\n, this is longer.\r\n0\r\nA: b\r\n\r\n";
    for (size_t step = 1; step <= text.size(); ++step) {
        BodyReader reader;
        reader.chunked();
        EXPECT_EQ(read(reader, text, step), "hello, this is longer.") << step;
        EXPECT_EQ(reader.state(), BodyReader::State::complete);
        EXPECT_EQ(reader.trailers(), "A: b\r\n");
    }
}

TEST(Body, BrokenChunks) {
    for (const char* text : {"x\r\n", "\r\n", "1\r\nAB", "1\nA", "-1\r\n", "1\rA",
                             "1234567890123456\r\n"}) {
        BodyReader reader;
        reader.chunked();
        read(reader, text, 1);
        EXPECT_EQ(reader.state(), BodyReader::State::bad) << text;
    }
}

TEST(Body, EndsOfConnections) {
    BodyReader length, close;
    length.of_length(3);
    EXPECT_EQ(read(length, "ab", 2), "ab");
    EXPECT_EQ(length.closed(), BodyReader::State::bad);
    close.until_close();
    EXPECT_EQ(read(close, "ab", 1), "ab");
    EXPECT_EQ(close.closed(), BodyReader::State::complete);
}

TEST(Trailers, AreFieldsOrNothing) {
    core::Arena arena;
    HeaderList fields(arena);
    EXPECT_TRUE(server::parse_trailers("A: b\r\nC: d\r\n", fields));
    EXPECT_EQ(fields.size(), 2u);
    EXPECT_FALSE(server::parse_trailers("A b\r\n", fields));
}

}  // namespace
