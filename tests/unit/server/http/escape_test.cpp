// Escaping kinds and their inverse.
#include "server/http/escape.h"

#include <gtest/gtest.h>

#include <string>

using core::Slice;
using server::Escape;

TEST(Escaping, KindsDiffer) {
    core::Arena arena;
    Slice text = "a b/c?d&e+f=g;h%\"'<\x7f\xc3";
    EXPECT_EQ(server::escape(arena, text, Escape::uri), "a%20b/c%3Fd&e+f=g;h%25%22'%3C%7F%C3");
    EXPECT_EQ(server::escape(arena, text, Escape::args),
              "a%20b/c%3Fd%26e%2Bf=g%3Bh%25%22'%3C%7F%C3");
    EXPECT_EQ(server::escape(arena, text, Escape::uri_component),
              "a%20b%2Fc%3Fd%26e%2Bf%3Dg%3Bh%25%22%27%3C%7F%C3");
    EXPECT_EQ(server::escape(arena, "a b%c\xc3", Escape::memcached), "a%20b%25c\xc3");
}

TEST(Escaping, CleanTextIsNotCopied) {
    core::Arena arena;
    Slice text = "/a/b-c_d.e~f";
    EXPECT_EQ(server::escape(arena, text, Escape::uri).data(), text.data());
    EXPECT_EQ(server::unescape(arena, text, false).data(), text.data());
    EXPECT_EQ(server::escape_html(arena, text).data(), text.data());
}

TEST(Escaping, UnescapeLeavesWhatIsMalformed) {
    core::Arena arena;
    EXPECT_EQ(server::unescape(arena, "a%20b%2", false), "a b%2");
    EXPECT_EQ(server::unescape(arena, "%zz+%41", true), "%zz A");
    EXPECT_EQ(server::unescape(arena, "a+b", false), "a+b");
    EXPECT_EQ(server::unescape(arena, "%41", false), "A");
}

TEST(Escaping, RoundTrips) {
    core::Arena arena;
    std::string all;
    for (int c = 0; c < 256; ++c) all += char(c);
    for (Escape kind : {Escape::uri, Escape::args, Escape::uri_component}) {
        EXPECT_EQ(server::unescape(arena, server::escape(arena, all, kind), false), all);
    }
}

TEST(Escaping, HtmlAndJson) {
    core::Arena arena;
    EXPECT_EQ(server::escape_html(arena, "<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    EXPECT_EQ(server::escape_json(arena, "a\"b\\c\n\x01"), "a\\\"b\\\\c\\n\\u0001");
}
