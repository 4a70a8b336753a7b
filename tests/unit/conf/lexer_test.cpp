// The configuration lexer: words, quotes, escapes, comments and Lua bodies, byte by byte.
#include "conf/lexer.h"

#include <gtest/gtest.h>

namespace {

using conf::Ending;
using conf::Lexer;
using conf::Statement;
using Words = std::vector<std::string>;

Words words_of(core::Slice text) {
    Lexer lexer(text);
    Statement statement;
    auto read = lexer.next(statement);
    EXPECT_TRUE(read) << read.error().what;
    return statement.words;
}

std::string error_of(core::Slice text) {
    Lexer lexer(text);
    Statement statement;
    for (;;) {
        auto read = lexer.next(statement);
        if (!read) return read.error().what + " @" + std::to_string(lexer.error_line());
        if (statement.ending == Ending::end_of_text) return "";
    }
}

TEST(Lexer, SplitsWords) {
    EXPECT_EQ(words_of("listen 80;"), (Words{"listen", "80"}));
    EXPECT_EQ(words_of(" \t\r\n listen\t80\r\n  default_server\n;"),
              (Words{"listen", "80", "default_server"}));
    EXPECT_EQ(words_of("a b;c d;"), (Words{"a", "b"}));
    EXPECT_EQ(words_of("location /{"), (Words{"location", "/"}));
}

TEST(Lexer, EndingTellsWhatCameAfter) {
    Lexer lexer("a; b { c; }");
    Statement statement;
    Ending expected[] = {Ending::semicolon, Ending::block, Ending::semicolon, Ending::block_end,
                         Ending::end_of_text};
    for (Ending ending : expected) {
        ASSERT_TRUE(lexer.next(statement));
        EXPECT_EQ(int(statement.ending), int(ending));
    }
}

TEST(Lexer, QuotesKeepEverything) {
    EXPECT_EQ(words_of("a 'x y' \"; { } #\";"), (Words{"a", "x y", "; { } #"}));
    EXPECT_EQ(words_of("a '' \"\";"), (Words{"a", "", ""}));
    EXPECT_EQ(words_of("a 'say \"hi\"' \"it's\";"), (Words{"a", "say \"hi\"", "it's"}));
    EXPECT_EQ(words_of("a 'two\nlines';"), (Words{"a", "two\nlines"}));
}

TEST(Lexer, RemembersWhichWordsWereQuoted) {
    Lexer lexer("a 'b' c;");
    Statement statement;
    ASSERT_TRUE(lexer.next(statement));
    EXPECT_EQ(statement.quoted, (std::vector<bool>{false, true, false}));
}

TEST(Lexer, AQuoteInsideAWordIsText) {
    EXPECT_EQ(words_of("a b\"c d';"), (Words{"a", "b\"c", "d'"}));
}

TEST(Lexer, Escapes) {
    EXPECT_EQ(words_of(R"(a "\"" '\'' "\\" "\t\r\n";)"),
              (Words{"a", "\"", "'", "\\", "\t\r\n"}));
    EXPECT_EQ(words_of(R"(a "\.php$" "\d\s" \w+;)"), (Words{"a", "\\.php$", "\\d\\s", "\\w+"}));
    EXPECT_EQ(words_of(R"(a b\ c\;d\{e;)"), (Words{"a", "b\\ c\\;d\\{e"}));
    EXPECT_EQ(words_of(R"(a \"b\";)"), (Words{"a", "\"b\""}));
    EXPECT_EQ(words_of(R"(a "\\\\n";)"), (Words{"a", "\\\\n"}));
}

TEST(Lexer, VariablesInBracesOpenNoBlock) {
    EXPECT_EQ(words_of("a ${x};"), (Words{"a", "${x}"}));
    EXPECT_EQ(words_of("a /p/${x}y${z};"), (Words{"a", "/p/${x}y${z}"}));
    EXPECT_EQ(words_of("a \"${x}\";"), (Words{"a", "${x}"}));
    EXPECT_EQ(words_of("a $x{"), (Words{"a", "$x"}));
}

TEST(Lexer, CommentsStartOnlyWhereAWordCould) {
    EXPECT_EQ(words_of("# x; {\na # y\n b;"), (Words{"a", "b"}));
    EXPECT_EQ(words_of("a b#c;"), (Words{"a", "b#c"}));
    EXPECT_EQ(words_of("a '#';"), (Words{"a", "#"}));
    EXPECT_EQ(error_of("a; # the end, without newline"), "");
}

TEST(Lexer, AParenthesisMayFollowAQuote) {
    EXPECT_EQ(words_of("if ($x = \"y\") {"), (Words{"if", "($x", "=", "y", ")"}));
    EXPECT_EQ(words_of("if ($x ~ 'a b'){"), (Words{"if", "($x", "~", "a b", ")"}));
}

TEST(Lexer, SkipsAByteOrderMark) {
    EXPECT_EQ(words_of("\xEF\xBB\xBFuser nobody;"), (Words{"user", "nobody"}));
}

TEST(Lexer, ErrorsInNginxWords) {
    EXPECT_EQ(error_of(";"), "unexpected \";\" @1");
    EXPECT_EQ(error_of("\n{"), "unexpected \"{\" @2");
    EXPECT_EQ(error_of("a\n}"), "unexpected \"}\" @2");
    EXPECT_EQ(error_of("a \"b\"c;"), "unexpected \"c\" @1");
    EXPECT_EQ(error_of("a 'b'\"c\";"), "unexpected \"\"\" @1");
    EXPECT_EQ(error_of("a"), "unexpected end of file, expecting \";\" or \"}\" @1");
    EXPECT_EQ(error_of("a b\n"), "unexpected end of file, expecting \";\" or \"}\" @2");
    EXPECT_EQ(error_of("a 'b"), "unexpected end of file, expecting \";\" or \"}\" @1");
    EXPECT_EQ(error_of("a 'b'"), "unexpected end of file, expecting \";\" or \"}\" @1");
    EXPECT_EQ(error_of("a \\"), "unexpected end of file, expecting \";\" or \"}\" @1");
    EXPECT_EQ(error_of("a '\\"), "unexpected end of file, expecting \";\" or \"}\" @1");
    EXPECT_EQ(error_of(core::Slice("a\0b;", 4)), "unexpected NUL byte @1");
    EXPECT_EQ(error_of(core::Slice("a '\\\0';", 7)), "unexpected NUL byte @1");
}

TEST(Lexer, EndOfAnOptionHasItsOwnWords) {
    Lexer lexer("daemon off", true);
    Statement statement;
    auto read = lexer.next(statement);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().what, "unexpected end of parameter, expecting \";\"");
}

