// Reading source files: stamps, folders they must lie in, line numbers in messages.
#include "lua/source_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace lua {
namespace {

TEST(LineIn, IsTheFirstPlaceThatAMessageNames) {
    EXPECT_EQ(line_in("/a/b.lua:12: unexpected symbol"), 12);
    EXPECT_EQ(line_in("error loading module 'x' from file '/x.lua':\n\t/x.lua:3: no"), 3);
    EXPECT_EQ(line_in("it returned nil: nothing"), 0);
    EXPECT_EQ(line_in("at 10:20"), 0);
    EXPECT_EQ(line_in("x:999999999999:"), 0);
    EXPECT_EQ(line_in(""), 0);
}

class SourceFiles : public ::testing::Test {
  protected:
    SourceFiles() {
        char pattern[] = "/tmp/resty-unit-XXXXXX";
        path = real_path(::mkdtemp(pattern));
        std::filesystem::create_directory(path + "/in");
        write("in/a.lua", "inside");
        write("out.lua", "outside");
    }
    ~SourceFiles() override { std::filesystem::remove_all(path); }
    void write(const std::string& name, const char* text) {
        FILE* file = std::fopen((path + "/" + name).c_str(), "w");
        std::fputs(text, file);
        std::fclose(file);
    }
    std::string path;
};

TEST_F(SourceFiles, AreReadWhole) {
    std::string large(100000, 'x');
    write("large.lua", large.c_str());
    SourceText source = read_source(path + "/large.lua");
    ASSERT_TRUE(source) << source.error;
    EXPECT_EQ(source.text, large);
    EXPECT_EQ(source.stamp, FileStamp::of(path + "/large.lua"));
}

TEST_F(SourceFiles, AreNotReadOutsideOfTheirFolder) {
    std::filesystem::create_symlink("../out.lua", path + "/in/link.lua");
    std::filesystem::create_symlink("a.lua", path + "/in/alias.lua");
    EXPECT_EQ(read_source(path + "/in/a.lua", path + "/in/").text, "inside");
    EXPECT_EQ(read_source(path + "/in/alias.lua", path + "/in/").text, "inside");
    EXPECT_EQ(read_source(path + "/in/link.lua").text, "outside");
    SourceText refused = read_source(path + "/in/link.lua", path + "/in/");
    EXPECT_FALSE(refused);
    EXPECT_TRUE(refused.text.empty());
    EXPECT_NE(refused.error.find("outside of its folder"), std::string::npos);
}

TEST_F(SourceFiles, ThatAreNoneSayWhy) {
    SourceText missing = read_source(path + "/none.lua");
    EXPECT_TRUE(missing.missing);
    EXPECT_NE(missing.error.find("No such file"), std::string::npos);
    SourceText folder = read_source(path + "/in");
    EXPECT_FALSE(folder.missing);
    EXPECT_NE(folder.error.find("not a regular file"), std::string::npos);
    EXPECT_FALSE(FileStamp::of(path + "/none.lua"));
}

}  // namespace
}  // namespace lua
