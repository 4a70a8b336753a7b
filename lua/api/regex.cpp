// Regular expressions for ngx.re: compiling, matching and replacement templates on PCRE2.
// lualib/resty/core/regex.lua holds the caches and the Lua functions. The regex object's layout is
// upstream's, because unmodified Lua code reads its fields.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/text.h"
#include "lua/api/ffi.h"
#include "lua/api/regex.h"
#include "lua/conf.h"

namespace lua {
namespace {

// The flag bits that the Lua side sets.
constexpr int flag_dfa = 0x02;
constexpr int flag_jit = 0x04;
constexpr int flag_no_utf_check = 0x10;

constexpr size_t dfa_workspace_ints = 100;
constexpr int jit_stack_bytes_min = 32 * 1024;

// What all matches of the process share.
struct Engine {
    pcre2_match_context* context = nullptr;
    pcre2_jit_stack* jit_stack = nullptr;
    // For matches without JIT: PCRE2 keeps its backtracking memory in it.
    pcre2_match_data* data = nullptr;
    uint32_t pairs = 0;
    uint32_t limit = 0;

    pcre2_match_context* ready() {
        if (!context) context = pcre2_match_context_create(nullptr);
        auto wanted = uint32_t(main_conf().regex_match_limit.value);
        if (wanted != limit) {
            uint32_t usual = 0;
            pcre2_config(PCRE2_CONFIG_MATCHLIMIT, &usual);
            pcre2_set_match_limit(context, wanted ? wanted : usual);
            limit = wanted;
        }
        return context;
    }

    pcre2_match_data* room_for(uint32_t count) {
        if (count > pairs) {
            pcre2_match_data_free(data);
            data = pcre2_match_data_create(count, nullptr);
            pairs = data ? count : 0;
        }
        return data;
    }
};
Engine engine;

// A piece of a replacement: literal text, or the number of a group.
struct Piece {
    std::string text;
    int group = -1;
};

// A replacement template; `value`, `lengths` and `values` are what the Lua side looks at.
struct Template : ngx_http_lua_complex_value_t {
    std::string source;
    std::vector<Piece> pieces;
};

}  // namespace

// A compiled expression as Lua sees it, and behind it what only we know.
struct Regex : ngx_http_lua_regex_t {
    pcre2_match_data* jit_data = nullptr;    // set: may be matched with pcre2_jit_match()
    pcre2_match_context* context = nullptr;
    bool utf = false;
    std::unique_ptr<Template> replacement;
    std::unique_ptr<int[]> offsets;