TEST(Lexer, EndlessWordsAreRefused) {
    std::string huge(9 << 20, 'x');
    EXPECT_EQ(error_of("a\n " + huge + "\n;"),
              "too long parameter \"xxxxxxxxxx...\" started @2");
    EXPECT_EQ(error_of("a\n'" + huge + "\n';"),
              "too long parameter, probably missing terminating \"'\" character @2");
}

TEST(Lexer, CountsLines) {
    Lexer lexer("a\n b\n;\n'x\ny'\n;# c\nd \\\n;");
    Statement statement;
    int first[] = {1, 4, 7}, last[] = {3, 6, 8};
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(lexer.next(statement));
        EXPECT_EQ(statement.first_line, first[i]);
        EXPECT_EQ(lexer.line(), last[i]);
    }
}

struct LuaBody {
    std::string body, error;
    int line = 0, error_line = 0;
    Ending after = Ending::end_of_text;
};

// `text` follows the opening brace, in line 1.
LuaBody lua(const std::string& text) {
    std::string whole = "x_by_lua_block {" + text;
    Lexer lexer(whole);
    Statement statement;
    EXPECT_TRUE(lexer.next(statement));
    LuaBody result;
    auto body = lexer.lua_body();
    if (!body) {
        result.error = body.error().what;
        result.error_line = lexer.error_line();
        return result;
    }
    result.body = *body;
    result.line = lexer.line();
    EXPECT_TRUE(lexer.next(statement));
    result.after = statement.ending;
    return result;
}

