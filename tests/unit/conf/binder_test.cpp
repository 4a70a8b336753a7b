// The binder: contexts, arities, duplicates, unknown names, inheritance and ownership.
#include "conf/binder.h"

#include <gtest/gtest.h>

#include "conf/parser.h"
#include "conf/values.h"

namespace {

using namespace conf;

int alive = 0;      // confs of all kinds

struct Site {
    Site() { ++alive; }
    ~Site() { --alive; }
    Setting<int64_t> rate{7};
    Setting<bool> enabled{false};
    Setting<std::string> name{std::string("none")};
    Setting<List> notes;
    Setting<int> level{1};
    std::vector<std::string> rules;
};

std::vector<std::unique_ptr<Level>>* levels;

template <uint32_t context>
Result<void> open_block(Site&, const Line& line) {
    Binder& binder = line.binder;
    Level* before = &binder.current();
    levels->push_back(std::make_unique<Level>(binder.module_count(), before, context));
    auto bound = binder.bind_block(line, *levels->back());
    EXPECT_EQ(&binder.current(), before);
    return bound;
}
Result<void> add_rule(Site& site, const Line& line) {
    if (line.arg(0) == "bad") return Error{"this rule is bad"};
    site.rules.push_back(line.node.name + ":" + std::string(line.arg(line.count() - 1)));
    return {};
}
Result<void> add_twice(Site& site, const Line&) {
    if (site.rules.empty()) site.rules.push_back("x");
    else return Error{"is duplicate"};
    return {};
}
Result<void> read_table(Site& site, const Line& line) {
    return line.binder.each_entry(line, [&](const Line& entry) -> Result<void> {
        if (entry.count() != 1) return Error{"wrong entry"};
        site.rules.push_back(std::string(entry.name()) + "=" + std::string(entry.arg(0)));
        return {};
    });
}
Result<void> note_context(Site& site, const Line& line) {
    site.rules.push_back(std::to_string(line.context));
    line.binder.warn(line.node.place, "noted");
    return {};
}

constexpr Directive site_directives[] = {
    {"http", in_main, takes_block(), call<open_block<in_http>>},
    {"server", in_http, takes_block(), call<open_block<in_server>>},
    {"location", in_server | in_location, takes_block(1, 2), call<open_block<in_location>>},
    {"rate", in_any_http, takes(1), field<&Site::rate>},
    {"enabled", in_any_http, takes_flag(), field<&Site::enabled>},
    {"site_name", in_http | in_server, takes(1), field<&Site::name>},
    {"note", in_any_http, takes(1), field<&Site::notes>},
    {"level", in_any_http, takes(1), field_within<&Site::level, 1, 9>},
    {"rule", in_location, takes(1, 2), call<add_rule>},
    {"rules", in_any_http, takes_at_least(2), call<add_rule>},
    {"run_by_lua_block", in_location, takes_block(), call<add_rule>},
    {"set_by_lua_block", in_location, takes_block(1), call<add_rule>},
    {"once", in_location, takes(0), call<add_twice>},
    {"table", in_http, takes_block(1), call<read_table>},
    {"where", in_main | in_any_http, takes(0), call<note_context>},
};

// A second module, with a row for "server" of its own context and merging.
struct Other {
    Other() { ++alive; }
    ~Other() { --alive; }
    Setting<Bytes> size{{1024}};
    int servers = 0;
    int merges = 0;
    bool outer_merged = false;
};
Result<void> add_peer(Other& other, const Line&) {
    ++other.servers;
    return {};
}
Result<void> open_upstream(Other&, const Line& line) {
    Binder& binder = line.binder;
    levels->push_back(
        std::make_unique<Level>(binder.module_count(), &binder.current(), in_upstream));
    return binder.bind_block(line, *levels->back());
}
constexpr Directive other_directives[] = {
    {"upstream", in_http, takes_block(1), call<open_upstream>},
    {"server", in_upstream, takes_at_least(1), call<add_peer>},
    {"size", in_any_http, takes(1), field<&Other::size>},
    {"mixed", in_http, takes(1), call<add_peer>},
    {"mixed", in_http, takes_block(), call<open_upstream>},
};
Result<void> merge_other(void* conf, const void* outer, Binder&) {
    auto& other = *static_cast<Other*>(conf);
    ++other.merges;
    other.outer_merged = !outer || static_cast<const Other*>(outer)->merges == 1;
    if (other.size.value == 13) return Error{"13 brings bad luck"};
    return {};
}

template <class T> void* create() { return new T; }
template <class T> void destroy(void* conf) { delete static_cast<T*>(conf); }

class Binding : public testing::Test {
  protected:
    void SetUp() override {
        alive = 0;
        levels = &held;
        make_binder();
    }
    void TearDown() override {
        held.clear();
        EXPECT_EQ(alive, 0);
    }
    void make_binder() {
        held.clear();
        tree = Tree{};
        binder = std::make_unique<Binder>(std::vector<ModuleTable>{
            {"site", site_directives, std::size(site_directives), create<Site>, destroy<Site>,
             nullptr},
            {"other", other_directives, std::size(other_directives), create<Other>,
             destroy<Other>, merge_other},
            {"empty", nullptr, 0, nullptr, nullptr, nullptr}});
        held.push_back(std::make_unique<Level>(binder->module_count(), nullptr, in_main));
    }
    // The whole error, empty when all is well.
    std::string bind(const std::string& text) {
        make_binder();
        auto result = parse_source(text, "/c", {}, tree);
        if (result) result = binder->bind(tree.nodes, *held[0], tree);
        if (!result) return result.error().what;
        std::vector<Level*> all;
        for (auto& level : held) all.push_back(level.get());
        result = binder->inherit(all);
        return result ? "" : result.error().what;
    }
    std::string bind_line(const std::string& text) {
        std::string what = bind(text);
        return what.substr(0, what.find('\n'));
    }
    Site& site(size_t level) { return *static_cast<Site*>(held[level]->get(0)); }
    Other& other(size_t level) { return *static_cast<Other*>(held[level]->get(1)); }

