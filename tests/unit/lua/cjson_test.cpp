// cjson's two halves: what is written, what is read, and what errors say.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include <lua.hpp>

#include "lua/cjson/config.h"

namespace lua::cjson {
namespace {

class Cjson : public testing::Test {
  protected:
    Cjson() : L(luaL_newstate()) { luaL_openlibs(L); }
    ~Cjson() override { lua_close(L); }

    // The JSON of a Lua expression, or the error.
    std::string encoded(const std::string& expression) {
        EXPECT_EQ(luaL_dostring(L, ("return " + expression).c_str()), 0) << expression;
        call = [this] { encode(L, config); };
        return run();
    }

    // What a JSON text decodes to, encoded again.
    std::string decoded(const std::string& text) {
        lua_pushlstring(L, text.data(), text.size());
        call = [this] {
            size_t bytes;
            const char* json = lua_tolstring(L, 1, &bytes);
            decode(L, config, json, bytes);
            encode(L, config);
        };
        return run();
    }

    std::string run() {
        lua_pushcfunction(L, [](lua_State* state) {
            auto* test = static_cast<Cjson*>(lua_touserdata(state, 2));
            lua_pushvalue(state, 1);
            test->call();
            return 1;
        });
        lua_insert(L, 1);
        lua_pushlightuserdata(L, this);
        lua_pcall(L, 2, 1, 0);
        std::string result = lua_tostring(L, -1);
        lua_settop(L, 0);
        return result;
    }

    lua_State* L;
    Config config;
    std::function<void()> call;
};

TEST_F(Cjson, Encodes) {
    EXPECT_EQ(encoded("{1, 2.5, 'a/\"\\n\\1', true}"), R"([1,2.5,"a\/\"\n\u0001",true])");
    EXPECT_EQ(encoded("{a = {}}"), R"({"a":{}})");
    EXPECT_EQ(encoded("{[3] = 1}"), "[null,null,1]");
    EXPECT_EQ(encoded("{[1.5] = 1}"), R"({"1.5":1})");
    EXPECT_EQ(encoded("1e15"), "1e+15");
    EXPECT_EQ(encoded("0.1"), "0.1");
    EXPECT_EQ(encoded("12345678901234"), "12345678901234");
    EXPECT_EQ(encoded("{[100] = 1}"), "Cannot serialise table: excessively sparse array");
    EXPECT_EQ(encoded("0/0"), "Cannot serialise number: must not be NaN or Infinity");
    EXPECT_EQ(encoded("print"), "Cannot serialise function: type not supported");
}

TEST_F(Cjson, Decodes) {
    EXPECT_EQ(decoded(R"( {"a": [1, -2.5e3, "\u00e9\ud83d\ude00"], "b": null} )").size(),
              std::string(R"({"a":[1,-2500,"é😀"],"b":null})").size());
    EXPECT_EQ(decoded("[0x10, NaN2]"),
              "Expected comma or array end but found T_INTEGER at character 11");
    EXPECT_EQ(decoded("[0x10]"), "[16]");
    EXPECT_EQ(decoded("[1e400]"), "Cannot serialise number: must not be NaN or Infinity");
    EXPECT_EQ(decoded("[18446744073709551616]"), "[1.844674407371e+19]");
    EXPECT_EQ(decoded("\"\xff\""), "\"\xff\"");
}

TEST_F(Cjson, SaysWhatIsWrong) {
    EXPECT_EQ(decoded(""), "Expected value but found T_END at character 1");
    EXPECT_EQ(decoded("[1"), "Expected comma or array end but found T_END at character 3");
    EXPECT_EQ(decoded("{1"), "Expected object key string but found T_INTEGER at character 2");
    EXPECT_EQ(decoded("{\"a\" 1}"), "Expected colon but found T_INTEGER at character 6");
    EXPECT_EQ(decoded("nul"), "Expected value but found invalid token at character 1");
    EXPECT_EQ(decoded("\"\\x\""), "Expected value but found invalid escape code at character 2");
    EXPECT_EQ(decoded("1 2"), "Expected the end but found T_INTEGER at character 3");
    config.decode_max_depth = 2;
    EXPECT_EQ(decoded("[[[1]]]"),
              "Found too many nested data structures (3) at character 3");
}

}  // namespace
}  // namespace lua::cjson
