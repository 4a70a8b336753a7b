// Regular expressions: options, groups, names, limits, error texts.
#include "core/regex.h"

#include <gtest/gtest.h>

#include "core/clock.h"

namespace {

using namespace core;

std::shared_ptr<const Regex> regex(Slice pattern, uint32_t options = 0, bool jit = true) {
    auto compiled = Regex::compile(pattern, options, jit);
    EXPECT_TRUE(compiled) << compiled.error().what;
    return compiled ? *compiled : nullptr;
}

std::string group(const Regex& re, Slice subject, int index, size_t from = 0) {
    uint32_t at[20];
    int count = re.match(subject, from, at, 10);
    if (count < 0) return "none " + std::to_string(count);
    if (index >= count || at[2 * index] == UINT32_MAX) return "unset";
    return std::string(subject.substr(at[2 * index], at[2 * index + 1] - at[2 * index]));
}

TEST(Regex, GroupsAndNames) {
    for (bool jit : {true, false}) {
        auto re = regex("^/(?<user>[a-z]+)(?:/(\\d+))?(x)?", 0, jit);
        EXPECT_EQ(re->groups(), 3);
        ASSERT_EQ(re->names().size(), 1u);
        EXPECT_EQ(re->names()[0].name, "user");
        EXPECT_EQ(re->names()[0].group, 1);
        EXPECT_EQ(group(*re, "/bob/42", 0), "/bob/42");
        EXPECT_EQ(group(*re, "/bob/42", 1), "bob");
        EXPECT_EQ(group(*re, "/bob/42", 2), "42");
        EXPECT_EQ(group(*re, "/bob/42", 3), "unset");
        EXPECT_EQ(group(*re, "/bobx", 1), "bobx");
        EXPECT_EQ(group(*re, "bob", 0), "none -1");
        uint32_t at[2];
        EXPECT_EQ(re->match("/bob/42", 0, at, 1), 3);   // count of groups, though room for one
        EXPECT_EQ(at[1], 7u);
    }
}

TEST(Regex, Options) {
    EXPECT_EQ(group(*regex("ABC", Regex::caseless), "xabc", 0), "abc");
    EXPECT_EQ(group(*regex("^b", Regex::multiline), "a\nb", 0), "b");
    EXPECT_EQ(group(*regex("a.b", Regex::dotall), "a\nb", 0), "a\nb");
    EXPECT_EQ(group(*regex("a b # c", Regex::extended), "ab", 0), "ab");
    EXPECT_EQ(group(*regex("b", Regex::anchored), "ab", 0), "none -1");
    EXPECT_EQ(group(*regex("a+", Regex::ungreedy), "aaa", 0), "a");
    EXPECT_EQ(group(*regex(".", Regex::utf), "\xe4\xb8\xad", 0), "\xe4\xb8\xad");
    EXPECT_EQ(group(*regex("(?<n>a)|(?<n>b)", Regex::duplicate_names), "b", 2), "b");
    EXPECT_EQ(regex("(?<n>a)|(?<n>b)", Regex::duplicate_names)->names().size(), 2u);
    EXPECT_EQ(group(*regex("\\u0041", Regex::javascript_compat), "A", 0), "A");
    EXPECT_EQ(group(*regex("a$", Regex::dollar_endonly), "a\n", 0), "none -1");
    EXPECT_EQ(group(*regex("b"), "abab", 0, 2), "b");
}

TEST(Regex, BadUtfSubjectIsAnError) {
    uint32_t at[2];
    int code = regex("a", Regex::utf)->match("\xff", 0, at, 1);
    EXPECT_LT(code, -1);
    EXPECT_NE(Regex::error_text(code).find("UTF-8 error"), std::string::npos);
    EXPECT_LT(regex("(*UTF)a")->match("\xff", 0, at, 1), -1);
}

TEST(Regex, ErrorTexts) {
    auto text = [](Slice pattern) { return Regex::compile(pattern, 0).error().what; };
    EXPECT_EQ(text("(abc"), "pcre2_compile() failed: missing closing parenthesis in \"(abc\"");
    EXPECT_EQ(text("a)b"),
              "pcre2_compile() failed: unmatched closing parenthesis in \"a)b\" at \")b\"");
}

TEST(Regex, EmptySubjectAndOffsets) {
    EXPECT_EQ(group(*regex("^$"), Slice(), 0), "");
    EXPECT_EQ(group(*regex("a*"), "b", 0, 1), "");
    uint32_t at[2];
    EXPECT_LT(regex("a")->match("b", 5, at, 1), -1);
}

TEST(Regex, CatastrophicPatternEnds) {
    auto re = regex("^(a+)+$");
    std::string subject(40, 'a');
    subject += '!';
    uint32_t at[4];
    Regex::set_match_limit(100000);
    uint64_t began = Clock::precise_us();
    EXPECT_EQ(re->match(subject, 0, at, 2), -47);   // PCRE2_ERROR_MATCHLIMIT
    EXPECT_LT(Clock::precise_us() - began, 200000u);
    EXPECT_EQ(Regex::error_text(-47), "match limit exceeded");
    Regex::set_match_limit(0);
    EXPECT_EQ(group(*regex("(a|b)*c"), std::string(5000, 'a') + "c", 1), "a");
}

TEST(Regex, ManyGroups) {
    std::string pattern, subject;
    for (int i = 0; i < 100; ++i) {
        pattern += "(.)";
        subject += char('a' + i % 26);
    }
    uint32_t at[202];
    EXPECT_EQ(regex(pattern)->match(subject, 0, at, 101), 101);
    EXPECT_EQ(at[200], 99u);
    EXPECT_EQ(at[201], 100u);
}

TEST(Regex, Dfa) {
    uint32_t at[8];
    auto re = regex("a|aa|aaa");
    EXPECT_EQ(re->match_dfa("xaaa", 0, at, 4), 3);
    EXPECT_EQ(at[0], 1u);
    EXPECT_EQ(at[1], 4u);
    EXPECT_EQ(re->match_dfa("xyz", 0, at, 4), Regex::no_match);
}

}  // namespace
