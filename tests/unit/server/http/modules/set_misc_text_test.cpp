// Quoting, base32, hex, base64 and the split_clients hash.
#include "server/http/modules/set_misc_text.h"

#include <gtest/gtest.h>

#include "core/base64.h"
#include "server/http/murmur.h"

using core::Slice;

TEST(SetMiscText, Quotes) {
    core::Arena arena;
    EXPECT_EQ(server::quote_sql(arena, ""), "''");
    EXPECT_EQ(server::quote_sql(arena, Slice("it's\n\0\x1a$", 8)), "'it\\'s\\n\\0\\Z\\$'");
    EXPECT_EQ(server::quote_pgsql(arena, "it's"), "E'it\\'s'");
    EXPECT_EQ(server::quote_pgsql(arena, "\xc3\xa4"), "E'\xc3\xa4'");
    EXPECT_EQ(server::quote_pgsql(arena, "\xff"), "E'\\\\377'");
    EXPECT_EQ(server::quote_json(arena, "a\"\x1f"), "\"a\\\"\\u001f\"");
    EXPECT_EQ(server::quote_json(arena, ""), "null");
}

TEST(SetMiscText, Base32) {
    core::Arena arena;
    constexpr Slice alphabet = "0123456789abcdefghijklmnopqrstuv";
    const char* pairs[][2] = {{"", ""}, {"f", "co======"}, {"fo", "cpng===="}, {"foo", "cpnmu==="},
                              {"foob", "cpnmuog="}, {"fooba", "cpnmuoj1"},
                              {"foobar", "cpnmuoj1e8======"}};
    for (auto& [plain, encoded] : pairs) {
        EXPECT_EQ(server::encode_base32(arena, plain, alphabet, true), encoded);
        EXPECT_EQ(server::decode_base32(arena, encoded, alphabet), plain);
    }
    EXPECT_EQ(server::encode_base32(arena, "f", alphabet, false), "co");
    EXPECT_EQ(server::decode_base32(arena, "c", alphabet).data(), nullptr);
    EXPECT_EQ(server::decode_base32(arena, "zz", alphabet).data(), nullptr);
}

TEST(SetMiscText, HexAndUri) {
    core::Arena arena;
    EXPECT_EQ(server::encode_hex(arena, "a\xff"), "61ff");
    EXPECT_EQ(server::decode_hex(arena, "61fF"), "a\xff");
    EXPECT_EQ(server::decode_hex(arena, "6").data(), nullptr);
    EXPECT_EQ(server::decode_hex(arena, "6x").data(), nullptr);
    EXPECT_EQ(server::escape_component_loosely(arena, "a b/c?d=e,f@g$h|"),
              "a%20b%2Fc%3Fd%3De,f@g$h|");
}

TEST(Base64, BothAlphabets) {
    core::Arena arena;
    EXPECT_EQ(core::encode_base64(arena, "fo"), "Zm8=");
    EXPECT_EQ(core::decode_base64(arena, "Zm8="), "fo");
    EXPECT_EQ(core::decode_base64(arena, "Zm8"), "fo");
    EXPECT_EQ(core::decode_base64(arena, "Zm8*").data(), nullptr);
    EXPECT_EQ(core::decode_base64(arena, "Z").data(), nullptr);
    char room[8];
    char* end = core::encode_base64_into(room, "\xfb\xff", false, true);
    EXPECT_EQ(Slice(room, size_t(end - room)), "-_8");
}

TEST(Murmur, MatchesTheReference) {
    EXPECT_EQ(server::murmur_hash2(""), 0u);
    EXPECT_EQ(server::murmur_hash2("abc"), 324500635u);
    EXPECT_EQ(server::murmur_hash2("abcd"), 646393889u);
}
