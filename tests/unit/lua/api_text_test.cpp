// The pure functions behind ngx.escape_uri, ngx.decode_args, ngx.encode_base64 and ngx.re.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "lua/api.h"
#include "lua/api/regex.h"
#include "lua/api/uri.h"
#include "tests/unit/lua/empty_configuration.h"

extern "C" {
size_t ngx_http_lua_ffi_encode_base64(const unsigned char*, size_t, unsigned char*, int);
int ngx_http_lua_ffi_decode_base64(const unsigned char*, size_t, unsigned char*, size_t*);
int ngx_http_lua_ffi_decode_base64mime(const unsigned char*, size_t, unsigned char*, size_t*);
ngx_http_lua_regex_t* ngx_http_lua_ffi_compile_regex(const unsigned char*, size_t, int, int,
                                                     unsigned char*, size_t);
int ngx_http_lua_ffi_exec_regex(ngx_http_lua_regex_t*, int, const unsigned char*, size_t, int);
void ngx_http_lua_ffi_destroy_regex(ngx_http_lua_regex_t*);
int ngx_http_lua_ffi_compile_replace_template(ngx_http_lua_regex_t*, const unsigned char*, size_t);
}

namespace lua {
namespace {

const unsigned char* bytes(const std::string& text) {
    return reinterpret_cast<const unsigned char*>(text.data());
}

std::string escaped(core::Slice text, Escape kind) {
    std::string to(escaped_length(text, kind), '\0');
    EXPECT_EQ(escape_into(to.data(), text, kind), to.data() + to.size());
    return to;
}

std::string unescaped(core::Slice text) {
    std::string to(text.size(), '\0');
    to.resize(unescape_into(to.data(), text));
    return to;
}

TEST(ApiText, Escapes) {
    EXPECT_EQ(escaped("a b/?#%+", Escape::uri), "a%20b/%3F%23%25+");
    EXPECT_EQ(escaped("a b/?#%+", Escape::args), "a%20b/%3F%23%25%2B");
    EXPECT_EQ(escaped("a b&c=d/-._~!'()*", Escape::component), "a%20b%26c%3Dd%2F-._~!'()*");
    EXPECT_EQ(escaped("X:\r\n", Escape::header_name), "X%3A%0D%0A");
    EXPECT_EQ(escaped("a:\tb\r\n\x7f\xff", Escape::header_value), "a:\tb%0D%0A%7F\xff");
    EXPECT_EQ(escaped("k%\x80", Escape::memcached), "k%25\x80");
}

TEST(ApiText, UnescapingUndoesEscaping) {
    std::mt19937 random(3);
    for (int n = 0; n < 200; n++) {
        std::string text(random() % 50, '\0');
        for (char& c : text) c = char(random());
        EXPECT_EQ(unescaped(escaped(text, Escape::component)), text);
    }
    EXPECT_EQ(unescaped("%"), "%");
    EXPECT_EQ(unescaped("%4"), "%4");
    EXPECT_EQ(unescaped("%zz+%41"), "%zz A");
}

TEST(ApiText, ReadsArguments) {
    ArgumentReader reader("a=1&b&=3&&c=");
    core::Slice key, value;
    bool has_value = false;
    std::string seen;
    while (reader.next(key, value, has_value)) {
        seen.append(key).append(has_value ? "=" : "!").append(value).append(";");
    }
    EXPECT_EQ(seen, "a=1;b!;=3;!;c=;");
}

TEST(ApiText, Base64RoundTrip) {
    std::mt19937 random(4);
    for (size_t size = 0; size < 100; size++) {
        std::string text(size, '\0'), coded(size * 2 + 4, '\0'), back(size + 4, '\0');
        for (char& c : text) c = char(random());
        for (int no_padding : {0, 1}) {
            auto* to = reinterpret_cast<unsigned char*>(coded.data());
            size_t length = ngx_http_lua_ffi_encode_base64(bytes(text), size, to, no_padding);
            size_t decoded = 0;
            auto* plain = reinterpret_cast<unsigned char*>(back.data());
            EXPECT_EQ(ngx_http_lua_ffi_decode_base64(to, length, plain, &decoded), 1);
            EXPECT_EQ(back.substr(0, decoded), text);
        }
    }
    unsigned char room[16];
    size_t length = 0;
    EXPECT_EQ(ngx_http_lua_ffi_decode_base64(bytes("a"), 1, room, &length), 0);
    EXPECT_EQ(ngx_http_lua_ffi_decode_base64(bytes("aG\nk="), 5, room, &length), 0);
    EXPECT_EQ(ngx_http_lua_ffi_decode_base64mime(bytes("aG\nk="), 5, room, &length), 1);
    EXPECT_EQ(std::string(reinterpret_cast<char*>(room), length), "hi");
}

TEST(ApiText, RegexGroupsAndTemplates) {
    auto configuration = empty_configuration();   // matching asks it for its limit
    ASSERT_TRUE(configuration);
    unsigned char why[128];
    std::string pattern = "(a)|(?<digits>\\d+)", bad = "(a", subject = "x42";
    EXPECT_EQ(ngx_http_lua_ffi_compile_regex(bytes(bad), bad.size(), 0, 0, why, sizeof why),
              nullptr);
    EXPECT_STREQ(reinterpret_cast<char*>(why),
                 "pcre2_compile() failed: missing closing parenthesis in \"(a\"");
    for (int flags : {0, 4}) {                 // 4: with machine code
        auto* regex = ngx_http_lua_ffi_compile_regex(bytes(pattern), pattern.size(), flags, 0, why,
                                                     sizeof why);
        ASSERT_NE(regex, nullptr);
        EXPECT_EQ(regex->ncaptures, 2);
        EXPECT_EQ(regex->name_count, 1);
        EXPECT_EQ(ngx_http_lua_ffi_exec_regex(regex, flags, bytes(subject), 3, 0), 3);
        EXPECT_EQ(regex->captures[0], 1);
        EXPECT_EQ(regex->captures[2], -1);
        EXPECT_EQ(regex->captures[5], 3);
        EXPECT_EQ(ngx_http_lua_ffi_exec_regex(regex, flags, bytes(subject), 3, 3), -1);
        EXPECT_EQ(ngx_http_lua_ffi_exec_regex(regex, flags, bytes(subject), 3, 4), -33);
        EXPECT_EQ(ngx_http_lua_ffi_compile_replace_template(regex, bytes("[$1${2}$$]"), 10), 0);
        EXPECT_NE(regex->replace->lengths, nullptr);
        EXPECT_EQ(ngx_http_lua_ffi_compile_replace_template(regex, bytes("$x"), 2), ffi_error);
        ngx_http_lua_ffi_destroy_regex(regex);
    }
}

}  // namespace
}  // namespace lua
