// What the host argument of connect() and setpeername() means.
#include "lua/api/socket_address.h"

#include <gtest/gtest.h>

namespace lua {
namespace {

std::string meaning(core::Slice host, int port) {
    auto address = socket_address(host, port);
    if (!address) return address.error().what;
    return address->family() == AF_UNSPEC ? "a name" : address->text();
}

TEST(SocketAddress, Literals) {
    EXPECT_EQ(meaning("127.0.0.1", 80), "127.0.0.1:80");
    EXPECT_EQ(meaning("::1", 80), "[::1]:80");
    EXPECT_EQ(meaning("[::1]", 80), "[::1]:80");
    EXPECT_EQ(meaning("127.0.0.1:81", 80), "127.0.0.1:81");
    EXPECT_EQ(meaning("unix:/a/b.sock", 0), "unix:/a/b.sock");
}

TEST(SocketAddress, Names) {
    EXPECT_EQ(meaning("www.test", 80), "a name");
    EXPECT_EQ(meaning("localhost", 80), "a name");
}

TEST(SocketAddress, Nonsense) {
    EXPECT_EQ(meaning("", 80), "failed to parse host name \"\": no host");
    EXPECT_EQ(meaning("[::1", 80), "failed to parse host name \"[::1\": invalid host");
    EXPECT_EQ(meaning("127.0.0.1:0", 80),
              "failed to parse host name \"127.0.0.1:0\": invalid port");
    std::string path = "unix:" + std::string(200, 'a');
    EXPECT_EQ(meaning(path, 0).substr(0, 26), "failed to parse host name ");
}

TEST(SocketAddress, AnyOfTheAddresses) {
    core::Resolution found;
    for (const char* text : {"10.0.0.1", "10.0.0.2"}) {
        core::Address address;
        core::Address::parse_ip(text, address);
        found.addresses.push_back(address);
    }
    bool seen[2] = {};
    for (int i = 0; i < 200; ++i) {
        std::string chosen = choose_address(found, 53).text();
        seen[0] |= chosen == "10.0.0.1:53";
        seen[1] |= chosen == "10.0.0.2:53";
    }
    EXPECT_TRUE(seen[0] && seen[1]);
}

}  // namespace
}  // namespace lua
