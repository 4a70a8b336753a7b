// The parser: blocks, Lua blocks, includes, places and error messages.
#include "conf/parser.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace {

using conf::Node;
using conf::ParseOptions;
using conf::Tree;
using Words = std::vector<std::string>;

class Parser : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/conf_parser_XXXXXX";
        ASSERT_TRUE(mkdtemp(name));
        folder = std::string(name) + "/";
        options.conf_prefix = options.prefix = folder;
    }
    void TearDown() override { std::filesystem::remove_all(folder); }

    void put(const std::string& name, const std::string& text) {
        std::filesystem::create_directories(std::filesystem::path(folder + name).parent_path());
        std::ofstream(folder + name) << text;
    }
    // The first line of the error, with the folder's name left out; empty when all is well.
    std::string parse(const std::string& text) {
        put("main.conf", text);
        tree = Tree{};
        return shorten(conf::parse_file(folder + "main.conf", options, tree));
    }
    std::string shorten(const core::Result<void>& result) {
        if (result) return "";
        whole_error = result.error().what;
        for (size_t at; (at = whole_error.find(folder)) != std::string::npos;) {
            whole_error.erase(at, folder.size());
        }
        return whole_error.substr(0, whole_error.find('\n'));
    }

    std::string folder, whole_error;
    ParseOptions options;
    Tree tree;
};

TEST_F(Parser, NestsBlocks) {
    ASSERT_EQ(parse("user x;\nhttp {\n  server { listen 80; }\n  server { }\n}\n"), "");
    ASSERT_EQ(tree.nodes.size(), 2u);
    EXPECT_EQ(tree.nodes[0].args, Words{"x"});
    EXPECT_FALSE(tree.nodes[0].has_block);
    const Node& http = tree.nodes[1];
    EXPECT_TRUE(http.has_block);
    EXPECT_EQ(http.end_line, 5);
    ASSERT_EQ(http.children.size(), 2u);
    EXPECT_EQ(http.children[0].children[0].name, "listen");
    EXPECT_EQ(http.children[0].children[0].place.line, 3);
    EXPECT_EQ(*http.place.file, folder + "main.conf");
}

TEST_F(Parser, APlaceIsTheLineOfTheTerminator) {
    ASSERT_EQ(parse("\na\n b\n;"), "");
    EXPECT_EQ(tree.nodes[0].place.line, 4);
    EXPECT_EQ(tree.nodes[0].place.first_line, 2);
}

TEST_F(Parser, LuaBlocks) {
    ASSERT_EQ(parse("location / {\n content_by_lua_block {\n  ngx.say('}')\n }\n"
                    " set_by_lua_block $x { return 1 } deny all;\n}\n"),
              "");
    const auto& nodes = tree.nodes[0].children;
    ASSERT_EQ(nodes.size(), 3u);
    EXPECT_TRUE(nodes[0].is_lua && nodes[0].has_block);
    EXPECT_EQ(nodes[0].args, Words{"\n  ngx.say('}')\n "});
    EXPECT_EQ(nodes[0].lua_line, 2);
    EXPECT_EQ(nodes[0].end_line, 4);
    EXPECT_EQ(nodes[1].args, (Words{"$x", " return 1 "}));
    EXPECT_EQ(nodes[1].lua_line, 5);
    EXPECT_FALSE(nodes[2].is_lua);
}

TEST_F(Parser, ALuaBlockWithoutBracesIsNoLua) {
    ASSERT_EQ(parse("content_by_lua_block 'x';"), "");
    EXPECT_FALSE(tree.nodes[0].is_lua);
    EXPECT_FALSE(tree.nodes[0].has_block);
}

TEST_F(Parser, Errors) {
    EXPECT_EQ(parse("a;\n}\n"), "unexpected \"}\" in main.conf:2");
    EXPECT_EQ(whole_error, "unexpected \"}\" in main.conf:2\n    2 | }");
    EXPECT_EQ(parse("http {\n a;\n"), "unexpected end of file, expecting \"}\" in main.conf:3");
    EXPECT_NE(whole_error.find("block \"http\" started in line 1"), std::string::npos);
    EXPECT_EQ(parse("http {\n listen 80\n}"), "unexpected \"}\" in main.conf:3");
    EXPECT_EQ(parse("a \"b;\n}\n"),
              "unexpected end of file, expecting \";\" or \"}\" in main.conf:3");
    EXPECT_NE(whole_error.find("string started in line 1"), std::string::npos);
    EXPECT_EQ(parse("a {\n b_by_lua_block {\n  {\n }\n"),
              "unexpected end of file, expecting terminating characters for lua code block"
              " in main.conf:3");
}

TEST_F(Parser, TheShownLineIsSafeToPrint) {
    parse("\x1b[31m" + std::string(500, 'x') + " }");
    EXPECT_EQ(whole_error.find('\x1b'), std::string::npos);
    EXPECT_LT(whole_error.size(), 300u);
}

