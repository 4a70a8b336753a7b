// Networks, masks and the walk through forwarded addresses.
#include "server/http/cidr.h"

#include <gtest/gtest.h>

using core::Address;
using core::Slice;
using server::Cidr;

namespace {

Address address(Slice text) {
    Address to;
    EXPECT_TRUE(server::parse_address(text, to)) << text;
    return to;
}

bool contains(Slice network, Slice ip) {
    Cidr cidr;
    EXPECT_TRUE(Cidr::parse(network, cidr)) << network;
    return server::any_contains({cidr}, address(ip));
}

}  // namespace

TEST(CidrTest, Contains) {
    EXPECT_TRUE(contains("192.0.2.0/24", "192.0.2.255"));
    EXPECT_FALSE(contains("192.0.2.0/24", "192.0.3.0"));
    EXPECT_TRUE(contains("192.0.2.0/255.255.255.0", "192.0.2.7"));
    EXPECT_TRUE(contains("192.0.2.128/25", "192.0.2.129"));
    EXPECT_FALSE(contains("192.0.2.128/25", "192.0.2.127"));
    EXPECT_TRUE(contains("0.0.0.0/0", "8.8.8.8"));
    EXPECT_FALSE(contains("0.0.0.0/0", "2001:db8::1"));
    EXPECT_TRUE(contains("2001:db8::/33", "2001:db8:7fff::1"));
    EXPECT_FALSE(contains("2001:db8::/33", "2001:db8:8000::1"));
    EXPECT_TRUE(contains("10.0.0.1", "::ffff:10.0.0.1"));
}

TEST(CidrTest, RefusesWhatIsNoNetwork) {
    Cidr cidr;
    for (Slice text : {"", "x", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/255.0.255.0", "::/129",
                       "192.0.2"}) {
        EXPECT_FALSE(Cidr::parse(text, cidr)) << text;
    }
    ASSERT_TRUE(Cidr::parse("192.0.2.1/24", cidr));
    EXPECT_TRUE(cidr.low_bits_dropped);
}

TEST(Forwarded, WalksTrustedProxies) {
    Cidr trusted;
    ASSERT_TRUE(Cidr::parse("10.0.0.0/8", trusted));
    std::vector<Cidr> from{trusted};
    auto walk = [&](std::vector<Slice> fields, bool recursive, Slice peer = "10.0.0.1") {
        Address at = address(peer);
        server::forwarded_address(at, fields.data(), fields.size(), from, recursive);
        return at.ip_text();
    };
    EXPECT_EQ(walk({"1.1.1.1, 10.0.0.2"}, false), "10.0.0.2");
    EXPECT_EQ(walk({"1.1.1.1, 10.0.0.2"}, true), "1.1.1.1");
    EXPECT_EQ(walk({"2.2.2.2, 1.1.1.1, 10.0.0.2"}, true), "1.1.1.1");
    EXPECT_EQ(walk({"2.2.2.2", "10.0.0.3 , 10.0.0.2,"}, true), "2.2.2.2");
    EXPECT_EQ(walk({"1.1.1.1"}, true, "9.9.9.9"), "9.9.9.9");
    EXPECT_EQ(walk({"junk, 10.0.0.2"}, true), "10.0.0.2");
    EXPECT_EQ(walk({"1.1.1.1:80"}, false), "1.1.1.1");
    EXPECT_EQ(walk({"[2001:db8::1]:80"}, false), "2001:db8::1");
    EXPECT_EQ(walk({""}, true), "10.0.0.1");
}
