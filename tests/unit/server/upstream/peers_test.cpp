// Tables of peers that follow one another: which peers go on with their counters.
#include "server/upstream/peers.h"

#include <gtest/gtest.h>

#include <string>

namespace {

using server::Peer;
using server::PeerSpec;
using server::PeerStore;
using server::PeerTable;

PeerSpec spec(const std::string& address, const std::string& server, const std::string& route) {
    PeerSpec made;
    made.server = server;
    made.route = route;
    auto named = core::parse_host_port(address);
    EXPECT_TRUE(named);
    if (named->is_unix) {
        EXPECT_TRUE(made.address.set_local_path(named->host));
    } else {
        EXPECT_TRUE(core::Address::parse_ip(named->host, made.address));
        made.address.set_port(named->port);
    }
    return made;
}

}  // namespace

TEST(PeersTest, AddressServerAndRouteMakeAPeerTheSame) {
    PeerStore store;
    std::vector<PeerSpec> specs{
        spec("127.0.0.1:1", "a", ""), spec("127.0.0.1:2", "a", ""), spec("127.0.0.1:1", "b", ""),
        spec("127.0.0.1:1", "a", "r"), spec("[::1]:1", "a", ""), spec("unix:/tmp/x", "a", ""),
        spec("unix:/tmp/y", "a", "")};
    specs[1].backup = true;
    PeerTable* first = store.make(specs, nullptr, 1);
    ASSERT_EQ(first->primary.count, 6u);
    ASSERT_EQ(first->backup.count, 1u);
    std::vector<PeerSpec> turned(specs.rbegin(), specs.rend());
    turned.push_back(spec("127.0.0.1:1", "c", ""));
    turned.push_back(specs[0]);                    // twice the same one
    PeerTable* second = store.make(turned, first, 2);
    ASSERT_EQ(second->primary.count, 8u);
    for (uint32_t i = 0; i < 6; ++i) {
        EXPECT_EQ(second->primary.items[i], first->primary.items[5 - i]) << i;
    }
    EXPECT_EQ(second->backup.items[0], first->backup.items[0]);
    EXPECT_EQ(second->primary.items[6]->references, 1u);
    EXPECT_EQ(second->primary.items[7], first->primary.items[0]);
    store.drop(first);
    EXPECT_EQ(second->primary.items[7]->references, 2u);
    store.drop(second);
}

TEST(PeersTest, ThousandsOfPeersGoOn) {
    PeerStore store;
    std::vector<PeerSpec> specs;
    for (int i = 0; i < 10000; ++i) {
        std::string address = "10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250);
        specs.push_back(spec(address + ":80", address, ""));
    }
    PeerTable* table = store.make(specs, nullptr, 1);
    for (uint32_t i = 0; i < table->primary.count; ++i) table->primary.items[i]->fails = int(i);
    PeerTable* next = store.make(specs, table, 2);
    store.drop(table);
    ASSERT_EQ(next->primary.count, 10000u);
    for (uint32_t i = 0; i < next->primary.count; ++i) {
        ASSERT_EQ(next->primary.items[i]->fails, int(i));
    }
    store.drop(next);
}