    std::vector<std::unique_ptr<Level>> held;
    std::unique_ptr<Binder> binder;
    Tree tree;
};

TEST_F(Binding, FieldsAreReadAndInherited) {
    ASSERT_EQ(bind("http { rate 5; server { enabled on; location / { rate 9; } location /x { "
                   "site_name_is_not_set; } } }")
                  .substr(0, 42),
              "unknown directive \"site_name_is_not_set\" i");
    ASSERT_EQ(bind("http { rate 5; server { enabled on; location / { rate 9; } } }"), "");
    ASSERT_EQ(held.size(), 4u);
    EXPECT_EQ(site(0).rate.value, 7);
    EXPECT_EQ(site(1).rate.value, 5);
    EXPECT_FALSE(*site(1).enabled);
    EXPECT_EQ(site(2).rate.value, 5);
    EXPECT_TRUE(*site(2).enabled);
    EXPECT_EQ(site(3).rate.value, 9);
    EXPECT_TRUE(*site(3).enabled);
    EXPECT_EQ(*site(3).name, "none");
}

TEST_F(Binding, AnUntouchedLevelShares) {
    ASSERT_EQ(bind("http { size 2k; server { location / { } location /b { size 3k; } } }"), "");
    EXPECT_FALSE(held[2]->owns(1));
    EXPECT_EQ(held[2]->get(1), held[1]->get(1));
    EXPECT_EQ(held[3]->get(1), held[1]->get(1));
    EXPECT_TRUE(held[4]->owns(1));
    EXPECT_EQ(other(4).size.value, 3072);
    EXPECT_EQ(other(3).merges, 1);       // the shared object was merged once only
    EXPECT_EQ(held[4]->get(2), nullptr);
    EXPECT_EQ(held[4]->context(), uint32_t(in_location));
}

TEST_F(Binding, MergeRunsOutermostFirst) {
    ASSERT_EQ(bind("http { size 2k; server { size 3k; location / { size 4k; } } }"), "");
    for (size_t level = 0; level < 4; ++level) {
        EXPECT_EQ(other(level).merges, 1);
        EXPECT_TRUE(other(level).outer_merged);
    }
}

TEST_F(Binding, MergeErrorsNameTheBlock) {
    EXPECT_EQ(bind_line("http {\n server {\n size 13;\n }\n}"), "13 brings bad luck in /c:2");
}

TEST_F(Binding, Contexts) {
    EXPECT_EQ(bind_line("rate 5;"), "\"rate\" directive is not allowed here in /c:1");
    EXPECT_EQ(bind_line("http { http { } }"), "\"http\" directive is not allowed here in /c:1");
    EXPECT_EQ(bind_line("http { upstream u { rate 1; } }"),
              "\"rate\" directive is not allowed here in /c:1");
    ASSERT_EQ(bind("where; http { where; }"), "");
    EXPECT_EQ(site(0).rules[0], std::to_string(in_main));
    EXPECT_EQ(site(1).rules[0], std::to_string(in_http));
}

TEST_F(Binding, OneNameInSeveralModules) {
    ASSERT_EQ(bind("http { upstream u { server a; server b; } server { } }"), "");
    EXPECT_EQ(other(1).servers, 0);
    EXPECT_EQ(other(2).servers, 2);
    EXPECT_EQ(held[2]->context(), uint32_t(in_upstream));
    EXPECT_EQ(held[3]->context(), uint32_t(in_server));
    EXPECT_EQ(bind_line("server { }"), "\"server\" directive is not allowed here in /c:1");
    ASSERT_EQ(bind("http { mixed 1; mixed { } }"), "");
    EXPECT_EQ(other(1).servers, 1);
}

TEST_F(Binding, ArgumentCounts) {
    auto wrong = [&](const std::string& text, const std::string& name) {
        EXPECT_EQ(bind_line("http { server { location / { " + text + " } } }"),
                  "invalid number of arguments in \"" + name + "\" directive in /c:1")
            << text;
    };
    wrong("rate;", "rate");
    wrong("rate 1 2;", "rate");
    wrong("enabled;", "enabled");
    wrong("enabled on off;", "enabled");
    wrong("rule;", "rule");
    wrong("rule 1 2 3;", "rule");
    wrong("rules 1;", "rules");
    wrong("location { }", "location");
    wrong("run_by_lua_block x { }", "run_by_lua_block");
    wrong("set_by_lua_block { }", "set_by_lua_block");
    EXPECT_EQ(bind_line("http { server { location / { rules 1 2 3 4 5 6 7 8 9 10 11 12; } } }"),
              "");
    EXPECT_EQ(bind_line("http x { }"),
              "invalid number of arguments in \"http\" directive in /c:1");
}

TEST_F(Binding, Blocks) {
    EXPECT_EQ(bind_line("http;"), "directive \"http\" has no opening \"{\" in /c:1");
    EXPECT_EQ(bind_line("http { rate 5 { } }"),
              "directive \"rate\" is not terminated by \";\" in /c:1");
    EXPECT_EQ(bind_line("http { server { location / { run_by_lua_block 'x'; } } }"),
              "directive \"run_by_lua_block\" has no opening \"{\" in /c:1");
    ASSERT_EQ(bind("http { server { location / { run_by_lua_block { a() } "
                   "set_by_lua_block $x { b() } } } }"),
              "");
    EXPECT_EQ(site(3).rules, (std::vector<std::string>{"run_by_lua_block: a() ",
                                                       "set_by_lua_block: b() "}));
}

TEST_F(Binding, IncludesWithoutOneName) {
    std::string wrong = "invalid number of arguments in \"include\" directive in /c:1";
    EXPECT_EQ(bind_line("include;"), wrong);
    EXPECT_EQ(bind_line("http { include a b; }"), wrong);
    EXPECT_EQ(bind_line("include a { }"), "directive \"include\" is not terminated by \";\""
                                          " in /c:1");
    EXPECT_EQ(bind_line("http { table t { include a b; } }"), "wrong entry in /c:1");
}

TEST_F(Binding, ValueErrorsNameTheLine) {
    EXPECT_EQ(bind("http {\n  enabled maybe;\n}"),
              "invalid value \"maybe\" in \"enabled\" directive, it must be \"on\" or \"off\""
              " in /c:2\n    2 |   enabled maybe;");
    EXPECT_EQ(bind_line("http { rate x; }"), "\"rate\" directive invalid number in /c:1");
    EXPECT_EQ(bind_line("http { server { location / {\n rule bad; } } }"),
              "this rule is bad in /c:2");
}

TEST_F(Binding, Duplicates) {
    EXPECT_EQ(bind_line("http { rate 1;\n rate 2; }"), "\"rate\" directive is duplicate in /c:2");
    EXPECT_EQ(bind_line("http { server { location / { once;\n once; } } }"),
              "\"once\" directive is duplicate in /c:2");
    EXPECT_EQ(bind_line("http { rate 1; server { rate 2; } server { rate 3; } }"), "");
}

TEST_F(Binding, CollectionsMayBeRepeatedAndAreInheritedWhole) {
    ASSERT_EQ(bind("http { note a; note b; server { rate 1; location / { note c; } } }"), "");
    EXPECT_EQ(site(2).notes->items, (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(site(3).notes->items, (std::vector<std::string>{"c"}));
}

TEST_F(Binding, Bounds) {
    ASSERT_EQ(bind("http { level 9; }"), "");
    EXPECT_EQ(site(1).level.value, 9);
    EXPECT_EQ(bind_line("http { level 10; }"), "value must be between 1 and 9 in /c:1");
    EXPECT_EQ(bind_line("http { level x; }"), "\"level\" directive invalid number in /c:1");
}

TEST_F(Binding, UnknownNames) {
    EXPECT_EQ(bind("htpp { }"),
              "unknown directive \"htpp\" in /c:1\n    1 | htpp { }\n    did you mean \"http\"?");
    EXPECT_EQ(bind("http { srever { } }"), "unknown directive \"srever\" in /c:1\n"
                                           "    1 | http { srever { } }\n"
                                           "    did you mean \"server\"?");
    EXPECT_EQ(bind("zzzzzzzzzz 1;"),
              "unknown directive \"zzzzzzzzzz\" in /c:1\n    1 | zzzzzzzzzz 1;");
    EXPECT_EQ(bind("x;"), "unknown directive \"x\" in /c:1\n    1 | x;");
    // Of equally near names the one that may stand here.
    EXPECT_NE(bind("http { server { location / { rulex 1; } } }").find("\"rule\"?"),
              std::string::npos);
    EXPECT_NE(bind("http { rulex 1 2; }").find("\"rules\"?"), std::string::npos);
}

TEST_F(Binding, TablesReadByTheirOwner) {
    ASSERT_EQ(bind("http { table t { a 1; 'b c' 2; default 3; } }"), "");
    EXPECT_EQ(site(1).rules, (std::vector<std::string>{"a=1", "b c=2", "default=3"}));
    EXPECT_EQ(bind_line("http { table t {\n a 1;\n b { }\n} }"), "unexpected \"{\" in /c:3");
    EXPECT_EQ(bind_line("http { table t {\n a 1;\n b;\n} }"), "wrong entry in /c:3");
}

TEST_F(Binding, OfTwoErrorsTheFirstInTheFile) {
    auto first_of = [&](const std::string& text) {
        make_binder();
        EXPECT_FALSE(parse_source(text, "/c", {}, tree));
        auto bound = binder->bind(tree.nodes, *held[0], tree);
        EXPECT_FALSE(bound);
        return bound ? "" : bound.error().what.substr(0, bound.error().what.find('\n'));
    };
    EXPECT_EQ(first_of("http {\n rate x;\n server {\n } } }"),
              "\"rate\" directive invalid number in /c:2");
    EXPECT_EQ(first_of("http {\n rate 1;\n server {\n rate } }"), "unexpected \"}\" in /c:4");
    EXPECT_EQ(first_of("http {\n} }\nrate 1;"), "unexpected \"}\" in /c:2");
    EXPECT_EQ(first_of("http {\n}\nhttp { server {\n rate 1;"),
              "unexpected end of file, expecting \"}\" in /c:4");
    EXPECT_EQ(first_of("rate {\n server { "), "\"rate\" directive is not allowed here in /c:1");
    EXPECT_EQ(first_of("http { table t {\n a 1; b }"), "unexpected \"}\" in /c:2");
    EXPECT_EQ(first_of("http { table t {\n a; b }"), "wrong entry in /c:2");
    EXPECT_EQ(first_of("http { server { location / {\n run_by_lua_block { {"),
              "unexpected end of file, expecting terminating characters for lua code block"
              " in /c:2");
}

TEST_F(Binding, Warnings) {
    ASSERT_EQ(bind("where;\nhttp {\n where; }"), "");
    EXPECT_EQ(binder->warnings(), (std::vector<std::string>{"noted in /c:1", "noted in /c:3"}));
}

TEST_F(Binding, AFailureLeavesTheBinderUsable) {
    EXPECT_NE(bind("http { server { location / { rate x; } } }"), "");
    Tree more;
    ASSERT_TRUE(parse_source("http { rate 3; }", "/d", {}, more));
    ASSERT_TRUE(binder->bind(more.nodes, *held[0], more));
    EXPECT_EQ(static_cast<Site*>(held.back()->get(0))->rate.value, 3);
}

TEST_F(Binding, LevelsOutliveTheBinder) {
    ASSERT_EQ(bind("http { rate 5; server { rate 6; } }"), "");
    binder.reset();
    EXPECT_EQ(site(2).rate.value, 6);
}

TEST_F(Binding, Options) {
    ASSERT_TRUE(parse_text("rate 5;", command_line_name, {}, tree));
    auto bound = binder->bind(tree.nodes, *held[0], tree);
    ASSERT_FALSE(bound);
    EXPECT_EQ(bound.error().what.substr(0, 53),
              "\"rate\" directive is not allowed here in command line\n");
}

TEST_F(Binding, Paths) {
    binder->prefix = "/p/";
    binder->conf_prefix = "/p/conf/";
    EXPECT_EQ(binder->full_path("a/b"), "/p/a/b");
    EXPECT_EQ(binder->full_path("a", true), "/p/conf/a");
    EXPECT_EQ(binder->full_path("/a"), "/a");
    EXPECT_EQ(binder->full_path(""), "/p/");
}

}  // namespace
