// FolderWatcher: what is told of files that are made, written, moved and deleted, and when.
#include "core/folder_watcher.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/reactor.h"

namespace core {
namespace {

class FolderWatching : public ::testing::Test {
  protected:
    using News = FolderWatcher::News;

    FolderWatching() {
        char pattern[] = "/tmp/resty-unit-XXXXXX";
        path = ::mkdtemp(pattern);
        Clock::update();
        if (!Reactor::open()) std::abort();
        watcher = std::make_unique<FolderWatcher>();
    }
    ~FolderWatching() override {
        watcher.reset();
        Reactor::close();
        std::filesystem::remove_all(path);
    }

    int open(const std::string& folder, bool guarded = false) {
        return watcher->open(folder, guarded, [](void* self, News news, Slice name) {
            std::string text(name);
            text += news == News::entry ? "" : news == News::unsure ? "?" : "*";
            static_cast<FolderWatching*>(self)->told.push_back(text);
        }, this);
    }
    // Turns the loop until something is told, or ten seconds have passed.
    bool turn_until(const std::function<bool()>& done) {
        int64_t end = Clock::monotonic_ms() + 10000;
        while (!done() && Clock::monotonic_ms() < end) Reactor::current().turn(50);
        return done();
    }
    bool is_told(const std::string& what) {
        return turn_until([&] {
            return std::find(told.begin(), told.end(), what) != told.end();
        });
    }
    void write(const std::string& name, const char* text = "x") {
        FILE* file = std::fopen((path + "/" + name).c_str(), "w");
        std::fputs(text, file);
        std::fclose(file);
    }

    std::string path;
    std::unique_ptr<FolderWatcher> watcher;
    std::vector<std::string> told;
};

TEST_F(FolderWatching, TellsOfFilesThatAreComplete) {
    open(path);
    write("a");
    EXPECT_TRUE(is_told("a"));
    told.clear();
    ASSERT_EQ(std::rename((path + "/a").c_str(), (path + "/b").c_str()), 0);
    EXPECT_TRUE(is_told("b"));
    EXPECT_TRUE(is_told("a"));
}

TEST_F(FolderWatching, AFileBeingWrittenIsUnsettledUntilItIsClosed) {
    int folder = open(path);
    FILE* file = std::fopen((path + "/a").c_str(), "w");
    std::fputs("begun", file);
    std::fflush(file);
    watcher->poll();
    EXPECT_TRUE(watcher->is_unsettled(folder, "a"));
    EXPECT_TRUE(told.empty());
    std::fclose(file);
    watcher->poll();
    EXPECT_FALSE(watcher->is_unsettled(folder, "a"));
    EXPECT_EQ(told, std::vector<std::string>{"a"});
}

TEST_F(FolderWatching, AFileThatComesBackWasNeverAway) {
    write("a");
    int folder = open(path);
    ASSERT_EQ(std::rename((path + "/a").c_str(), (path + "/a~").c_str()), 0);
    watcher->poll();
    EXPECT_TRUE(watcher->is_unsettled(folder, "a"));
    write("a");
    watcher->poll();
    EXPECT_EQ(told, (std::vector<std::string>{"a~", "a"}));
    EXPECT_FALSE(watcher->is_unsettled(folder, "a"));
}

TEST_F(FolderWatching, AFileThatIsDeletedIsToldOf) {
    write("a");
    open(path);
    ASSERT_EQ(::unlink((path + "/a").c_str()), 0);
    watcher->poll();
    EXPECT_TRUE(told.empty());
    EXPECT_TRUE(is_told("a"));
}

TEST_F(FolderWatching, LinksAndFoldersAreCompleteAtOnce) {
    open(path);
    ASSERT_EQ(::symlink("nowhere", (path + "/link").c_str()), 0);
    ASSERT_EQ(::mkdir((path + "/folder").c_str(), 0755), 0);
    watcher->poll();
    EXPECT_EQ(told, (std::vector<std::string>{"link", "folder"}));
}

TEST_F(FolderWatching, ExpectedEntriesAreToldOfWhenTheirTimeIsUp) {
    int folder = open(path);
    watcher->expect(folder, "a", 10);
    EXPECT_FALSE(watcher->is_unsettled(folder, "a"));
    EXPECT_TRUE(is_told("a?"));
}

TEST_F(FolderWatching, AGuardedFolderMayBeReplaced) {
    std::filesystem::create_directory(path + "/one");
    std::filesystem::create_directory(path + "/two");
    std::filesystem::create_symlink(path + "/one", path + "/link");
    open(path + "/link", true);
    std::filesystem::create_symlink(path + "/two", path + "/next");
    ASSERT_EQ(std::rename((path + "/next").c_str(), (path + "/link").c_str()), 0);
    EXPECT_TRUE(is_told("*"));
    told.clear();
    write("two/a");
    EXPECT_TRUE(is_told("a"));
}

TEST_F(FolderWatching, AFolderMayComeLater) {
    int folder = open(path + "/late", true);
    EXPECT_TRUE(watcher->is_polled(folder));
    ASSERT_EQ(::mkdir((path + "/late").c_str(), 0755), 0);
    EXPECT_TRUE(is_told("*"));
    EXPECT_FALSE(watcher->is_polled(folder));
    write("late/a");
    EXPECT_TRUE(is_told("a"));
}

TEST_F(FolderWatching, NothingIsToldOfAClosedFolder) {
    int folder = open(path), other = open(path);
    watcher->close(folder);
    write("a");
    EXPECT_TRUE(is_told("a"));
    EXPECT_EQ(told.size(), 1u);
    watcher->close(other);
    write("b");
    watcher->poll();
    EXPECT_EQ(told.size(), 1u);
}

}  // namespace
}  // namespace core