    pcre2_code* code() const { return static_cast<pcre2_code*>(regex); }
    ~Regex() {
        pcre2_match_data_free(jit_data);
        pcre2_code_free(code());
    }
};

namespace {

void fail(unsigned char* to, size_t room, const std::string& why) {
    std::snprintf(reinterpret_cast<char*>(to), room, "%s", why.c_str());
}

std::string compile_error(int code, size_t offset, core::Slice pattern) {
    unsigned char text[128];
    pcre2_get_error_message(code, text, sizeof text);
    std::string why = "pcre2_compile() failed: ";
    why += reinterpret_cast<char*>(text);
    why.append(" in \"").append(pattern).append("\"");
    if (offset < pattern.size()) {
        why.append(" at \"").append(pattern.substr(offset)).append("\"");
    }
    return why;
}

void read_layout(Regex& regex, bool dfa) {
    uint32_t groups = 0, options = 0;
    pcre2_pattern_info(regex.code(), PCRE2_INFO_CAPTURECOUNT, &groups);
    pcre2_pattern_info(regex.code(), PCRE2_INFO_ALLOPTIONS, &options);
    regex.utf = options & PCRE2_UTF;
    regex.ncaptures = dfa ? 0 : int(groups);
    regex.offsets = std::make_unique<int[]>(2 * (size_t(regex.ncaptures) + 1));
    regex.captures = regex.offsets.get();
    uint32_t count = 0, size = 0;
    PCRE2_SPTR table = nullptr;
    pcre2_pattern_info(regex.code(), PCRE2_INFO_NAMECOUNT, &count);
    if (count) {
        pcre2_pattern_info(regex.code(), PCRE2_INFO_NAMEENTRYSIZE, &size);
        pcre2_pattern_info(regex.code(), PCRE2_INFO_NAMETABLE, &table);
    }
    regex.name_count = int(count);
    regex.name_entry_size = int(size);
    regex.name_table = const_cast<unsigned char*>(table);
}

void compile_machine_code(Regex& regex, core::Slice pattern) {
    int status = pcre2_jit_compile(regex.code(), PCRE2_JIT_COMPLETE);
    if (status) {
        LOG(core::process_log(), info, 0, "pcre2_jit_compile() failed: %d in \"%.*s\", ignored",
            status, int(pattern.size()), pattern.data());
        return;
    }
    regex.jit_data = pcre2_match_data_create(uint32_t(regex.ncaptures) + 1, nullptr);
}

// pcre2_jit_match() leaves out the checks that pcre2_match() makes: of the offset, made by the
// caller, and of the subject's UTF-8.
int run(const Regex& regex, int flags, core::Slice subject, size_t from, uint32_t pairs,
        pcre2_match_data*& data) {
    auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
    uint32_t options = flags & flag_no_utf_check ? PCRE2_NO_UTF_CHECK : 0;
    pcre2_match_context* context = engine.ready();
    if (regex.jit_data && !(flags & flag_dfa) && (!regex.utf || options)) {
        data = regex.jit_data;
        return pcre2_jit_match(regex.code(), text, subject.size(), from, options, data, context);
    }
    data = engine.room_for(pairs);
    if (!data) return PCRE2_ERROR_NOMEMORY;
    if (flags & flag_dfa) {
        int workspace[dfa_workspace_ints];
        return pcre2_dfa_match(regex.code(), text, subject.size(), from, options, data, context,
                               workspace, dfa_workspace_ints);
    }
    return pcre2_match(regex.code(), text, subject.size(), from, options, data, context);
}

// Reads "$1", "${12}" or "$$" at text[at], behind the dollar sign. False with the reason logged.
bool parse_group(core::Slice text, size_t& at, Piece& piece) {
    auto refuse = [&](const char* pattern, core::Slice what) {
        std::string message = core::format(pattern, int(what.size()), what.data());
        core::log_text(core::process_log(), core::Level::error, 0, message);
        return false;
    };
    constexpr const char* invalid =
        "lua script: invalid capturing variable name found in \"%.*s\"";
    if (at == text.size()) return refuse(invalid, text);
    bool braced = text[at] == '{';
    if (braced && ++at == text.size()) return refuse(invalid, text);
    size_t start = at;
    bool number = core::is_digit(text[at]);
    auto part_of_name = [&](char c) {
        return core::is_digit(c) || (!number && (core::is_alpha(c) || c == '_'));
    };
    while (at < text.size() && part_of_name(text[at])) at++;
    core::Slice name = text.substr(start, at - start);
    if (braced) {
        if (at == text.size() || text[at] != '}') {
            return refuse("the closing bracket in \"%.*s\" variable is missing", name);
        }
        at++;
    }
    if (name.empty()) return refuse(invalid, text);
    if (!number) {
        return refuse("attempt to use named capturing variable \"%.*s\" "
                      "(named captures not supported yet)", name);
    }
    piece.group = int(core::parse_number(name, INT32_MAX).value_or(INT32_MAX));
    return true;
}

bool parse_template(core::Slice text, std::vector<Piece>& pieces) {
    for (size_t at = 0; at < text.size();) {
        Piece piece;
        if (text[at] == '$') {
            at++;
            if (at < text.size() && text[at] == '$') {
                piece.text = "$";
                at++;
            } else if (!parse_group(text, at, piece)) {
                return false;
            }
        } else {
            size_t end = std::min(text.find('$', at), text.size());
            piece.text = text.substr(at, end - at);
            at = end;
        }
        pieces.push_back(std::move(piece));
    }
    return true;
}

core::Slice text_of(const Piece& piece, const ngx_http_lua_script_engine_s& match) {
    if (piece.group < 0) return piece.text;
    if (piece.group >= match.count) return {};
    const int* pair = match.captures + 2 * size_t(piece.group);
    if (pair[0] < 0) return {};
    return slice(match.subject + pair[0], size_t(pair[1] - pair[0]));
}

}  // namespace
}  // namespace lua

using lua::Regex;

LUA_FFI ngx_http_lua_regex_t* ngx_http_lua_ffi_compile_regex(const unsigned char* pat,
    size_t pat_len, int flags, int pcre_opts, unsigned char* errstr, size_t errstr_size) {
    int code = 0;
    size_t offset = 0;
    core::Slice pattern = lua::slice(pat, pat_len);
    pcre2_code* compiled =
        pcre2_compile(pat, pat_len, uint32_t(pcre_opts), &code, &offset, nullptr);
    if (!compiled) {
        lua::fail(errstr, errstr_size, lua::compile_error(code, offset, pattern));
        return nullptr;
    }
    auto* regex = new Regex{};
    regex->regex = compiled;
    regex->pool = regex;
    regex->pattern = reinterpret_cast<const char*>(pat);
    lua::read_layout(*regex, flags & lua::flag_dfa);
    if (flags & lua::flag_jit) lua::compile_machine_code(*regex, pattern);
    return regex;
}

