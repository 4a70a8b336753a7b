// Choosing servers: the orders and distributions users rely on, failures, and tables that change.
#include "server/upstream/balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "core/clock.h"

namespace {

using server::BalanceMethod;
using server::Choice;
using server::Peer;
using server::PeerSpec;
using server::PeerStore;
using server::PeerTable;
using server::TryEnd;

PeerSpec spec(const char* name, int weight = 1) {
    PeerSpec made;
    made.server = name;
    made.weight = weight;
    auto named = core::parse_host_port(name);
    EXPECT_TRUE(named && core::Address::parse_ip(named->host, made.address));
    made.address.set_port(named->port);
    return made;
}

class Balance : public testing::Test {
  protected:
    void SetUp() override { core::Clock::update(); }
    void TearDown() override {
        if (table) store.drop(table);
    }
    void make(std::vector<PeerSpec> specs) { table = store.make(specs, nullptr, 1); }

    Choice begin(BalanceMethod method = BalanceMethod::round_robin, core::Slice key = {}) {
        Choice choice;
        choice.table = table;
        choice.list = &table->primary;
        choice.method = method;
        choice.tries = table->tries();
        choice.key = key;
        choice.ring = &ring;
        choice.hash = method == BalanceMethod::ip_hash ? 89 : 0;
        return choice;
    }
    // The server of a request that is over at once.
    std::string once(BalanceMethod method = BalanceMethod::round_robin, core::Slice key = {}) {
        Choice choice = begin(method, key);
        choice.tried = &choice.tried_few;
        Peer* peer = server::choose(choice, store);
        if (!peer) return "none";
        std::string name(peer->server);
        server::give_back(choice, store, TryEnd::passed, {});
        return name;
    }
    std::string order(int count) {
        std::string text;
        for (int i = 0; i < count; ++i) text += once().back();
        return text;
    }

