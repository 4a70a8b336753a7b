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

    // The error text has nginx's form: `pcre2_compile() failed: … in "…" at "…"`.
    static Result<std::shared_ptr<const Regex>> compile(Slice pattern, uint32_t options,
                                                        bool jit = true);
    ~Regex();

    static constexpr int no_match = -1;
    // Matches from `from`. Fills `offsets` with pairs of byte offsets (2 × (groups + 1) ints,
    // UINT32_MAX for a group that took no part), at most `pairs_max` pairs. Returns the number of
    // pairs set (highest group that took part + 1), no_match, or another negative PCRE2 error.
    int match(Slice subject, size_t from, uint32_t* offsets, int pairs_max,
              uint32_t match_options = 0) const;

    int groups() const { return groups_; }              // capture groups, without group 0
    const std::vector<Name>& names() const { return names_; }
    const std::string& pattern() const { return pattern_; }

    // Limits for every match of this thread from now on; 0: PCRE2's default.
    static void set_match_limit(uint32_t limit);

    static std::string error_text(int code);            // PCRE2's message for a negative result

  private:
    Regex() = default;
    void* code_ = nullptr;
    int groups_ = 0;
    std::string pattern_;
    std::vector<Name> names_;
};

}  // namespace core
