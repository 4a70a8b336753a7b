// The file cache: what it keeps, for how long, and how it learns of changes.
#include "server/http/file_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/clock.h"
#include "core/reactor.h"

using server::FileCache;
using server::FileCacheLimits;
using server::FileCacheRules;
using server::FileOpening;
using server::FileUse;
using server::OpenedFile;

namespace {

class FileCacheTest : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(core::Reactor::open());
        core::Clock::update();
        char name[] = "/tmp/file-cache-XXXXXX";
        folder_ = ::mkdtemp(name);
    }
    void TearDown() override {
        core::Reactor::close();
        std::string remove = "rm -rf " + folder_;
        EXPECT_EQ(std::system(remove.c_str()), 0);
    }
    std::string write(const std::string& name, const std::string& text) {
        std::string path = folder_ + "/" + name;
        FILE* file = std::fopen(path.c_str(), "w");
        std::fwrite(text.data(), 1, text.size(), file);
        std::fclose(file);
        return path;
    }
    static OpenedFile find(FileCache& cache, const std::string& path, FileUse use,
                           const FileCacheRules& rules = {}) {
        return cache.find(path, use, FileOpening{}, rules);
    }
    static OpenedFile find(FileCache& cache, const std::string& path) {
        return find(cache, path, FileUse::contents);
    }

    std::string folder_;
};

TEST_F(FileCacheTest, KeepsAFileFromItsSecondUseOn) {
    FileCache cache{FileCacheLimits{}};
    std::string path = write("a", "text");
    EXPECT_EQ(find(cache, path).bytes().data(), nullptr);
    EXPECT_EQ(cache.entries(), 0u);
    find(cache, path);
    EXPECT_EQ(cache.entries(), 1u);
    EXPECT_EQ(find(cache, path).bytes(), "text");
    EXPECT_EQ(cache.memory_bytes(), 4);
}

TEST_F(FileCacheTest, AChangeIsSeenAfterATurn) {
    FileCache cache{FileCacheLimits{}};
    std::string path = write("a", "one");
    for (int i = 0; i < 3; ++i) find(cache, path);
    OpenedFile held = find(cache, path);
    write("a", "three");
    core::Reactor::current().turn(0);
    EXPECT_EQ(find(cache, path).size, 5);
    EXPECT_EQ(held.bytes(), "one");          // a response that is under way keeps its own
}

TEST_F(FileCacheTest, LargeFilesKeepTheirDescriptor) {
    FileCache cache{FileCacheLimits{}};
    std::string path = write("a", std::string(FileCache::small_file_bytes + 1, 'x'));
    for (int i = 0; i < 2; ++i) find(cache, path);
    OpenedFile one = find(cache, path), two = find(cache, path);
    EXPECT_EQ(one.bytes().data(), nullptr);
    EXPECT_EQ(one.file(), two.file());
}

TEST_F(FileCacheTest, FoldersErrorsAndTests) {
    FileCache cache{FileCacheLimits{}};
    EXPECT_TRUE(find(cache, folder_).is_directory);
    EXPECT_EQ(find(cache, folder_ + "/none").error, ENOENT);
    EXPECT_STREQ(find(cache, folder_ + "/none").failed, "open()");
    EXPECT_STREQ(find(cache, folder_ + "/none", FileUse::test).failed, "stat()");
    EXPECT_TRUE(find(cache, write("a", ""), FileUse::test).is_file);
    EXPECT_EQ(cache.entries(), 0u);
}

TEST_F(FileCacheTest, ExplicitRules) {
    FileCache cache{FileCacheLimits{2, 60000, false}};
    FileCacheRules rules{60000, 2, true};
    EXPECT_EQ(find(cache, folder_ + "/none", FileUse::contents, rules).error, ENOENT);
    EXPECT_EQ(cache.entries(), 1u);
    write("none", "there now");
    EXPECT_EQ(find(cache, folder_ + "/none", FileUse::contents, rules).error, ENOENT);
    std::string path = write("a", "text");
    find(cache, path, FileUse::contents, rules);
    EXPECT_EQ(cache.memory_bytes(), 0);      // below min_uses
    find(cache, path, FileUse::contents, rules);
    EXPECT_EQ(cache.memory_bytes(), 4);
    find(cache, write("b", "1"), FileUse::contents, rules);
    EXPECT_EQ(cache.entries(), 2u);          // the least recently used one made room
    EXPECT_EQ(find(cache, folder_ + "/none", FileUse::contents, rules).error, 0);
}

TEST_F(FileCacheTest, SymbolicLinks) {
    std::string path = write("a", "text"), link = folder_ + "/link";
    ASSERT_EQ(::symlink(path.c_str(), link.c_str()), 0);
    FileOpening how;
    how.symlinks = FileOpening::none;
    OpenedFile refused = FileCache::open(link, FileUse::contents, how);
    EXPECT_EQ(refused.error, ELOOP);
    EXPECT_STREQ(refused.failed, "openat()");
    EXPECT_EQ(FileCache::open(path, FileUse::contents, how).size, 4);
    EXPECT_TRUE(FileCache::open(folder_, FileUse::test, how).is_directory);
    how.symlinks = FileOpening::same_owner;
    EXPECT_EQ(FileCache::open(link, FileUse::contents, how).size, 4);
}

}  // namespace