    PeerStore store;
    PeerTable* table = nullptr;
    server::HashRing ring;
};

TEST_F(Balance, WeightsAreSpreadSmoothly) {
    make({spec("10.0.0.1:1", 5), spec("10.0.0.1:2"), spec("10.0.0.1:3")});
    EXPECT_EQ(order(14), "11213111121311");
}

TEST_F(Balance, AFailedServerIsLeftAloneThenTriedAgain) {
    make({spec("10.0.0.1:1"), spec("10.0.0.1:2")});
    Choice choice = begin();
    choice.tried = &choice.tried_few;
    ASSERT_EQ(server::choose(choice, store)->server.back(), '1');
    EXPECT_TRUE(server::give_back(choice, store, TryEnd::failed, {}));
    ASSERT_EQ(server::choose(choice, store)->server.back(), '2');
    server::give_back(choice, store, TryEnd::passed, {});
    EXPECT_EQ(choice.tries, 0);
    EXPECT_EQ(order(4), "2222");
    table->primary.items[0]->checked_s -= 11;          // past fail_timeout
    EXPECT_NE(order(4).find('1'), std::string::npos);
}

TEST_F(Balance, TheOnlyServerIsAlwaysTried) {
    make({spec("10.0.0.1:1")});
    Choice choice = begin();
    choice.tried = &choice.tried_few;
    ASSERT_TRUE(server::choose(choice, store));
    server::give_back(choice, store, TryEnd::failed, {});
    EXPECT_EQ(choice.tries, 0);
    EXPECT_EQ(order(2), "11");
}

TEST_F(Balance, BackupsServeWhenNobodyElseDoes) {
    PeerSpec down = spec("10.0.0.1:1"), backup = spec("10.0.0.1:9");
    down.down = true;
    backup.backup = true;
    make({down, backup});
    EXPECT_EQ(table->tries(), 1);
    EXPECT_EQ(order(2), "99");
}

TEST_F(Balance, FullServersAreLeftOut) {
    PeerSpec one = spec("10.0.0.1:1"), two = spec("10.0.0.1:2");
    one.max_conns = two.max_conns = 1;
    make({one, two});
    Choice first = begin(), second = begin(), third = begin();
    for (Choice* choice : {&first, &second, &third}) choice->tried = &choice->tried_few;
    EXPECT_TRUE(server::choose(first, store));
    EXPECT_TRUE(server::choose(second, store));
    EXPECT_FALSE(server::choose(third, store));
    server::give_back(first, store, TryEnd::passed, {});
    EXPECT_TRUE(server::choose(third, store));
    server::give_back(second, store, TryEnd::passed, {});
    server::give_back(third, store, TryEnd::passed, {});
}

TEST_F(Balance, LeastConnCountsByWeight) {
    make({spec("10.0.0.1:1", 2), spec("10.0.0.1:2", 1)});
    std::vector<Choice> open(6);
    std::map<char, int> seen;
    for (Choice& choice : open) {
        choice = begin(BalanceMethod::least_conn);
        choice.tried = &choice.tried_few;
        ++seen[server::choose(choice, store)->server.back()];
    }
    EXPECT_EQ(seen['1'], 4);
    EXPECT_EQ(seen['2'], 2);
    for (Choice& choice : open) server::give_back(choice, store, TryEnd::passed, {});
}

TEST_F(Balance, HashesStayAndSpread) {
    make({spec("10.0.0.1:1"), spec("10.0.0.1:2"), spec("10.0.0.1:3")});
    for (auto method : {BalanceMethod::hash, BalanceMethod::consistent_hash}) {
        std::map<std::string, int> seen;
        for (int i = 0; i < 300; ++i) {
            std::string key = "key" + std::to_string(i);
            std::string chosen = once(method, key);
            EXPECT_EQ(once(method, key), chosen);
            ++seen[chosen];
        }
        EXPECT_EQ(seen.size(), 3u);
        for (auto& [name, count] : seen) EXPECT_GT(count, 50) << name;
    }
}

TEST_F(Balance, AServerLessMovesOnlyItsOwnKeys) {
    std::vector<PeerSpec> specs{spec("10.0.0.1:1"), spec("10.0.0.1:2"), spec("10.0.0.1:3"),
                                spec("10.0.0.1:4")};
    make(specs);
    std::map<std::string, std::string> before;
    for (int i = 0; i < 400; ++i) {
        std::string key = std::to_string(i);
        before[key] = once(BalanceMethod::consistent_hash, key);
    }
    specs.pop_back();
    PeerTable* fresh = store.make(specs, table, 2);
    store.drop(std::exchange(table, fresh));
    for (auto& [key, chosen] : before) {
        if (chosen.back() != '4') {
            EXPECT_EQ(once(BalanceMethod::consistent_hash, key), chosen);
        }
    }
}

TEST_F(Balance, IpHashKeepsClientsTogether) {
    make({spec("10.0.0.1:1"), spec("10.0.0.1:2")});
    EXPECT_EQ(once(BalanceMethod::ip_hash, core::Slice("\xc0\xa8\x01", 3)),
              once(BalanceMethod::ip_hash, core::Slice("\xc0\xa8\x01", 3)));
}

TEST_F(Balance, FasterServersGetMore) {
    make({spec("10.0.0.1:1"), spec("10.0.0.1:2")});
    table->primary.items[0]->response_ms = 400;
    table->primary.items[1]->response_ms = 10;
    for (Peer* peer : {table->primary.items[0], table->primary.items[1]}) {
        peer->checked_s = core::Clock::seconds();
    }
    EXPECT_EQ(once(BalanceMethod::least_time_last_byte).back(), '2');
}

TEST_F(Balance, SlowStartBeginsWithLittle) {
    PeerSpec slow = spec("10.0.0.1:1", 10);
    slow.slow_start_ms = 100000;
    make({slow, spec("10.0.0.1:2", 10)});
    Peer& peer = *table->primary.items[0];
    EXPECT_EQ(server::weight_now(peer), 10);
    peer.start_ms = core::Clock::monotonic_ms() - 20000;
    EXPECT_EQ(server::weight_now(peer), 2);
    std::string text = order(60);
    EXPECT_LT(std::count(text.begin(), text.end(), '1'), 15);
}

TEST_F(Balance, ReplacedTablesKeepCounters) {
    make({spec("10.0.0.1:1"), spec("10.0.0.1:2")});
    Choice choice = begin();
    choice.tried = &choice.tried_few;
    Peer* used = server::choose(choice, store);
    PeerTable* fresh = store.make({spec("10.0.0.1:1", 4), spec("10.0.0.1:3")}, table, 2);
    ++table->references;                       // the request's own
    store.drop(table);
    EXPECT_EQ(fresh->primary.items[0], used);
    EXPECT_EQ(used->conns, 1);
    EXPECT_EQ(used->weight, 4);
    server::give_back(choice, store, TryEnd::passed, {});
    EXPECT_EQ(used->conns, 0);
    store.drop(table);
    table = fresh;
}

TEST(Ketama, PointsAreThoseOfCacheMemcachedFast) {
    // crc32("10.0.0.1" "\0" "1" and four zero bytes): the first point of a server.
    uint32_t base = server::crc32_of("10.0.0.1");
    base = server::crc32_of(core::Slice("\0", 1), base);
    base = server::crc32_of("1", base);
    uint32_t first = server::crc32_of(core::Slice("\0\0\0\0", 4), base);
    PeerStore store;
    PeerTable* table = store.make({spec("10.0.0.1:1")}, nullptr, 1);
    server::HashRing ring;
    server::make_ring(ring, *table);
    EXPECT_EQ(ring.points.size(), 160u);
    EXPECT_TRUE(std::any_of(ring.points.begin(), ring.points.end(),
                            [&](const auto& point) { return point.hash == first; }));
    store.drop(table);
}

}  // namespace
