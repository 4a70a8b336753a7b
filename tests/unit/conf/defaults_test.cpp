// The configuration an installation starts with: well-formed, and no extension has two types.
#include <gtest/gtest.h>

#include <map>

#include "conf/parser.h"

namespace {

using conf::Node;
using conf::Tree;

class Defaults : public testing::Test {
  protected:
    void read(const std::string& name) {
        conf::ParseOptions options;
        options.conf_prefix = std::string(RESTY_SOURCE_DIR) + "/conf/defaults/";
        auto parsed = conf::parse_file(options.conf_prefix + name, options, tree);
        ASSERT_TRUE(parsed) << parsed.error().what;
    }
    const Node* find(const std::vector<Node>& nodes, const std::string& name) {
        for (const Node& node : nodes) {
            if (node.name == name) return &node;
            if (const Node* inner = find(node.children, name)) return inner;
        }
        return nullptr;
    }
    Tree tree;
};

TEST_F(Defaults, ServerConfIsWhatTheManualSays) {
    read("server.conf");
    ASSERT_TRUE(find(tree.nodes, "listen"));
    EXPECT_EQ(find(tree.nodes, "listen")->arg(0), "8080");
    EXPECT_TRUE(find(tree.nodes, "content_by_lua_block")->is_lua);
    EXPECT_TRUE(find(tree.nodes, "stub_status"));
    // The unit file and ./dev run set these by -g, where a repetition would be refused.
    EXPECT_FALSE(find(tree.nodes, "pid"));
    EXPECT_FALSE(find(tree.nodes, "daemon"));
    EXPECT_EQ(tree.files.size(), 2u);
}

TEST_F(Defaults, EveryExtensionHasOneType) {
    read("mime.types");
    ASSERT_EQ(tree.nodes.size(), 1u);
    std::map<std::string, std::string> types;
    for (const Node& node : tree.nodes[0].children) {
        EXPECT_NE(node.name.find('/'), std::string::npos) << node.name;
        EXPECT_FALSE(node.args.empty()) << node.name;
        for (const std::string& extension : node.args) {
            EXPECT_TRUE(types.emplace(extension, node.name).second) << extension;
        }
    }
    EXPECT_EQ(types["html"], "text/html");
    EXPECT_EQ(types["js"], "application/javascript");
    EXPECT_GT(types.size(), 140u);
}

}  // namespace
