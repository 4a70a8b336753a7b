// Builds the Tree: reads files, nests blocks, expands includes. Directive names mean nothing here
// but for `include` and `*_by_lua_block`.
#include "conf/parser.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "conf/environment.h"
#include "conf/lexer.h"

namespace conf {

namespace {

using core::Error;
using core::Result;

constexpr size_t file_bytes_max = size_t(256) << 20;
constexpr size_t files_max = 100'000;
constexpr int block_depth_max = 200;

std::string failed(const char* call, const std::string& path, int code) {
    return std::string(call) + " \"" + path + "\" failed (" + std::to_string(code) + ": " +
           strerror(code) + ")";
}

// Reads to the end rather than to the size: -c may name a pipe.
Result<std::string> read_whole(const std::string& path) {
    int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Error{failed("open()", path, errno)};
    std::string text;
    char room[16384];
    for (;;) {
        ssize_t count = read(fd, room, sizeof room);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            int code = errno;
            close(fd);
            if (count < 0) return Error{failed("read()", path, code)};
            return text;
        }
        text.append(room, size_t(count));
        if (text.size() > file_bytes_max) {
            close(fd);
            return Error{"configuration file \"" + path + "\" is too large"};
        }
    }
}

bool ends_with_lua_block(const std::string& name) {
    constexpr core::Slice suffix = "_by_lua_block";
    return name.size() > suffix.size() && name.ends_with(suffix);
}

// One text being read.
struct Source {
    Lexer lexer;
    const std::string* name;
    bool is_option;
};

class Parser {
  public:
    Parser(const ParseOptions& options, Tree& tree) : options_(options), tree_(tree) {
        for (size_t i = 0; i < tree.files.size(); ++i) known_[*tree.files[i]] = i;
    }

    Result<void> read_file(const std::string& path, const Place* from, std::vector<Node>& to);
    Result<void> read_text(core::Slice text, const std::string* name, bool is_option,
                           std::vector<Node>& to);
    Result<void> include(core::Slice pattern, const Place& place, std::vector<Node>& to);

  private:
    Result<void> read_block(Source& source, std::vector<Node>& to, Node* owner);
    Result<void> read_children(Source& source, Node& node);
    Result<void> take(Source& source, Statement& statement, std::vector<Node>& to);
    void fill_in(std::vector<std::string>& words);
    Result<void> read_lua(Source& source, Node& node);
    Result<void> glob_include(const std::string& pattern, const Place& place,
                              std::vector<Node>& to);
    Error lexer_error(Source& source, Error error, const Node* owner);
    Error error_at(const Source& source, int line, const std::string& text);

