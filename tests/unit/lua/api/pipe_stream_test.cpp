// Reading patterns and writing on a pipe, without Lua.
#include "lua/api/pipe_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace {

using namespace lua;
using State = PipeStream::State;
using Failure = PipeStream::Failure;

struct PipeStreamTest : testing::Test {
    core::Fd ours, theirs;
    PipeReader reader;
    PipeWriter writer;

    void open(bool reading, size_t buffer_size = 4) {
        int ends[2];
        ASSERT_EQ(::pipe(ends), 0);
        for (int end : ends) ::fcntl(end, F_SETFL, O_NONBLOCK);
        theirs.reset(ends[reading ? 1 : 0]);
        reader.set_buffer_size(buffer_size);
        PipeStream& stream = reading ? static_cast<PipeStream&>(reader) : writer;
        stream.open(core::Fd(ends[reading ? 0 : 1]));
    }
    void say(const char* text) {
        std::string bytes(text);
        ASSERT_EQ(::write(theirs.get(), bytes.data(), bytes.size()), ssize_t(bytes.size()));
    }
    std::string read(PipeReader::Until until, size_t count = 0) {
        reader.taken.clear();
        reader.begin(until, count);
        State state = reader.advance();
        return (state == State::done ? "" : state == State::again ? "(again)" : "(failed)") +
               reader.taken;
    }
};

TEST_F(PipeStreamTest, Patterns) {
    open(true);
    say("one\r\ntwo, and 12345more");
    EXPECT_EQ(read(PipeReader::line), "one");
    EXPECT_EQ(read(PipeReader::bytes, 9), "two, and ");
    EXPECT_EQ(read(PipeReader::bytes, 5), "12345");
    EXPECT_EQ(read(PipeReader::any, 1), "m");
    EXPECT_EQ(read(PipeReader::any, 100), "ore");
    EXPECT_EQ(read(PipeReader::any, 100), "(again)");
}

TEST_F(PipeStreamTest, GoesOnWhereItStopped) {
    open(true);
    say("begin");
    EXPECT_EQ(read(PipeReader::line), "(again)begin");
    say("ning\nrest");
    EXPECT_EQ(reader.advance(), State::done);
    EXPECT_EQ(reader.taken, "beginning");
    EXPECT_EQ(read(PipeReader::all), "(again)rest");
    theirs.reset();
    EXPECT_EQ(reader.advance(), State::done);
}

TEST_F(PipeStreamTest, TheEnd) {
    open(true);
    say("short");
    theirs.reset();
    EXPECT_EQ(read(PipeReader::bytes, 10), "(failed)short");
    EXPECT_EQ(reader.failure, Failure::closed);
    EXPECT_EQ(reader.failure_text(), "closed");
    EXPECT_EQ(read(PipeReader::line), "(failed)");
    EXPECT_EQ(read(PipeReader::any, 1), "(failed)");
    EXPECT_EQ(read(PipeReader::all), "");
}

TEST_F(PipeStreamTest, WritesWhatFitsAndKeepsTheRest) {
    open(false);
    std::string text(200000, 'x');
    writer.begin(text);
    ASSERT_EQ(writer.advance(), State::again);
    std::fill(text.begin(), text.end(), 'y');        // it has been copied by now
    std::string got;
    char room[65536];
    for (;;) {
        ssize_t count = ::read(theirs.get(), room, sizeof room);
        if (count > 0) got.append(room, size_t(count));
        if (count <= 0 && writer.advance() == State::done && got.size() == text.size()) break;
    }
    EXPECT_EQ(got, std::string(200000, 'x'));
    EXPECT_EQ(writer.size(), text.size());
}

}  // namespace
