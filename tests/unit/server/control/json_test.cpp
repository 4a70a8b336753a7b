// Members of JSON objects as settings.
#include "server/control/json.h"

#include <gtest/gtest.h>

namespace {

struct Settings {
    std::string text;
    bool flag = false;
    int number = 7;
    int64_t large = 0, ms = 0;
};

std::string read(const std::string& json, Settings& to) {
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    if (parser.parse(json).get(root)) return "no JSON";
    auto done = server::read_json(root, {{"text", &to.text},
                                         {"flag", &to.flag},
                                         {"number", &to.number, 1, 9},
                                         {"large", &to.large},
                                         {"ms", server::JsonField::Ms{&to.ms}}});
    return done ? "" : done.error().what;
}

TEST(ReadJson, WhatIsThereIsTaken) {
    Settings to;
    EXPECT_EQ(read(R"({"text":"x","flag":true,"large":2147483647,"ms":1.5})", to), "");
    EXPECT_EQ(to.text, "x");
    EXPECT_TRUE(to.flag);
    EXPECT_EQ(to.number, 7);
    EXPECT_EQ(to.large, 2147483647);
    EXPECT_EQ(to.ms, 1500);
    EXPECT_EQ(read("{}", to), "");
}

TEST(ReadJson, WhatIsWrongIsNamed) {
    Settings to;
    for (auto [json, said] : {std::pair{"[]", "an object is expected"},
                              {R"({"text":1})", R"("text" must be a text)"},
                              {R"({"flag":"on"})", R"("flag" must be true or false)"},
                              {R"({"number":"1"})", R"("number" must be a whole number)"},
                              {R"({"number":1.5})", R"("number" must be a whole number)"},
                              {R"({"number":0})", R"("number" must be between 1 and 9)"},
                              {R"({"number":10})", R"("number" must be between 1 and 9)"},
                              {R"({"ms":-1})", R"("ms" must be between 0 and 2147483647)"},
                              {R"({"ms":"1s"})", R"("ms" must be a number of seconds)"},
                              {R"({"more":1})", R"("more" is not known here)"}}) {
        EXPECT_EQ(read(json, to), said) << json;
    }
}

}  // namespace
