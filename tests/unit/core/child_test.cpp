// Child processes: their streams, their ends, and that other children are left alone.
#include "core/child.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

namespace {

using namespace core;

struct ChildTest : testing::Test {
    int ended = 0;
    Child child{[](void* self) { ++static_cast<ChildTest*>(self)->ended; }, this};

    void start(const char* command, const char* const* environment = nullptr, bool merge = false) {
        const char* arguments[] = {"sh", "-c", command, nullptr};
        ASSERT_TRUE(child.start({"sh", arguments, environment, merge}));
    }
    std::string read_all(const Fd& fd) {
        std::string text;
        char room[256];
        for (int tries = 0; tries < 1000; ++tries) {
            ssize_t got = ::read(fd.get(), room, sizeof room);
            if (got == 0) break;
            if (got > 0) text.append(room, size_t(got));
            else ::usleep(2000);
        }
        return text;
    }
    void wait_for_end() {
        for (int tries = 0; tries < 1000 && child.running(); ++tries) {
            ::usleep(2000);
            bury_children();
        }
    }
};

TEST_F(ChildTest, StreamsAndExitCode) {
    start("cat; echo oops >&2; exit 7");
    ASSERT_EQ(::write(child.input.get(), "given", 5), 5);
    child.input.reset();
    EXPECT_EQ(read_all(child.output), "given");
    EXPECT_EQ(read_all(child.error), "oops\n");
    wait_for_end();
    EXPECT_EQ(ended, 1);
    EXPECT_EQ(child.end(), Child::End::exited);
    EXPECT_EQ(child.status(), 7);
}

TEST_F(ChildTest, MergedStreamsAndEnvironment) {
    const char* environment[] = {"ONE=1", nullptr};
    start("echo $ONE$HOME; echo two >&2", environment, true);
    EXPECT_FALSE(child.error.valid());
    EXPECT_EQ(read_all(child.output), "1\ntwo\n");
}

TEST_F(ChildTest, EndedBySignalEvenWhenHeldHere) {
    sigset_t terminate, before;
    sigemptyset(&terminate);
    sigaddset(&terminate, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &terminate, &before);
    start("sleep 10");
    ::kill(child.pid(), SIGTERM);
    wait_for_end();
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    EXPECT_EQ(child.end(), Child::End::signalled);
    EXPECT_EQ(child.status(), SIGTERM);
}

TEST_F(ChildTest, NoDescriptorOfOursGoesAlong) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    start("cat");
    ::close(ends[1]);
    char byte;
    EXPECT_EQ(::read(ends[0], &byte, 1), 0);     // no one else holds the writing end
    ::close(ends[0]);
}

TEST_F(ChildTest, ForeignChildrenKeepTheirStatus) {
    pid_t other = ::fork();
    if (other == 0) ::_exit(9);
    start("exit 0");
    wait_for_end();
    int status = 0;
    ASSERT_EQ(::waitpid(other, &status, 0), other);
    EXPECT_EQ(WEXITSTATUS(status), 9);
}

TEST(ChildWithoutObject, IsBuriedAllTheSame) {
    pid_t pid;
    {
        Child child([](void*) { FAIL(); }, nullptr);
        const char* arguments[] = {"true", nullptr};
        ASSERT_TRUE(child.start({"true", arguments, nullptr, false}));
        pid = child.pid();
    }
    for (int tries = 0; tries < 1000 && ::kill(pid, 0) == 0; ++tries) {
        ::usleep(2000);
        bury_children();
    }
    EXPECT_EQ(::kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
}

}  // namespace
