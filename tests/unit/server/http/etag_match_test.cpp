// Entity tags in If-Match and If-None-Match.
#include "server/http/etag_match.h"

#include <gtest/gtest.h>

using server::etag_matches;
using server::EtagStrength;

TEST(Etags, Lists) {
    for (EtagStrength how : {EtagStrength::strong, EtagStrength::weak}) {
        EXPECT_TRUE(etag_matches("*", "", how));
        EXPECT_TRUE(etag_matches("\"a\"", "\"a\"", how));
        EXPECT_TRUE(etag_matches("\"b\" , \"a\"", "\"a\"", how));
        EXPECT_TRUE(etag_matches("\"b\",,\"a\" , \"c\"", "\"a\"", how));
        EXPECT_FALSE(etag_matches("\"ab\"", "\"a\"", how));
        EXPECT_FALSE(etag_matches("\"a\"x", "\"a\"", how));
        EXPECT_FALSE(etag_matches("\"a\"", "", how));
        EXPECT_FALSE(etag_matches("", "\"a\"", how));
    }
}

TEST(Etags, Weak) {
    EXPECT_TRUE(etag_matches("W/\"a\"", "\"a\"", EtagStrength::weak));
    EXPECT_TRUE(etag_matches("\"b\", W/\"a\"", "W/\"a\"", EtagStrength::weak));
    EXPECT_TRUE(etag_matches("\"a\"", "W/\"a\"", EtagStrength::weak));
    EXPECT_FALSE(etag_matches("W/\"a\"", "\"a\"", EtagStrength::strong));
}
