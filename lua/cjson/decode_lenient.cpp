// JSON text to Lua values, step by step: with comments, NaN, hexadecimal numbers and bytes that are
// no UTF-8 where the settings allow them, and with the exact message for what is wrong.
#include <cstdlib>
#include <cstring>
#include <strings.h>
#include <string>

#include "core/text.h"
#include "lua/cjson/config.h"

namespace lua::cjson {
namespace {

struct Token {
    enum Kind : uint8_t {
        object_begin, object_end, array_begin, array_end, string, number, boolean, null, colon,
        comma, end, error,
    } kind = error;
    size_t at = 0;                   // in the text
    double value = 0;                // of a number or boolean
    bool integer = false;            // a number of digits only
    const char* why = nullptr;       // of an error

    // What messages call it.
    const char* name() const {
        static constexpr const char* names[] = {
            "T_OBJ_BEGIN", "T_OBJ_END", "T_ARR_BEGIN", "T_ARR_END", "T_STRING", "T_NUMBER",
            "T_BOOLEAN", "T_NULL", "T_COLON", "T_COMMA", "T_END",
        };
        if (kind == error) return why;
        return kind == number && integer ? "T_INTEGER" : names[kind];
    }
};

// Cuts the text into tokens. The text ends at its NUL.
class Scanner {
  public:
    Scanner(const Config& config, const char* text) : config_(config), start_(text), at_(text) {}

    Token next();
    const std::string& string() const { return string_; }    // of the last string token
    size_t position() const { return size_t(at_ - start_); }

  private:
    bool skip_comment(Token& token);
    Token fail(const char* why) {
        Token token;
        token.at = position();
        token.why = why;
        return token;
    }
    Token scan_word(Token token);
    Token scan_string(Token token);
    Token scan_number(Token token);
    bool scan_unicode();
    bool strict_number() const;
    int hex4(const char* from) const;
    void append_utf8(uint32_t code);