TEST(LuaBlock, IsTheBytesBetweenTheBraces) {
    EXPECT_EQ(lua("}").body, "");
    EXPECT_EQ(lua(" return 1 }").body, " return 1 ");
    EXPECT_EQ(lua("\n\treturn {a = {}}\n}").body, "\n\treturn {a = {}}\n");
    EXPECT_EQ(lua("\n\n}").line, 3);
}

TEST(LuaBlock, BracesInStringsAreText) {
    EXPECT_EQ(lua("a='}'}").body, "a='}'");
    EXPECT_EQ(lua("a=\"{{\"}").body, "a=\"{{\"");
    EXPECT_EQ(lua(R"(a="\"}" b='\'}'})").body, R"(a="\"}" b='\'}')");
    EXPECT_EQ(lua("a='\\\\'}").body, "a='\\\\'");
    EXPECT_EQ(lua("a='\"}'}").body, "a='\"}'");
    EXPECT_EQ(lua("a='x\\\n}'}").body, "a='x\\\n}'");
    EXPECT_EQ(lua("a='x\\z  \n  }'}").body, "a='x\\z  \n  }'");
    EXPECT_EQ(lua("a='x\\\n}'\n}").line, 3);
}

TEST(LuaBlock, BracesInLongBracketsAreText) {
    EXPECT_EQ(lua("a=[[}\n}]]}").body, "a=[[}\n}]]");
    EXPECT_EQ(lua("a=[==[ ]] } ]=] ]==]}").body, "a=[==[ ]] } ]=] ]==]");
    EXPECT_EQ(lua("a=b[c[1]]}").body, "a=b[c[1]]");
    EXPECT_EQ(lua("a[=1}").body, "a[=1");
    EXPECT_EQ(lua("a=[[}\n}]]\n}").line, 3);
    EXPECT_EQ(lua("a=[[ '\"-- ]]}").body, "a=[[ '\"-- ]]");
}

TEST(LuaBlock, BracesInCommentsAreText) {
    EXPECT_EQ(lua("-- }\n}").body, "-- }\n");
    EXPECT_EQ(lua("--[[ }\n} ]]}").body, "--[[ }\n} ]]");
    EXPECT_EQ(lua("--[=[ ]] } ]=]}").body, "--[=[ ]] } ]=]");
    EXPECT_EQ(lua("--[= }\n}").body, "--[= }\n");
    EXPECT_EQ(lua("-- it's {\n}").body, "-- it's {\n");
    EXPECT_EQ(lua("a=1-'}'..-[[}]]}").body, "a=1-'}'..-[[}]]");
    EXPECT_EQ(lua("--[[ don't ]]}").body, "--[[ don't ]]");
}

TEST(LuaBlock, AnUnfinishedStringIsTheCompilersBusiness) {
    EXPECT_EQ(lua("a='x\n}").body, "a='x\n");
    EXPECT_EQ(lua("a=\"\\").error,
              "unexpected end of file, expecting terminating characters for lua code block");
}

TEST(LuaBlock, Errors) {
    LuaBody open = lua("\n\n if x {\n");
    EXPECT_EQ(open.error,
              "unexpected end of file, expecting terminating characters for lua code block");
    EXPECT_EQ(open.error_line, 3);
    EXPECT_EQ(lua("\n\n").error_line, 1);
    LuaBody bracket = lua("\n a=[==[ ]] }");
    EXPECT_EQ(bracket.error, "Lua code block missing the closing long bracket \"]==]\", "
                             "the inlined Lua code may be too long");
    EXPECT_EQ(bracket.error_line, 2);
    EXPECT_EQ(lua("\n--[[ }").error, "Lua code block missing the closing long bracket \"]]\", "
                                     "the inlined Lua code may be too long");
}

TEST(LuaBlock, TheConfigurationGoesOnBehindIt) {
    EXPECT_EQ(int(lua("return 1 } }").after), int(Ending::block_end));
    EXPECT_EQ(int(lua("return 1 } x;").after), int(Ending::semicolon));
    EXPECT_EQ(int(lua("return 1 }").after), int(Ending::end_of_text));
}

}  // namespace
