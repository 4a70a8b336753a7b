// The lexer of configuration text. Its rules are nginx's (ngx_conf_read_token): a backslash always
// protects the following byte, "${" never opens a block, "#" starts a comment only where a word
// could start. Lua bodies follow Lua's own lexical rules: braces in strings and comments are text.
#include "conf/lexer.h"

#include <algorithm>

namespace conf {

namespace {

constexpr size_t word_bytes_max = 8 << 20;
constexpr size_t lua_body_bytes_max = 64 << 20;

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// \" \' \\ lose the backslash, \t \r \n become what they name, any other pair stays as it is.
std::string unescape(core::Slice raw) {
    std::string result;
    result.reserve(raw.size());
    for (size_t i = 0; i < raw.size(); ++i) {
        if (raw[i] != '\\' || i + 1 == raw.size()) {
            result += raw[i];
            continue;
        }
        switch (char next = raw[++i]) {
        case '"':
        case '\'':
        case '\\': result += next; break;
        case 't': result += '\t'; break;
        case 'r': result += '\r'; break;
        case 'n': result += '\n'; break;
        default:
            result += '\\';
            result += next;
        }
    }
    return result;
}

int count_lines(core::Slice text) { return int(std::count(text.begin(), text.end(), '\n')); }

}  // namespace

Lexer::Lexer(core::Slice text, bool is_option) : text_(text), is_option_(is_option) {
    if (text_.substr(0, 3) == "\xEF\xBB\xBF") at_ = 3;   // a byte order mark some editors write
}

core::Result<void> Lexer::next(Statement& statement) {
    statement.words.clear();
    statement.quoted.clear();
    statement.first_line = 0;
    for (;;) {
        skip_blank();
        if (at_end()) {
            if (!statement.words.empty()) return unexpected_end();
            statement.ending = Ending::end_of_text;
            return {};
        }
        if (!statement.first_line) statement.first_line = line_;
        char c = text_[at_];
        if (c == ';' || c == '{' || c == '}') {
            ++at_;
            if (statement.words.empty() != (c == '}')) return unexpected(c);
            statement.ending = c == ';'   ? Ending::semicolon
                               : c == '{' ? Ending::block
                                          : Ending::block_end;
            return {};
        }
        bool is_quote = c == '"' || c == '\'';
        auto read = is_quote ? read_quoted(statement, c) : read_bare(statement);
        if (!read) return read;
    }
}

void Lexer::skip_blank() {
    while (!at_end()) {
        char c = text_[at_];
        if (c == '#') {
            at_ = std::min(text_.find('\n', at_), text_.size());
            continue;
        }
        if (!is_blank(c)) return;
        if (c == '\n') ++line_;
        ++at_;
    }
}

core::Result<void> Lexer::read_quoted(Statement& statement, char quote) {
    int start_line = line_;
    size_t start = ++at_;
    for (;; ++at_) {
        if (at_end()) {
            open_quote_line_ = start_line;
            return unexpected_end();
        }
        char c = text_[at_];
        if (c == quote) break;
        if (c == '\n') ++line_;
        if (c != '\\') continue;
        if (++at_ == text_.size()) {
            open_quote_line_ = start_line;
            return unexpected_end();
        }
        if (text_[at_] == '\n') ++line_;
    }
    core::Slice token = text_.substr(start, at_ - start);
    if (token.size() > word_bytes_max) return too_long(token, start_line, quote);
    if (token.find('\0') != core::Slice::npos) return unexpected('\0');
    statement.words.push_back(unescape(token));
    statement.quoted.push_back(true);
    ++at_;
    if (at_end()) return unexpected_end();
    // A closing parenthesis may follow at once: if ($x = "y").
    char c = text_[at_];
    if (is_blank(c) || c == ';' || c == '{' || c == ')') return {};
    return unexpected(c);
}

core::Result<void> Lexer::read_bare(Statement& statement) {
    int start_line = line_;
    size_t start = at_;
    bool variable = false;
    for (;; ++at_) {
        if (at_end()) return unexpected_end();
        char c = text_[at_];
        if (c == '{' && variable) continue;
        variable = c == '$';
        if (is_blank(c) || c == ';' || c == '{') break;
        if (c != '\\') continue;
        if (++at_ == text_.size()) return unexpected_end();
        if (text_[at_] == '\n') ++line_;
    }
    core::Slice token = text_.substr(start, at_ - start);
    if (token.size() > word_bytes_max) return too_long(token, start_line, 0);
    if (token.find('\0') != core::Slice::npos) return unexpected('\0');
    statement.words.push_back(unescape(token));
    statement.quoted.push_back(false);
    return {};
}

core::Result<core::Slice> Lexer::lua_body() {
    size_t start = at_;
    int brace_line = line_;
    for (int depth = 1; at_ < text_.size(); ) {
        switch (char c = text_[at_++]) {
        case '\n': ++line_; break;
        case '{':
            ++depth;
            brace_line = line_;
            break;
        case '}':
            if (--depth > 0) break;
            if (at_ - start > lua_body_bytes_max) {
                return fail("too long lua code block, probably missing terminating characters",
                            brace_line);
            }
            return text_.substr(start, at_ - 1 - start);
        case '"':
        case '\'': skip_lua_string(c); break;
        case '[': {
            --at_;
            auto skipped = skip_long_bracket();
            if (!skipped) return skipped.take_error();
            if (!*skipped) ++at_;
            break;
        }
        case '-':
            if (auto skipped = skip_lua_comment(); !skipped) return skipped.take_error();
            break;
        default: break;
        }
    }
    return fail("unexpected end of file, expecting terminating characters for lua code block",
                brace_line);
}

// Past the opening quote. An unterminated string is left to the Lua compiler to complain about: the
// quote then counts as any other character, as in lua-nginx-module.
bool Lexer::skip_lua_string(char quote) {
    for (size_t i = at_; i < text_.size() && text_[i] != '\n'; ++i) {
        if (text_[i] == quote) {
            line_ += count_lines(text_.substr(at_, i - at_));
            at_ = i + 1;
            return true;
        }
        if (text_[i] != '\\') continue;
        ++i;                                              // the escaped byte, a newline included
        if (text_.substr(i, 2) == "\r\n") ++i;
        if (i >= text_.size() || text_[i] != 'z') continue;
        while (i + 1 < text_.size() && is_blank(text_[i + 1])) ++i;      // \z skips white space
    }
    return false;
}

// At a "[". False when it opens no long bracket; nothing is consumed then.
core::Result<bool> Lexer::skip_long_bracket() {
    size_t level = text_.find_first_not_of('=', at_ + 1);
    if (level == core::Slice::npos || text_[level] != '[') return false;
    std::string closing = "]" + std::string(level - at_ - 1, '=') + "]";
    size_t end = text_.find(closing, level + 1);
    if (end == core::Slice::npos) {
        return fail("Lua code block missing the closing long bracket \"" + closing +
                    "\", the inlined Lua code may be too long");
    }
    line_ += count_lines(text_.substr(at_, end - at_));
    at_ = end + closing.size();
    return true;
}

// Past a "-".
core::Result<void> Lexer::skip_lua_comment() {
    if (at_end() || text_[at_] != '-') return {};
    ++at_;
    if (!at_end() && text_[at_] == '[') {
        auto skipped = skip_long_bracket();
        if (!skipped) return skipped.take_error();
        if (*skipped) return {};
    }
    at_ = std::min(text_.find('\n', at_), text_.size());
    return {};
}

core::Error Lexer::fail(std::string what, int line) {
    error_line_ = line ? line : line_;
    return core::Error{std::move(what)};
}

core::Error Lexer::unexpected(char c) {
    return fail(c == '\0' ? "unexpected NUL byte" : std::string("unexpected \"") + c + "\"");
}

core::Error Lexer::unexpected_end() {
    return fail(is_option_ ? "unexpected end of parameter, expecting \";\""
                           : "unexpected end of file, expecting \";\" or \"}\"");
}

core::Error Lexer::too_long(core::Slice token, int start_line, char quote) {
    if (!quote) {
        return fail("too long parameter \"" + std::string(token.substr(0, 10)) + "...\" started",
                    start_line);
    }
    return fail(std::string("too long parameter, probably missing terminating \"") + quote +
                    "\" character", start_line);
}

}  // namespace conf
