// Regular expressions (PCRE2, JIT). Compiled once; matching allocates nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"

namespace core {

class Regex {
  public:
    enum Option : uint32_t { caseless = 1, multiline = 2, dotall = 4, extended = 8, utf = 16,
                             anchored = 32, dollar_endonly = 64, no_utf_check = 128,
                             duplicate_names = 256, javascript_compat = 512, ungreedy = 1024 };
    struct Name { std::string name; int group; };

    // The error text has nginx's form: `pcre2_compile() failed: … in "…" at "…"` (the last part,
    // the rest of the pattern from the error on, is left out when empty).
    static Result<std::shared_ptr<const Regex>> compile(Slice pattern, uint32_t options,
                                                        bool jit = jit_by_default);
    // For patterns of the configuration (pcre_jit).
    static inline bool jit_by_default = true;
    ~Regex();

    static constexpr int no_match = -1;
    // Matches from `from`. Fills `offsets` with pairs of byte offsets (2 × (groups + 1) ints,
    // UINT32_MAX for a group that took no part), at most `pairs_max` pairs. Returns the number of
    // pairs set (highest group that took part + 1), no_match, or another negative PCRE2 error.
    int match(Slice subject, size_t from, uint32_t* offsets, int pairs_max,
              uint32_t match_options = 0) const;

    // The same by PCRE2's DFA algorithm: the longest match, no groups; sets one pair per match
    // found at the leftmost place, longest first.
    int match_dfa(Slice subject, size_t from, uint32_t* offsets, int pairs_max) const;

    int groups() const { return groups_; }              // capture groups, without group 0
    const std::vector<Name>& names() const { return names_; }
    const std::string& pattern() const { return pattern_; }

    // Limits for every match of this thread from now on; 0: PCRE2's default.
    static void set_match_limit(uint32_t limit);
    // The most stack a JIT match of this thread may take (1 MB unless set). False: no memory.
    static bool set_jit_stack_bytes(size_t bytes);

    static std::string error_text(int code);            // PCRE2's message for a negative result

  private:
    Regex() = default;
    void* code_ = nullptr;      // pcre2_code
    bool fast_ = false;         // JIT-compiled, and no UTF check is due before a match
    int groups_ = 0;
    std::string pattern_;
    std::vector<Name> names_;
};

}  // namespace core
