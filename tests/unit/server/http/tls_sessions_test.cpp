// The shared session cache, and the ticket keys that are kept in it.
#include "server/http/tls_sessions.h"

#include <gtest/gtest.h>

#include <cstring>
#include <ctime>

namespace {

using server::TicketKey;
using server::TlsSessionCache;

constexpr int64_t hour = 3600;

struct Keys {
    TicketKey both[TlsSessionCache::ticket_key_count];

    Keys(TlsSessionCache& cache, int64_t now_s, int64_t lifetime_s = hour) {
        cache.ticket_keys(both, now_s, lifetime_s);
    }
};

bool same(const TicketKey& a, const TicketKey& b) {
    return std::memcmp(a.name, b.name, sizeof a.name) == 0 &&
           std::memcmp(a.aes, b.aes, sizeof a.aes) == 0 &&
           std::memcmp(a.hmac, b.hmac, sizeof a.hmac) == 0;
}

TEST(TicketKeys, StayForALifetimeAndThenServeOldTickets) {
    TlsSessionCache cache("ticket keys", 8 * 4096);
    ASSERT_TRUE(cache.open());
    Keys first(cache, 1000);
    EXPECT_EQ(first.both[0].key_bytes, 32u);
    EXPECT_FALSE(same(first.both[0], first.both[1]));
    Keys soon(cache, 1000 + hour);
    EXPECT_TRUE(same(first.both[0], soon.both[0]));
    Keys later(cache, 1000 + hour + 1);
    EXPECT_FALSE(same(first.both[0], later.both[0]));
    EXPECT_TRUE(same(first.both[0], later.both[1])) << "what it made can still be opened";
    // The last ticket of the first key was made at 1000 + hour: it is good for an hour from then.
    Keys last(cache, 1000 + 2 * hour);
    EXPECT_TRUE(same(first.both[0], last.both[1]));
    Keys over(cache, 1000 + 2 * hour + 1);
    EXPECT_FALSE(same(first.both[0], over.both[1]));
    EXPECT_TRUE(same(later.both[0], over.both[1]));
}

TEST(TicketKeys, OutliveWhoUsesThem) {
    TlsSessionCache kept("ticket keys of a reload", 8 * 4096);
    ASSERT_TRUE(kept.open());
    Keys before(kept, 5000);
    TlsSessionCache next("ticket keys of a reload", 8 * 4096);
    ASSERT_TRUE(next.open());
    EXPECT_TRUE(same(before.both[0], Keys(next, 5001).both[0]));
}

TEST(TicketKeys, LongerLivesKeepKeysLonger) {
    TlsSessionCache cache("ticket keys of two servers", 8 * 4096);
    ASSERT_TRUE(cache.open());
    Keys first(cache, 1000, hour);
    Keys longer(cache, 1000 + hour, 10 * hour);
    EXPECT_TRUE(same(first.both[0], longer.both[0]));
    Keys rotated(cache, 1000 + hour + 1, hour);
    EXPECT_TRUE(same(first.both[0], rotated.both[1]));
    Keys still(cache, 1000 + 11 * hour, hour);
    EXPECT_TRUE(same(first.both[0], still.both[1])) << "for the tickets that live so long";
}

TEST(TlsSessionCache, FindsUntilTheTimeIsUp) {
    TlsSessionCache cache("sessions", 8 * 4096);
    ASSERT_TRUE(cache.open());
    int64_t now_s = int64_t(std::time(nullptr));
    cache.put("first", "one", now_s + 1000);
    cache.put("second", "two", now_s - 1);
    EXPECT_EQ(cache.get("first"), "one");
    EXPECT_EQ(cache.get("second"), "");
    EXPECT_EQ(cache.get("third"), "");
    cache.put("first", "another", now_s + 1000);
    EXPECT_EQ(cache.get("first"), "another");
    cache.remove("first");
    EXPECT_EQ(cache.get("first"), "");
}

TEST(TlsSessionCache, TheNewestPushTheOldestOut) {
    TlsSessionCache cache("few sessions", 8 * 4096);
    ASSERT_TRUE(cache.open());
    int64_t until_s = int64_t(std::time(nullptr)) + 1000;
    for (int i = 0; i < 100; ++i) {
        cache.put("id" + std::to_string(i), std::string(1000, 'x'), until_s);
    }
    EXPECT_EQ(cache.get("id0"), "");
    EXPECT_EQ(cache.get("id99").size(), 1000u);
}

}  // namespace
