// Normalising request targets: nginx's results for the forms that browsers and attackers send.
#include "server/http/uri.h"

#include <gtest/gtest.h>

#include <string>

using core::Slice;
using server::NormalizedUri;

namespace {

std::string normalized(Slice target, bool merge = true) {
    core::Arena arena;
    NormalizedUri uri;
    if (!server::normalize_uri(target, merge, arena, uri)) return "invalid";
    return std::string(uri.path);
}

}  // namespace

TEST(Uri, PlainTargetsAreNotCopied) {
    core::Arena arena;
    NormalizedUri uri;
    for (Slice target : {"/", "/index.html", "/a/b.c/d", "/a+b;c=d", "/x?y=//../%zz"}) {
        ASSERT_TRUE(server::normalize_uri(target, true, arena, uri)) << target;
        EXPECT_TRUE(uri.plain) << target;
        EXPECT_EQ(uri.path.data(), target.data()) << target;
    }
    EXPECT_EQ(uri.path, "/x");
    EXPECT_EQ(uri.args, "y=//../%zz");
}

TEST(Uri, Decodes) {
    EXPECT_EQ(normalized("/a%20b"), "/a b");
    EXPECT_EQ(normalized("/%41%7a"), "/Az");
    EXPECT_EQ(normalized("/a%3Fb?c"), "/a?b");
    EXPECT_EQ(normalized("/a%23b"), "/a#b");
    EXPECT_EQ(normalized("/a%25b"), "/a%b");
    EXPECT_EQ(normalized("/%c3%a4"), "/\xc3\xa4");
}

TEST(Uri, ResolvesDots) {
    EXPECT_EQ(normalized("/a/./b"), "/a/b");
    EXPECT_EQ(normalized("/a/."), "/a/");
    EXPECT_EQ(normalized("/a/b/../c"), "/a/c");
    EXPECT_EQ(normalized("/a/b/.."), "/a/");
    EXPECT_EQ(normalized("/a/.."), "/");
    EXPECT_EQ(normalized("/a/%2e%2E/b"), "/b");
    EXPECT_EQ(normalized("/a%2f..%2fb"), "/b");
    EXPECT_EQ(normalized("/.hidden/..x/..."), "/.hidden/..x/...");
    EXPECT_EQ(normalized("/a/..?x"), "/");
    EXPECT_EQ(normalized("/a/.#x"), "/a/");
}

TEST(Uri, RefusesToLeaveTheRoot) {
    for (Slice target : {"/..", "/../", "/../a", "/a/../..", "/a/../../b", "/%2e%2e/a", "/..?a",
                         "/a/%2e%2e/%2e%2e/etc"}) {
        EXPECT_EQ(normalized(target), "invalid") << target;
    }
}

TEST(Uri, RefusesMalformedEscapes) {
    for (Slice target : {"/%", "/%1", "/%zz", "/a%0", "/%00", "/a%00b"}) {
        EXPECT_EQ(normalized(target), "invalid") << target;
    }
}

TEST(Uri, MergesSlashesWhenAsked) {
    EXPECT_EQ(normalized("//a///b//"), "/a/b/");
    EXPECT_EQ(normalized("//a///b//", false), "//a///b//");
    EXPECT_EQ(normalized("/a//../b", false), "/a/b");
    EXPECT_EQ(normalized("/a//../b", true), "/b");
    EXPECT_EQ(normalized("/a//./b", false), "/a//b");
    EXPECT_EQ(normalized("/a/%2fb"), "/a/b");
}

TEST(Uri, CutsTheFragment) {
    core::Arena arena;
    NormalizedUri uri;
    ASSERT_TRUE(server::normalize_uri("/a?b=c#d?e", true, arena, uri));
    EXPECT_EQ(uri.args, "b=c");
    ASSERT_TRUE(server::normalize_uri("/a#b?c", true, arena, uri));
    EXPECT_EQ(uri.path, "/a");
    EXPECT_TRUE(uri.args.empty());
}

TEST(Uri, AddsTheMissingPath) {
    EXPECT_EQ(normalized(""), "/");
    EXPECT_EQ(normalized("?a"), "/");
}

TEST(Uri, InternalOnesMustBeSafe) {
    core::Arena arena;
    auto split = [&](Slice text) -> std::string {
        Slice uri = text, args;
        if (!server::split_internal_uri(arena, uri, args)) return "unsafe";
        return std::string(uri) + "|" + std::string(args);
    };
    EXPECT_EQ(split("/a?b=c"), "/a|b=c");
    EXPECT_EQ(split("/a%20b"), "/a b|");
    EXPECT_EQ(split("a/..b"), "a/..b|");
    for (Slice text : {"", "?a", "..", "../a", "/a/../b", "/a/..", "/%2e%2e/a", "/a%00"}) {
        EXPECT_EQ(split(text), "unsafe") << text;
    }
}