TEST_F(Parser, DeepNestingIsRefused) {
    std::string deep;
    for (int i = 0; i < 100'000; ++i) deep += "a {";
    EXPECT_EQ(parse(deep), "blocks are nested too deeply in main.conf:1");
}

TEST_F(Parser, MissingMainFile) {
    EXPECT_EQ(shorten(conf::parse_file(folder + "none", options, tree)),
              "open() \"none\" failed (2: No such file or directory)");
    EXPECT_EQ(shorten(conf::parse_file(folder, options, tree)),
              "read() \"\" failed (21: Is a directory)");
}

TEST_F(Parser, Includes) {
    put("one.conf", "b; c { include sub/two.conf; }");
    put("sub/two.conf", "d;");
    ASSERT_EQ(parse("a; include one.conf; e;"), "");
    ASSERT_EQ(tree.nodes.size(), 4u);
    EXPECT_EQ(tree.nodes[1].name, "b");
    EXPECT_EQ(*tree.nodes[1].place.file, folder + "one.conf");
    EXPECT_EQ(tree.nodes[2].children[0].name, "d");
    EXPECT_EQ(tree.nodes[3].name, "e");
    ASSERT_EQ(tree.files.size(), 3u);
    EXPECT_EQ(*tree.files[2], folder + "sub/two.conf");
    EXPECT_EQ(*tree.texts[2], "d;");
}

TEST_F(Parser, GlobsAreSortedAndMayFindNothing) {
    put("d/2.conf", "two;");
    put("d/10.conf", "ten;");
    put("d/1.conf", "one;");
    put("d/x.txt", "not;");
    ASSERT_EQ(parse("include d/*.conf; include none/*; include d/[2]*;"), "");
    std::string names;
    for (const Node& node : tree.nodes) names += node.name + " ";
    EXPECT_EQ(names, "one ten two two ");
    EXPECT_EQ(tree.files.size(), 4u);      // a file read twice is listed once
}

TEST_F(Parser, IncludeErrors) {
    EXPECT_EQ(parse("\ninclude none.conf;"),
              "open() \"none.conf\" failed (2: No such file or directory) in main.conf:2");
    EXPECT_EQ(parse("include /dev/null; include \"\";"),
              "read() \"\" failed (21: Is a directory) in main.conf:1");
}

TEST_F(Parser, ABlockMustCloseWhereItOpened) {
    put("open.conf", "server {\n");
    put("close.conf", "}\n");
    EXPECT_EQ(parse("http { include open.conf; } }"),
              "unexpected end of file, expecting \"}\" in open.conf:2");
    EXPECT_EQ(parse("http { include close.conf; }"), "unexpected \"}\" in close.conf:1");
}

TEST_F(Parser, IncludingItselfEnds) {
    EXPECT_EQ(parse("include main.conf;"), "includes are nested too deeply, does \"main.conf\" "
                                           "include itself? in main.conf:1");
    EXPECT_EQ(parse("a { include *.conf; }").substr(0, 31), "includes are nested too deeply,");
}

TEST_F(Parser, ReadsAPipe) {
    std::string path = folder + "pipe";
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        std::ofstream(path) << "a;" << std::flush;
        _exit(0);
    }
    EXPECT_EQ(shorten(conf::parse_file(path, options, tree)), "");
    EXPECT_EQ(tree.nodes.size(), 1u);
    waitpid(child, nullptr, 0);
}

TEST_F(Parser, OptionText) {
    ASSERT_TRUE(conf::parse_text("daemon off; user x;", "command line", options, tree));
    ASSERT_EQ(tree.nodes.size(), 2u);
    EXPECT_EQ(conf::place_suffix(tree.nodes[0].place), " in command line");
    EXPECT_TRUE(tree.files.empty());
    auto error = [&](const char* text) {
        return shorten(conf::parse_text(text, "command line", options, tree));
    };
    EXPECT_EQ(error("daemon off"),
              "unexpected end of parameter, expecting \";\" in command line");
    EXPECT_EQ(error("http { }"),
              "block directives are not supported in -g option in command line");
    EXPECT_EQ(error("a; }"), "unexpected \"}\" in command line");
}

TEST_F(Parser, IncludeForOthers) {
    put("types", "text/html html;");
    std::vector<Node> nodes;
    conf::Place place;
    ASSERT_TRUE(conf::parse_include("types", place, options, tree, nodes));
    ASSERT_EQ(nodes.size(), 1u);
    EXPECT_EQ(nodes[0].name, "text/html");
}

TEST(Located, OnlyOnce) {
    Tree tree;
    ASSERT_TRUE(conf::parse_source("a\n  b;\n", "/etc/x.conf", {}, tree));
    std::string text = conf::located(tree, tree.nodes[0].place, "bad thing");
    EXPECT_EQ(text, "bad thing in /etc/x.conf:2\n    1 | a\n    2 |   b;");
    EXPECT_TRUE(conf::is_located(tree, text));
    EXPECT_TRUE(conf::is_located(tree, "bad in /etc/x.conf:7"));
    EXPECT_FALSE(conf::is_located(tree, "bad in /etc/x.conf:7x"));
    EXPECT_FALSE(conf::is_located(tree, "bad thing"));
}

}  // namespace
