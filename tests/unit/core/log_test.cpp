// Error log: line form, levels, sinks, reopening, failure of a sink.
#include "core/log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "core/clock.h"
#include "core/log_sinks.h"
#include "core/regex.h"
#include "core/text.h"

namespace {

using namespace core;

struct CaptureSink final : LogSink {
    std::vector<std::string> lines;
    void write(Level, Slice line, size_t) override { lines.emplace_back(line); }
};

struct Fixture : testing::Test {
    std::shared_ptr<CaptureSink> sink = std::make_shared<CaptureSink>();
    Log log;
    LogContext where;
    std::string folder = testing::TempDir() + "resty-log-" + std::to_string(getpid());

    Fixture() {
        log.add(sink, Level::info);
        where.log = &log;
        mkdir(folder.c_str(), 0755);
    }
    ~Fixture() override { std::system(("rm -rf " + folder).c_str()); }

    // The line without date, pid and newline.
    std::string tail(const std::string& line) {
        auto form = *Regex::compile(
            R"(^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (\[\w*\]) (\d+)#(\d+): (.*)\n$)", Regex::dotall);
        uint32_t at[10];
        if (form->match(line, 0, at, 5) != 5) return "bad form: " + line;
        auto part = [&](int i) { return line.substr(at[2 * i], at[2 * i + 1] - at[2 * i]); };
        EXPECT_EQ(std::stol(part(2)), getpid());
        EXPECT_EQ(std::stol(part(3)), syscall(SYS_gettid));
        return part(1) + " " + part(4);
    }
    std::string last() { return tail(sink->lines.back()); }
    static std::string contents(const std::string& path) {
        std::ifstream in(path);
        std::stringstream text;
        text << in.rdbuf();
        return text.str();
    }
};
using LogTest = Fixture;

TEST_F(LogTest, LineForm) {
    log_write(where, Level::error, 0, "hello %d", 7);
    EXPECT_EQ(last(), "[error] hello 7");
    where.connection = 12;
    where.action = "reading client request line";
    where.describe = [](const void* subject, LogLine& line) {
        line.format(", client: %s", static_cast<const char*>(subject));
    };
    where.subject = "127.0.0.1";
    log_write(where, Level::crit, ENOENT, "open() \"%s\" failed", "/x");
    EXPECT_EQ(last(), "[crit] *12 open() \"/x\" failed (2: No such file or directory) while "
                      "reading client request line, client: 127.0.0.1");
    log_text(where, Level::stderr_, 0, "100%s");
    EXPECT_EQ(last(), "[] *12 100%s while reading client request line, client: 127.0.0.1");
}

TEST_F(LogTest, LevelsAndMacro) {
    LOG(where, debug, 0, "no");
    EXPECT_TRUE(sink->lines.empty());
    LOG(where, info, 0, "yes");
    EXPECT_EQ(sink->lines.size(), 1u);
    auto errors = std::make_shared<CaptureSink>();
    log.add(errors, Level::crit);
    EXPECT_EQ(log.level, Level::info);
    LOG(where, error, 0, "only the first");
    LOG(where, alert, 0, "both");
    EXPECT_EQ(sink->lines.size(), 3u);
    EXPECT_EQ(errors->lines.size(), 1u);
    EXPECT_EQ(parse_level("warn"), Level::warn);
    EXPECT_EQ(parse_level("debug"), Level::debug);
    EXPECT_FALSE(parse_level(""));
    EXPECT_FALSE(parse_level("Error"));
    EXPECT_EQ(level_name(Level::emerg), "emerg");
    Log single;
    single.add(sink, Level::crit);
    EXPECT_EQ(single.level, Level::crit);
}

TEST_F(LogTest, LongLinesAreCutAndStillEnd) {
    std::string longer(10000, 'x');
    log_text(where, Level::error, 0, longer);
    EXPECT_EQ(sink->lines.back().size(), LogLine::bytes_max);
    EXPECT_EQ(sink->lines.back().back(), '\n');
    log_write(where, Level::error, ENOSPC, "%s", longer.c_str());
    EXPECT_NE(sink->lines.back().find("x... (28: No space left on device)\n"), std::string::npos);
    EXPECT_LE(sink->lines.back().size(), LogLine::bytes_max);
}

TEST_F(LogTest, Escapes) {
    LogLine line;
    line.append_escaped(Slice("a\r\n\0\x7f\xc3\xa9", 7));
    EXPECT_EQ(line.text(), "a\\x0D\\x0A\\x00\\x7F\xc3\xa9");
}

TEST_F(LogTest, PidAfterFork) {
    log_write(where, Level::error, 0, "parent");
    pid_t child = fork();
    if (child == 0) {
        log_write(where, Level::error, 0, "child");
        std::string wanted = "] " + std::to_string(getpid()) + "#" + std::to_string(getpid()) + ":";
        _exit(sink->lines.back().find(wanted) == std::string::npos);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
}

TEST_F(LogTest, FilesAreSharedAndReopened) {
    LogSinkError error;
    auto first = open_log_sink("e.log", folder + "/", error);
    auto second = open_log_sink(folder + "/e.log", "", error);
    ASSERT_TRUE(first);
    EXPECT_EQ(first, second);
    first->write(Level::error, "one\n", 0);
    std::string path = folder + "/e.log";
    rename(path.c_str(), (path + ".1").c_str());
    second->write(Level::error, "two\n", 0);
    int before = first->fd();
    reopen_log_sinks();
    EXPECT_EQ(first->fd(), before);
    first->write(Level::error, "three\n", 0);
    EXPECT_EQ(contents(path + ".1"), "one\ntwo\n");
    EXPECT_EQ(contents(path), "three\n");
    EXPECT_FALSE(open_log_sink("/nonexistent/e.log", "", error));
    EXPECT_EQ(error.what, "open() \"/nonexistent/e.log\" failed");
    EXPECT_EQ(error.system_error, ENOENT);
    EXPECT_EQ(open_log_sink("stderr", "", error), stderr_sink());
}

TEST_F(LogTest, FullDiskIsReportedOncePerSecond) {
    LogSinkError error;
    auto full = open_log_sink("/dev/full", "", error);
    ASSERT_TRUE(full);
    Log to_full;
    to_full.add(full, Level::info);
    LogContext context{.log = &to_full};
    Clock::update();
    testing::internal::CaptureStderr();
    errno = 77;
    for (int i = 0; i < 100; ++i) log_write(context, Level::error, 0, "lost");
    EXPECT_EQ(errno, 77);
    std::string shown = testing::internal::GetCapturedStderr();
    EXPECT_NE(shown.find("write() to \"/dev/full\" failed (28: No space left on device)"),
              std::string::npos);
    EXPECT_LE(std::count(shown.begin(), shown.end(), '\n'), 2);
}

TEST_F(LogTest, EchoWhileStarting) {
    set_log_echo("nginx");
    testing::internal::CaptureStderr();
    log_write(where, Level::emerg, ENOENT, "no file");
    log_write(where, Level::notice, 0, "quiet");
    set_log_echo(nullptr);
    log_write(where, Level::emerg, 0, "quiet");
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "nginx: [emerg] no file (2: No such file or directory)\n");
}

TEST_F(LogTest, Observer) {
    static std::string seen;
    set_log_observer([](Level level, Slice line) {
        seen = std::string(level_name(level)) + "|" + std::string(line);
    });
    log_text(where, Level::warn, 0, "look");
    set_log_observer(nullptr);
    EXPECT_TRUE(seen.starts_with("warn|")) << seen;
    EXPECT_TRUE(seen.ends_with(": look\n")) << seen;
}

TEST_F(LogTest, SyslogOverUdp) {
    Address any;
    ASSERT_TRUE(Address::parse_ip("127.0.0.1", any));
    int receiver = socket(AF_INET, SOCK_DGRAM, 0);
    ASSERT_EQ(bind(receiver, &any.any, any.size), 0);
    int port = local_address(receiver).port();
    LogSinkError error;
    std::string target = format("syslog:server=127.0.0.1:%d", port);
    auto syslog = open_log_sink(target + ",facility=user,tag=t_1,nohostname", "", error);
    ASSERT_TRUE(syslog) << error.what;
    Log to_syslog;
    to_syslog.add(syslog, Level::info);
    LogContext context{.log = &to_syslog};
    log_write(context, Level::warn, 0, "over there");
    char room[5000];
    ssize_t got = recv(receiver, room, sizeof room, 0);
    ASSERT_GT(got, 0);
    std::string text(room, size_t(got));
    auto form = *Regex::compile(
        R"(^<12>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d t_1: .* \[warn\] .*: over there$)", 0);
    uint32_t at[2];
    EXPECT_EQ(form->match(text, 0, at, 1), 1) << text;
    close(receiver);
    for (int i = 0; i < 5; ++i) log_write(context, Level::warn, 0, "nobody listens");
}

TEST_F(LogTest, SyslogOverUnixSocket) {
    std::string path = folder + "/log";
    Address at;
    ASSERT_TRUE(at.set_local_path(path));
    int receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
    ASSERT_EQ(bind(receiver, &at.any, at.size), 0);
    auto server = Syslog::open("server=unix:" + path + ",severity=notice");
    ASSERT_TRUE(server) << server.error().what;
    (*server)->send("hi");
    char room[500];
    ssize_t got = recv(receiver, room, sizeof room, 0);
    ASSERT_GT(got, 0);
    std::string text(room, size_t(got));
    EXPECT_TRUE(text.starts_with("<189>")) << text;
    EXPECT_TRUE(text.ends_with(" nginx: hi")) << text;
    close(receiver);
}

TEST_F(LogTest, SyslogErrors) {
    auto error = [](const char* text) {
        auto opened = Syslog::open(text);
        return opened ? std::string("opened") : opened.error().what;
    };
    EXPECT_EQ(error("facility=user"), "no syslog server specified");
    EXPECT_EQ(error("server=127.0.0.1,facility=nope"), "unknown syslog facility \"nope\"");
    EXPECT_EQ(error("server=127.0.0.1,severity=nope"), "unknown syslog severity \"nope\"");
    EXPECT_EQ(error("server=127.0.0.1,tag=a-b"),
              "syslog \"tag\" only allows alphanumeric characters and underscore");
    EXPECT_EQ(error("server=127.0.0.1,tag=aaaaaaaaaabbbbbbbbbbcccccccccc123"),
              "syslog tag length exceeds 32");
    EXPECT_EQ(error("server=127.0.0.1,server=127.0.0.1"), "duplicate syslog \"server\"");
    EXPECT_EQ(error("server=127.0.0.1:99999"),
              "invalid port in syslog server \"127.0.0.1:99999\"");
    EXPECT_EQ(error("server=127.0.0.1,bla"), "unknown syslog parameter \"bla\"");
}

TEST_F(LogTest, MemoryRing) {
    LogSinkError error;
    auto ring = open_log_sink("memory:32k", "", error);
    ASSERT_TRUE(ring) << error.what;
    std::string line(1000, 'z');
    line += '\n';
    for (int i = 0; i < 100; ++i) ring->write(Level::debug, line, 0);
    EXPECT_FALSE(open_log_sink("memory:10", "", error));
    EXPECT_EQ(error.what, "invalid buffer size \"10\"");
    EXPECT_FALSE(open_log_sink("memory:", "", error));
}

}  // namespace
