// A whole server inside the calling process, without listening: connections are socket pairs, and
// the caller turns the loop. For micro-benchmarks and fuzz targets.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "core/clock.h"
#include "core/log.h"
#include "server/config.h"
#include "server/http/h1.h"
#include "server/module.h"
#include "server/worker.h"

namespace support {

class InProcess {
  public:
    // `server`: what stands in the one server block. Ends the process when that is no good.
    explicit InProcess(const std::string& server) {
        load(server);
        worker_ = std::make_unique<server::Worker>(*configuration_, 0);
        core::Clock::update();
        for (const server::Module* module : server::modules()) {
            if (!module->init_process) continue;
            if (!module->init_process(*configuration_)) fail("init_process");
        }
        if (auto opened = worker_->open(); !opened) fail(opened.error().what);
    }

    server::Configuration& configuration() { return *configuration_; }
    server::Worker& worker() { return *worker_; }
    server::ListenAddress& listen() { return *configuration_->listens.front(); }

    // A client's connection: the client's end, non-blocking. `end`, if wanted, becomes the
    // server's; it lives until the loop has seen the client's end closed.
    int connect(server::H1** end = nullptr) {
        int pair[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) {
            fail("socketpair");
        }
        core::Address peer;
        peer.any.sa_family = AF_UNIX;
        peer.size = sizeof(sa_family_t);
        auto* made = new server::H1(*worker_, listen(), core::Fd(pair[0]), peer);
        if (!made->begin()) fail("watch");
        if (end) *end = made;
        return pair[1];
    }

    void turn() { core::Reactor::current().turn(0); }

    // What has arrived at the client's end, appended to `to`. False: the server has closed.
    static bool drain(int fd, std::string& to) {
        char room[65536];
        for (;;) {
            ssize_t got = ::read(fd, room, sizeof room);
            if (got > 0) {
                to.append(room, size_t(got));
            } else {
                return got < 0;
            }
        }
    }

  private:
    [[noreturn]] static void fail(const std::string& what) {
        std::fprintf(stderr, "%s\n", what.c_str());
        std::abort();
    }

    void load(const std::string& server) {
        char folder[] = "/tmp/resty-in-process-XXXXXX";
        if (!::mkdtemp(folder)) fail("mkdtemp");
        std::string path = std::string(folder) + "/c.conf";
        std::filesystem::create_directories(std::string(folder) + "/logs");
        folder_ = folder;
        std::atexit([] { std::filesystem::remove_all(folder_); });
        std::ofstream(path) << "error_log /dev/null crit; pid logs/pid; events {}\n"
                               "http { access_log off; default_type text/plain;\n"
                               "client_body_temp_path " << folder << "/body;\n"
                               "server { listen 127.0.0.1:1; " << server << "} }";
        server::LoadOptions options;
        options.path = path;
        options.prefix = std::string(folder) + "/";
        auto loaded = server::Configuration::load(options);
        if (!loaded) fail(loaded.error().what);
        configuration_ = std::move(*loaded);
        configuration_->make_current();
        core::process_log().log = &configuration_->error_log;
    }

    static inline std::string folder_;
    std::unique_ptr<server::Configuration> configuration_;
    std::unique_ptr<server::Worker> worker_;
};

}  // namespace support
