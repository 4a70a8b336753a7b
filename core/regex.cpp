// PCRE2 behind Regex: compilation with JIT, matching with per-thread match data.
#include "core/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "core/text.h"

namespace core {

namespace {

constexpr size_t jit_stack_bytes_least = 32 * 1024;
constexpr size_t jit_stack_bytes_default = 1024 * 1024;

// What matching needs, made once per thread: matching itself allocates nothing. The match data
// grows with the largest pattern seen.
struct Matcher {
    pcre2_match_context* context = nullptr;
    pcre2_match_data* data = nullptr;
    pcre2_jit_stack* stack = nullptr;
    uint32_t pairs = 0;

    ~Matcher() {
        pcre2_match_data_free(data);
        pcre2_match_context_free(context);
        pcre2_jit_stack_free(stack);
    }

    bool open() {
        if (context) return true;
        context = pcre2_match_context_create(nullptr);
        return context && set_stack(jit_stack_bytes_default);
    }

    bool set_stack(size_t bytes) {
        pcre2_jit_stack* fresh = pcre2_jit_stack_create(
            jit_stack_bytes_least, std::max(bytes, jit_stack_bytes_least), nullptr);
        if (!fresh) return false;
        pcre2_jit_stack_free(stack);
        stack = fresh;
        pcre2_jit_stack_assign(context, nullptr, stack);
        return true;
    }

    bool reserve(uint32_t wanted) {
        if (wanted <= pairs) return true;
        if (!open()) return false;
        pcre2_match_data* fresh = pcre2_match_data_create(std::max(wanted, 16u), nullptr);
        if (!fresh) return false;
        pcre2_match_data_free(data);
        data = fresh;
        pairs = std::max(wanted, 16u);
        return true;
    }
};
thread_local Matcher matcher;

uint32_t native_options(uint32_t options) {
    static constexpr struct { uint32_t ours, theirs; } table[] = {
        {Regex::caseless, PCRE2_CASELESS},
        {Regex::multiline, PCRE2_MULTILINE},
        {Regex::dotall, PCRE2_DOTALL},
        {Regex::extended, PCRE2_EXTENDED},
        {Regex::utf, PCRE2_UTF},
        {Regex::anchored, PCRE2_ANCHORED},
        {Regex::dollar_endonly, PCRE2_DOLLAR_ENDONLY},
        {Regex::no_utf_check, PCRE2_UTF | PCRE2_NO_UTF_CHECK},
        {Regex::duplicate_names, PCRE2_DUPNAMES},
        {Regex::javascript_compat, PCRE2_ALT_BSUX | PCRE2_MATCH_UNSET_BACKREF},
        {Regex::ungreedy, PCRE2_UNGREEDY},
    };
    uint32_t result = 0;
    for (auto [ours, theirs] : table) {
        if (options & ours) result |= theirs;
    }
    return result;
}

Error not_compiled(int code, Slice pattern, size_t offset) {
    std::string text = "pcre2_compile() failed: " + Regex::error_text(code) + " in \"";
    text += pattern;
    text += '"';
    if (offset < pattern.size()) {
        text += " at \"";
        text += pattern.substr(offset);
        text += '"';
    }
    return {std::move(text)};
}

std::vector<Regex::Name> read_names(const pcre2_code* code) {
    uint32_t count = 0, entry_bytes = 0;
    PCRE2_SPTR table = nullptr;
    pcre2_pattern_info(code, PCRE2_INFO_NAMECOUNT, &count);
    pcre2_pattern_info(code, PCRE2_INFO_NAMEENTRYSIZE, &entry_bytes);
    pcre2_pattern_info(code, PCRE2_INFO_NAMETABLE, &table);
    std::vector<Regex::Name> names;
    for (uint32_t i = 0; i < count; ++i, table += entry_bytes) {
        names.push_back({reinterpret_cast<const char*>(table + 2), table[0] << 8 | table[1]});
    }
    return names;
}

// Copies what was matched; PCRE2's "unset" is all ones, whatever the width.
int copy_pairs(int count, uint32_t* offsets, int pairs_max) {
    const PCRE2_SIZE* from = pcre2_get_ovector_pointer(matcher.data);
    int pairs = std::min(count, pairs_max);
    for (int i = 0; i < pairs * 2; ++i) offsets[i] = uint32_t(from[i]);
    return count;
}

}  // namespace

Result<std::shared_ptr<const Regex>> Regex::compile(Slice pattern, uint32_t options, bool jit) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* compiled =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      native_options(options), &code, &offset, nullptr);
    if (!compiled) return not_compiled(code, pattern, offset);
    std::shared_ptr<Regex> regex(new Regex);
    regex->code_ = compiled;
    regex->pattern_ = pattern;
    uint32_t groups = 0, effective = 0;
    pcre2_pattern_info(compiled, PCRE2_INFO_CAPTURECOUNT, &groups);
    pcre2_pattern_info(compiled, PCRE2_INFO_ALLOPTIONS, &effective);
    regex->groups_ = int(groups);
    regex->names_ = read_names(compiled);
    if (jit && pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0) {
        // "(*UTF)" in the pattern turns UTF on as the option does.
        regex->fast_ = !(effective & PCRE2_UTF) || (effective & PCRE2_NO_UTF_CHECK);
    }
    return std::shared_ptr<const Regex>(std::move(regex));
}