LUA_FFI int ngx_http_lua_ffi_exec_regex(ngx_http_lua_regex_t* re, int flags,
    const unsigned char* s, size_t len, int pos) {
    auto& regex = static_cast<Regex&>(*re);
    if (pos < 0 || size_t(pos) > len) return PCRE2_ERROR_BADOFFSET;
    if (flags & lua::flag_dfa) regex.ncaptures = 0;
    auto pairs = uint32_t(regex.ncaptures) + 1;
    pcre2_match_data* data = nullptr;
    int found = lua::run(regex, flags, lua::slice(s, len), size_t(pos), pairs, data);
    if (found < 0) return found;
    const size_t* offsets = pcre2_get_ovector_pointer(data);
    uint32_t given = std::min(pairs, pcre2_get_ovector_count(data));
    for (uint32_t n = 0; n < 2 * given; n++) regex.captures[n] = int(offsets[n]);
    return found;
}

LUA_FFI void ngx_http_lua_ffi_destroy_regex(ngx_http_lua_regex_t* re) {
    delete static_cast<Regex*>(re);
}

LUA_FFI int ngx_http_lua_ffi_compile_replace_template(ngx_http_lua_regex_t* re,
    const unsigned char* replace_data, size_t replace_len) {
    auto& regex = static_cast<Regex&>(*re);
    auto made = std::make_unique<lua::Template>();
    made->source = lua::slice(replace_data, replace_len);
    made->value.data = lua::bytes_of(made->source);
    made->value.len = replace_len;
    made->lengths = made->values = nullptr;
    if (made->source.find('$') != std::string::npos) {
        if (!lua::parse_template(made->source, made->pieces)) return lua::ffi_error;
        made->lengths = made->values = made.get();
    }
    regex.replacement = std::move(made);
    regex.replace = regex.replacement.get();
    return lua::ffi_ok;
}

LUA_FFI ngx_http_lua_script_engine_t* ngx_http_lua_ffi_create_script_engine(void) {
    auto* made = new ngx_http_lua_script_engine_s{};
    return reinterpret_cast<ngx_http_lua_script_engine_t*>(made);
}

LUA_FFI void ngx_http_lua_ffi_init_script_engine(ngx_http_lua_script_engine_t* e,
    const unsigned char* subj, ngx_http_lua_regex_t* compiled, int count) {
    auto& match = *reinterpret_cast<ngx_http_lua_script_engine_s*>(e);
    match.subject = subj;
    match.captures = compiled->captures;
    match.count = count;
}

LUA_FFI void ngx_http_lua_ffi_destroy_script_engine(ngx_http_lua_script_engine_t* e) {
    delete reinterpret_cast<ngx_http_lua_script_engine_s*>(e);
}

LUA_FFI size_t ngx_http_lua_ffi_script_eval_len(ngx_http_lua_script_engine_t* e,
    ngx_http_lua_complex_value_t* cv) {
    auto& match = *reinterpret_cast<ngx_http_lua_script_engine_s*>(e);
    size_t length = 0;
    for (const auto& piece : static_cast<lua::Template*>(cv)->pieces) {
        length += lua::text_of(piece, match).size();
    }
    return length;
}

LUA_FFI size_t ngx_http_lua_ffi_script_eval_data(ngx_http_lua_script_engine_t* e,
    ngx_http_lua_complex_value_t* cv, unsigned char* dst) {
    auto& match = *reinterpret_cast<ngx_http_lua_script_engine_s*>(e);
    unsigned char* const start = dst;
    for (const auto& piece : static_cast<lua::Template*>(cv)->pieces) {
        core::Slice text = lua::text_of(piece, match);
        std::memcpy(dst, text.data(), text.size());
        dst += text.size();
    }
    return size_t(dst - start);
}

LUA_FFI uint32_t ngx_http_lua_ffi_max_regex_cache_size(void) {
    return uint32_t(lua::main_conf().regex_cache_max_entries.value);
}

LUA_FFI const char* ngx_http_lua_ffi_pcre_version(void) {
    static char version[64];
    pcre2_config(PCRE2_CONFIG_VERSION, version);
    return version;
}

LUA_FFI int ngx_http_lua_ffi_set_jit_stack_size(int size, unsigned char* errstr,
    size_t* errstr_size) {
    auto& engine = lua::engine;
    size = std::max(size, lua::jit_stack_bytes_min);
    pcre2_jit_stack_free(engine.jit_stack);
    engine.jit_stack = pcre2_jit_stack_create(lua::jit_stack_bytes_min, size_t(size), nullptr);
    pcre2_jit_stack_assign(engine.ready(), nullptr, engine.jit_stack);
    if (engine.jit_stack) return lua::ffi_ok;
    return lua::ffi_fail("pcre jit stack allocation failed", errstr, errstr_size);
}