    const ParseOptions& options_;
    Tree& tree_;
    std::unordered_map<std::string, size_t> known_;   // path to index in tree_.files
    size_t files_read_ = 0;
    int include_depth_ = 0;
    int block_depth_ = 0;
};

// A file that is included again is not read again: -T shows it once, and its text stays the same.
Result<void> Parser::read_file(const std::string& path, const Place* from, std::vector<Node>& to) {
    auto fail = [&](const std::string& what) {
        return Error{from ? located(tree_, *from, what) : what};
    };
    if (++files_read_ > files_max) return fail("too many included files");
    auto known = known_.find(path);
    if (known == known_.end()) {
        auto text = read_whole(path);
        if (!text) return fail(text.error().what);
        tree_.files.push_back(std::make_unique<std::string>(path));
        tree_.texts.push_back(std::make_unique<std::string>(std::move(*text)));
        known = known_.emplace(path, tree_.files.size() - 1).first;
    }
    return read_text(*tree_.texts[known->second], tree_.files[known->second].get(), false, to);
}

Result<void> Parser::read_text(core::Slice text, const std::string* name, bool is_option,
                               std::vector<Node>& to) {
    Source source{Lexer(text, is_option), name, is_option};
    return read_block(source, to, nullptr);
}

// Reads statements up to the end of the block, or of the text when there is no owner.
Result<void> Parser::read_block(Source& source, std::vector<Node>& to, Node* owner) {
    Statement statement;
    for (;;) {
        auto read = source.lexer.next(statement);
        if (!read) return lexer_error(source, read.take_error(), owner);
        switch (statement.ending) {
        case Ending::end_of_text:
            if (!owner) return {};
            return lexer_error(source, Error{"unexpected end of file, expecting \"}\""}, owner);
        case Ending::block_end:
            if (!owner) return error_at(source, source.lexer.line(), "unexpected \"}\"");
            owner->end_line = source.lexer.line();
            return {};
        case Ending::block:
        case Ending::semicolon:
            if (auto taken = take(source, statement, to); !taken) return taken;
        }
    }
}

Result<void> Parser::take(Source& source, Statement& statement, std::vector<Node>& to) {
    Place place{source.name, source.is_option ? 0 : source.lexer.line(), statement.first_line};
    bool has_block = statement.ending == Ending::block;
    if (has_block && source.is_option) {
        return Error{located(tree_, place, "block directives are not supported in -g option")};
    }
    if (options_.environment) fill_in(statement.words);
    // With another number of words it is left to the block's owner, who has its own words for it.
    if (statement.words[0] == "include" && statement.words.size() == 2 && !has_block) {
        return include(statement.words[1], place, to);
    }
    Node& node = to.emplace_back();
    node.name = std::move(statement.words[0]);
    node.args.assign(std::make_move_iterator(statement.words.begin() + 1),
                     std::make_move_iterator(statement.words.end()));
    node.quoted.assign(statement.quoted.begin() + 1, statement.quoted.end());
    node.place = place;
    node.has_block = has_block;
    if (!has_block && options_.environment && block_depth_ == 0 && node.name == "environment") {
        auto declared = options_.environment->declare(node.args);
        if (!declared) return Error{located(tree_, place, declared.error().what)};
    }
    if (!has_block) return {};
    if (!ends_with_lua_block(node.name)) return read_children(source, node);
    auto read = read_lua(source, node);
    if (!read) to.pop_back();              // nobody expects one without its body
    return read;
}

// Code is left alone: what is in a variable must not become a part of it.
void Parser::fill_in(std::vector<std::string>& words) {
    const std::string& name = words[0];
    bool is_code = name.find("_by_lua") != std::string::npos && !name.ends_with("_file");
    if (options_.environment->empty() || is_code || name == "environment") return;
    for (size_t i = 1; i < words.size(); ++i) options_.environment->fill_in(words[i]);
}

Result<void> Parser::read_lua(Source& source, Node& node) {
    node.is_lua = true;
    node.lua_line = source.lexer.line();
    auto body = source.lexer.lua_body();
    if (!body) return error_at(source, source.lexer.error_line(), body.error().what);
    node.args.emplace_back(*body);
    node.quoted.push_back(true);
    node.end_line = source.lexer.line();
    return {};
}

Result<void> Parser::read_children(Source& source, Node& node) {
    if (block_depth_ == block_depth_max) {
        return Error{located(tree_, node.place, "blocks are nested too deeply")};
    }
    ++block_depth_;
    // The node is moved about while its siblings are added, never while its children are.
    auto result = read_block(source, node.children, &node);
    --block_depth_;
    node.is_cut = !result;
    return result;
}

Result<void> Parser::include(core::Slice pattern, const Place& place, std::vector<Node>& to) {
    std::string path(pattern);
    if (path.empty() || path[0] != '/') path = options_.conf_prefix + path;
    if (include_depth_ >= options_.include_depth_max) {
        return Error{located(tree_, place, "includes are nested too deeply, does \"" + path +
                                               "\" include itself?")};
    }
    ++include_depth_;
    bool is_glob = path.find_first_of("*?[") != std::string::npos;
    auto result = is_glob ? glob_include(path, place, to) : read_file(path, &place, to);
    --include_depth_;
    return result;
}

// Sorted by name, as glob(3) does; nothing found is no error.
Result<void> Parser::glob_include(const std::string& pattern, const Place& place,
                                  std::vector<Node>& to) {
    glob_t found{};
    int code = glob(pattern.c_str(), 0, nullptr, &found);
    if (code == GLOB_NOMATCH) {
        globfree(&found);
        return {};
    }
    if (code != 0) {
        int reason = errno;
        globfree(&found);
        return Error{located(tree_, place, failed("glob()", pattern, reason))};
    }
    std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    for (const std::string& path : paths) {
        if (auto read = read_file(path, &place, to); !read) return read;
    }
    return {};
}

// Says besides where the quote or block began that was never closed.
Error Parser::lexer_error(Source& source, Error error, const Node* owner) {
    const Lexer& lexer = source.lexer;
    int line = lexer.error_line() ? lexer.error_line() : lexer.line();
    Error result = error_at(source, line, error.what);
    if (source.is_option) return result;
    if (lexer.open_quote_line()) {
        result.what += "\n    missing terminating quote of the string started in line " +
                       std::to_string(lexer.open_quote_line());
    } else if (owner && error.what.starts_with("unexpected end of file")) {
        result.what += "\n    missing \"}\" of the block \"" + owner->name +
                       "\" started in line " + std::to_string(owner->place.line);
    }
    return result;
}

Error Parser::error_at(const Source& source, int line, const std::string& text) {
    Place place{source.name, source.is_option ? 0 : line, 0};
    return Error{located(tree_, place, text)};
}

const std::string* add_option(Tree& tree, core::Slice text, const std::string& name) {
    tree.option_names.push_back(std::make_unique<std::string>(name));
    tree.option_texts.push_back(std::make_unique<std::string>(text));
    return tree.option_names.back().get();
}

Result<void> keep_error(Tree& tree, Result<void> result) {
    if (!result && !tree.syntax_error) tree.syntax_error = result.error();
    return result;
}

}  // namespace

Result<void> parse_file(const std::string& path, const ParseOptions& options, Tree& tree) {
    return keep_error(tree, Parser(options, tree).read_file(path, nullptr, tree.nodes));
}

Result<void> parse_text(core::Slice text, const std::string& name, const ParseOptions& options,
                        Tree& tree) {
    const std::string* kept = add_option(tree, text, name);
    core::Slice source = *tree.option_texts.back();
    return keep_error(tree, Parser(options, tree).read_text(source, kept, true, tree.nodes));
}

Result<void> parse_source(core::Slice text, const std::string& name, const ParseOptions& options,
                          Tree& tree) {
    tree.files.push_back(std::make_unique<std::string>(name));
    tree.texts.push_back(std::make_unique<std::string>(text));
    const std::string* kept = tree.files.back().get();
    core::Slice source = *tree.texts.back();
    return keep_error(tree, Parser(options, tree).read_text(source, kept, false, tree.nodes));
}

Result<void> parse_include(core::Slice pattern, const Place& place, const ParseOptions& options,
                           Tree& tree, std::vector<Node>& to) {
    return Parser(options, tree).include(pattern, place, to);
}

}  // namespace conf