    const Config& config_;
    const char* start_;
    const char* at_;
    std::string string_;
};

// False: there is none here, or it does not end (token says so).
bool Scanner::skip_comment(Token& token) {
    if (!config_.decode_allow_comment || at_[0] != '/') return false;
    if (at_[1] == '/') {
        at_ += std::strcspn(at_, "\n");
        return true;
    }
    if (at_[1] != '*') return false;
    const char* end = std::strstr(at_ + 2, "*/");
    if (end) {
        at_ = end + 2;
        return true;
    }
    at_ += std::strlen(at_);
    token = fail("unclosed multi-line comment");
    return false;
}

Token Scanner::next() {
    Token token;
    do {
        at_ += std::strspn(at_, " \t\r\n");
    } while (skip_comment(token));
    if (token.why) return token;
    token.at = position();
    switch (*at_) {
    case '{': token.kind = Token::object_begin; break;
    case '}': token.kind = Token::object_end; break;
    case '[': token.kind = Token::array_begin; break;
    case ']': token.kind = Token::array_end; break;
    case ',': token.kind = Token::comma; break;
    case ':': token.kind = Token::colon; break;
    case '\0': token.kind = Token::end; return token;
    case '"': return scan_string(token);
    default: return scan_word(token);
    }
    at_++;
    return token;
}

Token Scanner::scan_word(Token token) {
    auto word = [&](const char* text, Token::Kind kind, double value) {
        size_t length = std::strlen(text);
        if (std::strncmp(at_, text, length) != 0) return false;
        at_ += length;
        token.kind = kind;
        token.value = value;
        return true;
    };
    if (*at_ == '-' || core::is_digit(*at_)) {
        if (!config_.decode_invalid_numbers && !strict_number()) return fail("invalid number");
        return scan_number(token);
    }
    if (word("true", Token::boolean, 1) || word("false", Token::boolean, 0) ||
        word("null", Token::null, 0)) {
        return token;
    }
    bool may_be_number = *at_ == '+' || core::lower(*at_) == 'i' || core::lower(*at_) == 'n';
    if (may_be_number && config_.decode_invalid_numbers && !strict_number()) {
        return scan_number(token);
    }
    return fail("invalid token");
}

// Does what stands here begin as JSON's grammar lets a number begin? strtod() takes more.
bool Scanner::strict_number() const {
    const char* p = at_;
    if (*p == '+') return false;
    if (*p == '-') p++;
    if (*p == '0') return core::lower(p[1]) != 'x' && !core::is_digit(p[1]);
    return strncasecmp(p, "inf", 3) != 0 && strncasecmp(p, "nan", 3) != 0;
}

Token Scanner::scan_number(Token token) {
    char* end = nullptr;
    token.value = std::strtod(at_, &end);
    if (end == at_) return fail("invalid number");
    token.kind = Token::number;
    token.integer = size_t(end - at_) == std::strspn(at_, "+-0123456789");
    at_ = end;
    return token;
}

Token Scanner::scan_string(Token token) {
    string_.clear();
    at_++;
    while (*at_ != '"') {
        size_t run = std::strcspn(at_, "\"\\");
        string_.append(at_, run);
        at_ += run;
        if (!*at_) return fail("unexpected end of string");
        if (*at_ == '"') break;
        switch (at_[1]) {
        case '"': case '\\': case '/': string_ += at_[1]; break;
        case 'b': string_ += '\b'; break;
        case 't': string_ += '\t'; break;
        case 'n': string_ += '\n'; break;
        case 'f': string_ += '\f'; break;
        case 'r': string_ += '\r'; break;
        case 'u':
            if (!scan_unicode()) return fail("invalid unicode escape code");
            continue;
        default: return fail("invalid escape code");
        }
        at_ += 2;
    }
    at_++;
    token.kind = Token::string;
    return token;
}

int Scanner::hex4(const char* from) const {
    int value = 0;
    for (int n = 0; n < 4; n++) {
        int digit = core::hex_value(from[n]);
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

// \uXXXX at at_, a surrogate pair as two of them.
bool Scanner::scan_unicode() {
    int code = hex4(at_ + 2);
    if (code < 0) return false;
    at_ += 6;
    if ((code & 0xf800) != 0xd800) {
        append_utf8(uint32_t(code));
        return true;
    }
    int low = !(code & 0x400) && at_[0] == '\\' && at_[1] == 'u' ? hex4(at_ + 2) : -1;
    if (low < 0 || (low & 0xfc00) != 0xdc00) {
        at_ -= 6;
        return false;
    }
    at_ += 6;
    append_utf8(uint32_t(((code & 0x3ff) << 10 | (low & 0x3ff)) + 0x10000));
    return true;
}

void Scanner::append_utf8(uint32_t code) {
    if (code < 0x80) {
        string_ += char(code);
        return;
    }
    int following = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    constexpr uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    string_ += char(lead[following] | code >> 6 * following);
    while (following--) string_ += char(0x80 | (code >> 6 * following & 0x3f));
}

// Builds values from tokens.
class Parser {
  public:
    Parser(lua_State* L, const Config& config, const char* text)
        : L(L), config_(config), scanner_(config, text) {}

    void document() {
        value(scanner_.next(), 0);
        Token last = scanner_.next();
        if (last.kind != Token::end) expected("the end", last);
    }

  private:
    void value(const Token& token, int depth);
    void array(int depth);
    void object(int depth);
    void check_depth(int depth);
    [[noreturn]] void expected(const char* what, const Token& found);

    lua_State* L;
    const Config& config_;
    Scanner scanner_;
};

void Parser::expected(const char* what, const Token& found) {
    luaL_error(L, "Expected %s but found %s at character %d", what, found.name(),
               int(found.at) + 1);
    __builtin_unreachable();
}

void Parser::check_depth(int depth) {
    if (depth <= config_.decode_max_depth && lua_checkstack(L, 4)) return;
    luaL_error(L, "Found too many nested data structures (%d) at character %d", depth,
               int(scanner_.position()));
}

void Parser::object(int depth) {
    check_depth(depth);
    lua_newtable(L);
    Token token = scanner_.next();
    if (token.kind == Token::object_end) return;
    while (true) {
        if (token.kind != Token::string) expected("object key string", token);
        lua_pushlstring(L, scanner_.string().data(), scanner_.string().size());
        token = scanner_.next();
        if (token.kind != Token::colon) expected("colon", token);
        value(scanner_.next(), depth);
        lua_rawset(L, -3);
        token = scanner_.next();
        if (token.kind == Token::object_end) return;
        if (token.kind != Token::comma) expected("comma or object end", token);
        token = scanner_.next();
    }
}

void Parser::array(int depth) {
    check_depth(depth);
    lua_newtable(L);
    if (config_.decode_array_with_array_mt) {
        lua_pushlightuserdata(L, &array_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        lua_setmetatable(L, -2);
    }
    Token token = scanner_.next();
    if (token.kind == Token::array_end) return;
    for (int index = 1;; index++) {
        value(token, depth);
        lua_rawseti(L, -2, index);
        token = scanner_.next();
        if (token.kind == Token::array_end) return;
        if (token.kind != Token::comma) expected("comma or array end", token);
        token = scanner_.next();
    }
}

void Parser::value(const Token& token, int depth) {
    switch (token.kind) {
    case Token::string:
        lua_pushlstring(L, scanner_.string().data(), scanner_.string().size());
        return;
    case Token::number: lua_pushnumber(L, token.value); return;
    case Token::boolean: lua_pushboolean(L, token.value != 0); return;
    case Token::null: lua_pushlightuserdata(L, nullptr); return;
    case Token::object_begin: object(depth + 1); return;
    case Token::array_begin: array(depth + 1); return;
    default: expected("value", token);
    }
}

}  // namespace

void decode_leniently(lua_State* L, const Config& config, const char* text, size_t bytes) {
    if (bytes >= 2 && (!text[0] || !text[1])) {
        luaL_error(L, "JSON parser does not support UTF-16 or UTF-32");
    }
    Parser(L, config, text).document();
}

}  // namespace lua::cjson
