// Splits configuration text into statements (words up to ";", "{" or "}") in nginx's grammar, and
// takes *_by_lua_block bodies by Lua's. Called by the parser only; knows no directive and no file.
#pragma once

#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"

namespace conf {

// How a statement ended.
enum class Ending : uint8_t { semicolon, block, block_end, end_of_text };

struct Statement {
    std::vector<std::string> words;       // unquoted and unescaped
    std::vector<bool> quoted;             // per word
    int first_line = 0;
    Ending ending = Ending::end_of_text;
};

class Lexer {
  public:
    // `text` must outlive the lexer. An option (-g) only differs in wording.
    explicit Lexer(core::Slice text, bool is_option = false);

    // The next statement. After an error the lexer is not to be used again, but for error_line().
    core::Result<void> next(Statement& statement);
    // After a statement that ended with "{": the Lua code up to the matching "}"; consumes both.
    core::Result<core::Slice> lua_body();

    int line() const { return line_; }
    int error_line() const { return error_line_; }
    // Where the quoted string that was open when an error occurred begins; 0: none was.
    int open_quote_line() const { return open_quote_line_; }

  private:
    bool at_end() const { return at_ == text_.size(); }
    void skip_blank();
    core::Error fail(std::string what, int line = 0);
    core::Error unexpected(char c);
    core::Error unexpected_end();
    core::Error too_long(core::Slice token, int start_line, char quote);
    core::Result<void> read_quoted(Statement& statement, char quote);
    core::Result<void> read_bare(Statement& statement);
    bool skip_lua_string(char quote);
    core::Result<bool> skip_long_bracket();
    core::Result<void> skip_lua_comment();

    core::Slice text_;
    size_t at_ = 0;
    int line_ = 1;
    int error_line_ = 0;
    int open_quote_line_ = 0;
    bool is_option_;
};

}  // namespace conf
