// Pid files, channels, titles, environment, limits, daemonizing, service manager messages.
#include "core/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace {

using namespace core;

// Runs `body` in a child; its return value is the exit code.
template <class F>
int in_child(F body) {
    pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(PidFile, WriteReadRemove) {
    std::string path = "/tmp/resty-pid-" + std::to_string(getpid());
    ASSERT_TRUE(write_pid_file(path, 4711));
    EXPECT_EQ(*read_pid_file(path), 4711);
    std::ofstream(path) << "12x\n";
    auto bad = read_pid_file(path);
    ASSERT_FALSE(bad);
    EXPECT_EQ(bad.error().what, "invalid PID number \"12x\" in \"" + path + "\"");
    std::ofstream(path, std::ios::trunc).flush();
    EXPECT_EQ(read_pid_file(path).error().what, "invalid PID number \"\" in \"" + path + "\"");
    EXPECT_TRUE(remove_pid_file(path));
    EXPECT_EQ(read_pid_file(path).error().what,
              "open() \"" + path + "\" failed (2: No such file or directory)");
    EXPECT_FALSE(write_pid_file("/nonexistent/x.pid", 1));
}

TEST(Channel, MessagesAndDescriptors) {
    Channel one, other;
    ASSERT_TRUE(Channel::open_pair(one, other));
    char room[64];
    Fd came;
    EXPECT_EQ(other.receive(room, sizeof room, came).status, Io::again);
    EXPECT_EQ(one.send("first").status, Io::done);
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    EXPECT_EQ(one.send("second", ends[1]).status, Io::done);
    close(ends[1]);
    IoResult got = other.receive(room, sizeof room, came);
    EXPECT_EQ(Slice(room, size_t(got.bytes)), "first");
    EXPECT_FALSE(came.valid());
    got = other.receive(room, sizeof room, came);
    EXPECT_EQ(Slice(room, size_t(got.bytes)), "second");
    ASSERT_TRUE(came.valid());
    EXPECT_EQ(write(came.get(), "x", 1), 1);
    EXPECT_EQ(read(ends[0], room, 1), 1);
    close(ends[0]);
    one.close();
    EXPECT_EQ(other.receive(room, sizeof room, came).status, Io::closed);
    EXPECT_EQ(other.send("x").status, Io::closed);
}

TEST(Process, ParentDeathIsToldByChannelAndSignal) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    in_child([&] {   // the master, which dies at once
        pid_t master = getpid();
        if (fork() == 0) {
            static bool told = false;
            signal(SIGUSR1, [](int) { told = true; });
            signal_on_parent_death(SIGUSR1, master);
            for (int i = 0; i < 200 && !told; ++i) usleep(10000);
            _exit(write(ends[1], told ? "y" : "n", 1) != 1);
        }
        usleep(50000);
        return 0;
    });
    char word = 0;
    EXPECT_EQ(read(ends[0], &word, 1), 1);
    EXPECT_EQ(word, 'y');
    close(ends[0]);
    close(ends[1]);
    EXPECT_TRUE(signal_on_parent_death(0, getpid()));   // not our parent: as if it were gone
}

TEST(Process, Environment) {
    EXPECT_EQ(in_child([] {
        setenv("KEEP_ME", "1", 1);
        setenv("DROP_ME", "2", 1);
        setenv("TZ", "UTC", 1);
        set_environment({"KEEP_ME", "NEW=a=b", "ABSENT", "KEEP_ME2=z"});
        auto is = [](const char* name, const char* value) {
            const char* found = getenv(name);
            return value ? found && std::string(found) == value : !found;
        };
        setenv("LATER", "x", 1);   // libc copes with the new table
        return is("KEEP_ME", "1") && is("DROP_ME", nullptr) && is("TZ", "UTC") &&
               is("NEW", "a=b") && is("ABSENT", nullptr) && is("KEEP_ME2", "z") &&
               is("LATER", "x") && is("PATH", nullptr) ? 0 : 1;
    }), 0);
}

TEST(Process, Title) {
    // Arguments and environment in one run of memory, as the kernel lays them out.
    static char memory[] = "prog\0-c\0x\0A=1\0B=2";
    char* arguments[] = {memory, memory + 5, memory + 8, nullptr};
    EXPECT_EQ(in_child([&] {
        static char* entries[] = {memory + 10, memory + 14, nullptr};
        environ = entries;
        open_process_title(3, arguments);
        set_process_title("a title that does not fit in there");
        if (std::string(memory) != "a title that does") return 1;
        if (std::string(getenv("A")) != "1" || std::string(getenv("B")) != "2") return 2;
        set_process_title("short");
        if (std::string(memory) != "short") return 3;
        const auto& kept = original_arguments();
        return kept.size() == 3 && kept[0] == "prog" && kept[2] == "x" ? 0 : 4;
    }), 0);
}

