// Environment: which ${NAME} are replaced, and what is refused.
#include "conf/environment.h"

#include <gtest/gtest.h>

namespace {

std::string filled(const conf::Environment& environment, std::string word) {
    environment.fill_in(word);
    return word;
}

TEST(EnvironmentTest, replaces_only_what_was_announced) {
    conf::Environment environment;
    ASSERT_TRUE(environment.declare({"RESTY_UNIT_A", "one"}));
    ASSERT_TRUE(environment.declare({"RESTY_UNIT_B", "b"}));
    EXPECT_EQ(filled(environment, "${RESTY_UNIT_A}-${RESTY_UNIT_B}"), "one-b");
    EXPECT_EQ(filled(environment, "${host}${RESTY_UNIT_A}${RESTY_UNIT_A}"), "${host}oneone");
    const char* open = "$RESTY_UNIT_A ${RESTY_UNIT_A ${";
    EXPECT_EQ(filled(environment, open), open);
    EXPECT_EQ(filled(environment, "${${RESTY_UNIT_A}}"), "${one}");
    EXPECT_EQ(filled(environment, ""), "");
}

TEST(EnvironmentTest, refuses) {
    conf::Environment environment;
    EXPECT_FALSE(environment.declare({"RESTY_UNIT_NOT_SET"}));
    EXPECT_FALSE(environment.declare({"RESTY-UNIT", "x"}));
    EXPECT_FALSE(environment.declare({"", "x"}));
    EXPECT_FALSE(environment.declare({}));
    EXPECT_FALSE(environment.declare({"RESTY_UNIT_C", "a$b"}));
    ASSERT_TRUE(environment.declare({"RESTY_UNIT_D", ""}));
    EXPECT_FALSE(environment.declare({"RESTY_UNIT_D", ""}));
    EXPECT_EQ(filled(environment, "<${RESTY_UNIT_D}>"), "<>");
}

}  // namespace
