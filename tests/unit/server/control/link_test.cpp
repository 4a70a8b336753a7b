// Frames between the master and its workers.
#include "server/control/link.h"

#include <gtest/gtest.h>

namespace {

using namespace server;

TEST(ControlFrames, WholeOnesAreTakenWhateverTheSplit) {
    std::string wire = encode_frame({FrameKind::prepare, 7, std::string(300, 'x')}) +
                       encode_frame({FrameKind::commit, UINT64_MAX, ""});
    std::string got;
    std::vector<Frame> frames;
    Frame frame;
    bool broken = false;
    for (char c : wire) {
        got += c;
        while (take_frame(got, frame, broken)) frames.push_back(frame);
        ASSERT_FALSE(broken);
    }
    ASSERT_EQ(frames.size(), 2u);
    EXPECT_EQ(frames[0].id, 7u);
    EXPECT_EQ(frames[0].text, std::string(300, 'x'));
    EXPECT_EQ(frames[1].kind, FrameKind::commit);
    EXPECT_EQ(frames[1].id, UINT64_MAX);
    EXPECT_TRUE(got.empty());
}

TEST(ControlFrames, NonsenseIsBroken) {
    for (uint8_t kind : {uint8_t(0), uint8_t(7), uint8_t(255)}) {
        std::string wire = encode_frame({FrameKind(kind), 1, ""});
        Frame frame;
        bool broken = false;
        EXPECT_FALSE(take_frame(wire, frame, broken));
        EXPECT_TRUE(broken);
    }
    std::string wire(13, '\xff');
    Frame frame;
    bool broken = false;
    EXPECT_FALSE(take_frame(wire, frame, broken));
    EXPECT_TRUE(broken);
}

TEST(ControlFrames, ItemsThereAndBack) {
    std::vector<ControlItem> items{{"maps", "a/b", "\"v\""},
                                   {"maps", "a/c", std::nullopt},
                                   {"", "", std::string("\0", 1)}};
    std::string wire = encode_items(items);
    std::vector<ControlItem> again;
    ASSERT_TRUE(decode_items(wire, again));
    ASSERT_EQ(again.size(), 3u);
    EXPECT_EQ(again[0].value, "\"v\"");
    EXPECT_FALSE(again[1].value);
    EXPECT_EQ(again[2].value, std::string("\0", 1));
    for (size_t size = 1; size < wire.size(); ++size) {
        std::vector<ControlItem> cut;
        bool whole = decode_items(core::Slice(wire).substr(0, size), cut);
        EXPECT_TRUE(!whole || cut.size() < items.size()) << size;
    }
}

}  // namespace
