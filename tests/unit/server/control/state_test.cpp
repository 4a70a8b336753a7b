// What was changed at run time: values, versions, the file; and the keys of values.
#include "server/control/state.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "core/json_writer.h"

namespace {

using namespace server;

std::vector<ControlItem> items(const char* key, std::optional<std::string> value) {
    return {{"maps", key, std::move(value)}};
}

void change(ControlState& state, const std::vector<ControlItem>& what) {
    state.apply(what);
    state.confirm(what);
}

TEST(ControlPath, SegmentsComeBackAsTheyWere) {
    for (std::string text : {std::string("a"), std::string("/api/v2/"), std::string("~^x(?<y>.)$"),
                             std::string("\0\xff %", 4), std::string("127.0.0.1:80")}) {
        auto path = split_path(encode_segment("first") + "/" + encode_segment(text));
        ASSERT_TRUE(path);
        EXPECT_EQ(path->at(1), text);
    }
    EXPECT_EQ(encode_segment("127.0.0.1:80"), "127.0.0.1:80");
    for (const char* bad : {"%", "%4", "a/%zz", "a//b", "/a", "%2"}) EXPECT_FALSE(split_path(bad));
    EXPECT_TRUE(split_path("")->empty());
}

TEST(ControlState, ValuesComeAndGo) {
    ControlState state;
    EXPECT_EQ(state.version(), 1u);
    change(state, items("m/a", "\"1\""));
    EXPECT_EQ(*state.find("maps", "m/a"), "\"1\"");
    EXPECT_EQ(state.version(), 2u);
    change(state, items("m/a", std::nullopt));
    EXPECT_EQ(state.find("maps", "m/a"), nullptr);
    EXPECT_EQ(state.of("maps"), nullptr);
    EXPECT_EQ(state.count(), 0u);
}

TEST(ControlState, AChangeIsUndone) {
    ControlState state;
    change(state, items("m/a", "1"));
    std::string before = state.to_json();
    auto undo = state.apply({{"maps", "m/a", "2"}, {"maps", "m/b", "3"}, {"upstreams", "u", "[]"},
                             {"maps", "m/a", std::nullopt}});
    EXPECT_NE(state.to_json(), before);
    state.undo(undo);
    EXPECT_EQ(state.to_json(), before);
}

TEST(ControlState, ObjectsHaveVersionsOfTheirOwn) {
    ControlState state;
    change(state, items("m/a", "1"));
    change(state, items("n/a", "1"));
    change(state, items("m-x/a", "1"));
    EXPECT_EQ(state.version_of("maps/m"), 2u);
    EXPECT_EQ(state.version_of("maps/n"), 3u);
    EXPECT_EQ(state.version_of("maps/none"), 1u);
    change(state, items("m/b", "1"));
    EXPECT_EQ(state.version_of("maps/m"), 5u);
    EXPECT_EQ(state.version_of("maps/n"), 3u);
    // One that goes leaves nothing but a lower bound for all that hold no values.
    change(state, items("n/a", std::nullopt));
    EXPECT_EQ(state.version_of("maps/n"), 6u);
    EXPECT_EQ(state.version_of("maps/none"), 6u);
    state.reloaded();
    EXPECT_EQ(state.version_of("maps/m"), 7u);
}

TEST(ControlState, JsonThereAndBack) {
    ControlState state;
    change(state, {{"maps", "m/a", "\"x\\n\""}, {"certificates", "c", "{\"key\":\"k\"}"}});
    auto again = ControlState::parse(state.to_json());
    ASSERT_TRUE(again) << again.error().what;
    EXPECT_EQ(again->to_json(), state.to_json());
    for (const char* bad : {"", "{", "[]", "{}", "{\"version\":1}", "{\"version\":-1,\"items\":[]}",
                            "{\"version\":1,\"items\":[1]}",
                            "{\"version\":1,\"items\":[{\"resource\":\"a\",\"key\":1}]}"}) {
        EXPECT_FALSE(ControlState::parse(bad)) << bad;
    }
}

TEST(ControlState, TheFileIsReplacedAsAWholeAndForItsOwnerAlone) {
    std::string folder = ::testing::TempDir() + "control_state_" + std::to_string(::getpid());
    ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
    std::string path = folder + "/state.json";
    auto none = load_control_state(path);
    ASSERT_TRUE(none);
    EXPECT_EQ(none->count(), 0u);
    ControlState state;
    for (int i = 0; i < 3; ++i) {
        change(state, items("m/a", std::to_string(i)));
        ASSERT_TRUE(save_control_state(path, state));
    }
    struct stat status;
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    auto loaded = load_control_state(path);
    ASSERT_TRUE(loaded);
    EXPECT_EQ(loaded->to_json(), state.to_json());
    EXPECT_NE(::access((path + ".new").c_str(), F_OK), 0);
    EXPECT_FALSE(save_control_state(folder + "/nowhere/state.json", state));
    std::ofstream(path) << "{\"version\"";
    EXPECT_FALSE(load_control_state(path));
    ::unlink(path.c_str());
    ::rmdir(folder.c_str());
}

TEST(ControlDraft, SeesWhatItsTransactionHasPlanned) {
    ControlState state;
    change(state, {{"maps", "m/a", "1"}, {"maps", "m/b", "2"}, {"other", "m/a", "9"}});
    ControlDraft::Pending pending;
    ControlDraft draft(state, "maps", pending);
    EXPECT_EQ(*draft.find("m/a"), "1");
    draft.set("m/a", std::nullopt);
    draft.set("m/c", "3");
    EXPECT_EQ(draft.find("m/a"), nullptr);
    EXPECT_EQ(*draft.find("m/c"), "3");
    EXPECT_EQ(draft.planned("m/b"), nullptr);
    std::string seen;
    draft.each("m/", [&](const std::string& key, const std::string& value) {
        seen += key + "=" + value + " ";
    });
    EXPECT_EQ(seen, "m/b=2 m/c=3 ");
}

}  // namespace
