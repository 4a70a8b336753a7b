// PROXY protocol headers of both versions, whole and cut short.
#include "server/http/proxy_header.h"

#include <gtest/gtest.h>

using core::Slice;
using server::ProxyHeader;
using Outcome = ProxyHeader::Outcome;

namespace {

Outcome parse(Slice bytes, ProxyHeader& to, size_t& used) {
    return ProxyHeader::parse(bytes, to, used);
}

}  // namespace

TEST(ProxyHeaderTest, TextForm) {
    ProxyHeader header;
    size_t used = 0;
    Slice text = "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /";
    ASSERT_EQ(parse(text, header, used), Outcome::complete);
    EXPECT_EQ(header.source, "192.0.2.1");
    EXPECT_EQ(header.destination_port, 443);
    EXPECT_EQ(text.substr(used), "GET /");
    for (size_t i = 0; i < used; ++i) {
        ProxyHeader part;
        size_t n;
        EXPECT_EQ(parse(text.substr(0, i), part, n), Outcome::needs_more) << i;
    }
    EXPECT_EQ(parse("PROXY UNKNOWN whatever\r\n", header, used), Outcome::complete);
    for (Slice bad : {"GET / HTTP/1.1\r\n", "PROXY TCP4 a b 1 2\r\n",
                      "PROXY TCP6 1.1.1.1 1.1.1.1 1 2\r\n",
                      "PROXY TCP4 1.1.1.1 1.1.1.1 1 70000\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
                      "PROXY TCP4 1.1.1.1 1.1.1.1 1 2 3\r\n"}) {
        EXPECT_EQ(parse(bad, header, used), Outcome::invalid) << bad;
    }
    EXPECT_EQ(parse("PROXY " + std::string(200, 'x'), header, used), Outcome::invalid);
}

TEST(ProxyHeaderTest, BinaryForm) {
    std::string bytes("\r\n\r\n\0\r\nQUIT\n", 12);
    std::string head = bytes + '\x21' + '\x11' + '\0' + '\x11';
    std::string body("\xc0\0\2\1\xc0\0\2\2\x1f\x90\1\xbb", 12);
    std::string tlv("\x05\0\2id", 5);
    ProxyHeader header;
    size_t used = 0;
    ASSERT_EQ(parse(head + body + tlv + "GET", header, used), Outcome::complete);
    EXPECT_EQ(used, 33u);
    EXPECT_EQ(header.source, "192.0.2.1");
    EXPECT_EQ(header.source_port, 8080);
    EXPECT_EQ(header.tlv(5), "id");
    EXPECT_EQ(header.tlv(1).data(), nullptr);
    EXPECT_EQ(parse(bytes + '\x20' + '\0' + '\0' + '\0', header, used), Outcome::complete);
    EXPECT_EQ(parse(bytes + '\x31' + '\x11' + '\0' + '\0', header, used), Outcome::invalid);
    EXPECT_EQ(parse(head.substr(0, 15) + '\4' + "abcd", header, used), Outcome::invalid);
}