TEST(Process, Limits) {
    EXPECT_EQ(in_child([] {
        if (!limit_open_files(100) || open_files_limit() != 100) return 1;
        if (!limit_core_size(0)) return 2;
        std::vector<bool> first{true};
        if (!bind_to_processors(first)) return 3;
        if (!bind_to_processors(std::vector<bool>(2000, true))) return 4;
        if (!bind_to_processors({})) return 5;
        if (!set_priority(5)) return 6;
        return processors_online() >= 1 ? 0 : 7;
    }), 0);
    EXPECT_EQ(in_child([] { return limit_open_files(int64_t(1) << 40) ? 0 : 1; }), 1);
}

TEST(Process, WriteSignalsAreErrors) {
    EXPECT_EQ(in_child([] {
        ignore_write_signals();
        int ends[2];
        if (pipe(ends)) return 1;
        close(ends[0]);
        if (write(ends[1], "x", 1) != -1 || errno != EPIPE) return 2;
        rlimit limit{10, 10};
        setrlimit(RLIMIT_FSIZE, &limit);
        char name[] = "/tmp/resty-fsize-XXXXXX";
        int fd = mkstemp(name);
        unlink(name);
        char text[20] = {};
        if (write(fd, text, 20) != 10 || write(fd, text, 1) != -1) return 3;
        return errno == EFBIG ? 0 : 4;
    }), 0);
}

TEST(Process, Identities) {
    auto root = find_identity("root", "");
    ASSERT_TRUE(root);
    EXPECT_EQ(root->uid, 0u);
    auto nobody = find_identity("no-such-user", "");
    ASSERT_FALSE(nobody);
    EXPECT_TRUE(nobody.error().what.starts_with("getpwnam(\"no-such-user\") failed"));
    EXPECT_TRUE(find_identity("root", "no-such-group").error().what.starts_with(
        "getgrnam(\"no-such-group\") failed"));
    if (geteuid() == 0) {
        EXPECT_EQ(in_child([] {
            auto daemon = find_identity("daemon", "");
            if (!daemon || !become(*daemon)) return 1;
            return geteuid() == daemon->uid && getegid() == daemon->gid && setuid(0) ? 0 : 2;
        }), 0);
    }
}

TEST(Process, DaemonizeWaitsUntilReady) {
    std::string path = "/tmp/resty-daemon-" + std::to_string(getpid());
    unlink(path.c_str());
    int code = in_child([&] {
        if (!daemonize()) return 3;
        usleep(100000);
        if (!write_pid_file(path, getpid())) return 4;
        daemon_ready();
        daemon_ready();
        if (getsid(0) != getpid()) unlink(path.c_str());
        usleep(100000);
        return 0;
    });
    EXPECT_EQ(code, 0);
    auto pid = read_pid_file(path);   // there as soon as the first process is gone
    ASSERT_TRUE(pid);
    EXPECT_NE(*pid, getpid());
    unlink(path.c_str());
    EXPECT_EQ(in_child([] {
        if (!daemonize()) return 3;
        return 0;   // dies before it is ready
    }), 1);
}

TEST(Process, NotifiesTheServiceManager) {
    std::string path = "/tmp/resty-notify-" + std::to_string(getpid());
    Address at;
    ASSERT_TRUE(at.set_local_path(path));
    int receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
    ASSERT_EQ(bind(receiver, &at.any, at.size), 0);
    EXPECT_EQ(in_child([&] {
        setenv("NOTIFY_SOCKET", path.c_str(), 1);
        notify_service_manager("READY=1");
        set_environment({});
        notify_service_manager("STOPPING=1");
        return 0;
    }), 0);
    char room[64];
    EXPECT_EQ(Slice(room, size_t(recv(receiver, room, sizeof room, 0))), "READY=1");
    EXPECT_EQ(Slice(room, size_t(recv(receiver, room, sizeof room, 0))), "STOPPING=1");
    close(receiver);
    unlink(path.c_str());
    EXPECT_EQ(in_child([] {
        std::string name = "@resty-" + std::to_string(getpid());
        Address abstract;
        abstract.set_local_path(name);
        abstract.local.sun_path[0] = 0;
        --abstract.size;
        int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        if (bind(fd, &abstract.any, abstract.size)) return 1;
        setenv("NOTIFY_SOCKET", name.c_str(), 1);
        notify_service_manager("READY=1");
        char text[16];
        return recv(fd, text, sizeof text, MSG_DONTWAIT) == 7 ? 0 : 2;
    }), 0);
}

}  // namespace