Regex::~Regex() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

int Regex::match(Slice subject, size_t from, uint32_t* offsets, int pairs_max,
                 uint32_t match_options) const {
    if (!matcher.reserve(uint32_t(groups_) + 1)) return PCRE2_ERROR_NOMEMORY;
    if (from > subject.size()) return PCRE2_ERROR_BADOFFSET;
    if (subject.size() >= UINT32_MAX) return PCRE2_ERROR_BADOFFSET;
    auto text = reinterpret_cast<PCRE2_SPTR>(subject.data() ? subject.data() : "");
    auto code = static_cast<const pcre2_code*>(code_);
    int count;
    if (fast_ && !match_options) {
        count = pcre2_jit_match(code, text, subject.size(), from, 0, matcher.data, matcher.context);
    } else {
        count = pcre2_match(code, text, subject.size(), from, match_options, matcher.data,
                            matcher.context);
    }
    return count > 0 ? copy_pairs(count, offsets, pairs_max) : count;
}

int Regex::match_dfa(Slice subject, size_t from, uint32_t* offsets, int pairs_max) const {
    static thread_local int workspace[1000];
    if (!matcher.reserve(uint32_t(groups_) + 1)) return PCRE2_ERROR_NOMEMORY;
    if (from > subject.size() || subject.size() >= UINT32_MAX) return PCRE2_ERROR_BADOFFSET;
    auto text = reinterpret_cast<PCRE2_SPTR>(subject.data() ? subject.data() : "");
    auto code = static_cast<const pcre2_code*>(code_);
    int count = pcre2_dfa_match(code, text, subject.size(), from, 0, matcher.data,
                                matcher.context, workspace, std::size(workspace));
    // 0: there were more matches than pairs; the longest are there.
    if (count == 0) count = int(matcher.pairs);
    return count > 0 ? copy_pairs(count, offsets, pairs_max) : count;
}

void Regex::set_match_limit(uint32_t limit) {
    if (!matcher.open()) return;
    if (!limit) pcre2_config(PCRE2_CONFIG_MATCHLIMIT, &limit);
    pcre2_set_match_limit(matcher.context, limit);
}

bool Regex::set_jit_stack_bytes(size_t bytes) { return matcher.open() && matcher.set_stack(bytes); }

std::string Regex::error_text(int code) {
    PCRE2_UCHAR room[256];
    if (pcre2_get_error_message(code, room, sizeof room) < 0) return format("error %d", code);
    return reinterpret_cast<const char*>(room);
}

}  // namespace core
