// Opening, keeping and passing on listening sockets.
#include "server/listen_sockets.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/log.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/core_conf.h"
#include "server/stream/blocks.h"

namespace server {

namespace {

// nginx tries so often before it gives up on an address that somebody else still has.
constexpr int tries = 5;
constexpr useconds_t pause_us = 500000;

int type_of(int fd) {
    int type = 0;
    socklen_t size = sizeof type;
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 ? type : -1;
}

// A socket bound without SO_REUSEPORT must get it before others may share its address.
void allow_sharing(int fd) {
    int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
}

// tcp_nodelay: connections take it over from the socket they come in by.
void set_delays(const ListenAddress& listen) {
    if (listen.address.family() == AF_UNIX || listen.options.type != SOCK_STREAM) return;
    bool on = listen.stream ? listen.stream->conf->tcp_nodelay
                            : listen.default_server->root.core->tcp_nodelay;
    for (int fd : listen.fds) core::set_nodelay(fd, on);
}

}  // namespace

ListenSockets::~ListenSockets() = default;

void ListenSockets::inherit(const char* list) {
    core::Slice rest = list;
    inherited_ = true;
    LOG(core::process_log(), notice, 0, "using inherited sockets from \"%s\"", list);
    while (!rest.empty()) {
        size_t end = rest.find_first_of(":;");
        core::Slice number = rest.substr(0, end);
        rest = end == core::Slice::npos ? core::Slice{} : rest.substr(end + 1);
        if (number.empty()) continue;
        auto fd = core::parse_number(number, INT32_MAX);
        int type = fd ? type_of(int(*fd)) : -1;
        if (type < 0) {
            LOG(core::process_log(), emerg, 0,
                "invalid socket number \"%.*s\" in NGINX environment variable, ignored",
                int(number.size()), number.data());
            continue;
        }
        ::fcntl(int(*fd), F_SETFD, FD_CLOEXEC);
        ::fcntl(int(*fd), F_SETFL, ::fcntl(int(*fd), F_GETFL) | O_NONBLOCK);
        held_.push_back({core::local_address(int(*fd)), type, core::Fd(int(*fd))});
    }
}

ListenSockets::Held* ListenSockets::unused(const ListenAddress& listen) {
    for (Held& held : held_) {
        if (!held.used && held.type == listen.options.type && held.address == listen.address) {
            return &held;
        }
    }
    return nullptr;
}

// False when it failed, and was logged; `in_use` then tells whether trying again may help.
bool ListenSockets::open_address(ListenAddress& listen, size_t count, bool& in_use) {
    while (listen.fds.size() < count) {
        if (Held* held = unused(listen)) {
            held->used = true;
            if (listen.options.reuse_port) allow_sharing(held->fd.get());
            if (listen.options_given && held->type == SOCK_STREAM) {
                ::listen(held->fd.get(), listen.options.backlog);
            }
            listen.fds.push_back(held->fd.get());
            continue;
        }
        auto opened = core::listen_on(listen.address, listen.options);
        if (!opened) {
            in_use = errno == EADDRINUSE;
            LOG(core::process_log(), emerg, 0, "%s", opened.error().what.c_str());
            return false;
        }
        listen.fds.push_back(opened->get());
        held_.push_back({listen.address, listen.options.type, std::move(*opened), true, true});
    }
    return true;
}

core::Result<void> ListenSockets::open(Configuration& configuration, int workers) {
    for (Held& held : held_) held.used = held.fresh = false;
    for (auto& listen : configuration.listens) listen->fds.clear();
    for (int attempt = 1;; ++attempt) {
        bool failed = false, hopeless = false;
        for (auto& listen : configuration.listens) {
            if (listen->wildcard) continue;
            bool in_use = false;
            size_t count = listen->options.reuse_port ? size_t(workers) : 1;
            if (open_address(*listen, count, in_use)) continue;
            failed = true;
            hopeless |= !in_use;
        }
        if (!failed) {
            for (auto& listen : configuration.listens) set_delays(*listen);
            return {};
        }
        if (hopeless || attempt == tries) break;
        LOG(core::process_log(), notice, 0, "try again to bind() after 500ms");
        ::usleep(pause_us);
    }
    roll_back();
    return core::Error{"still could not bind()"};
}

core::Result<void> ListenSockets::test(const Configuration& configuration) {
    for (auto& listen : configuration.listens) {
        if (listen->wildcard || listen->address.family() == AF_UNIX) continue;
        auto opened = core::listen_on(listen->address, listen->options);
        if (!opened && errno != EADDRINUSE) return opened.take_error();
    }
    return {};
}

void ListenSockets::commit() {
    std::erase_if(held_, [](const Held& held) { return !held.used; });
    for (Held& held : held_) held.fresh = false;
}

void ListenSockets::roll_back() {
    std::erase_if(held_, [](const Held& held) { return held.fresh; });
}

std::string ListenSockets::list() const {
    std::string result;
    for (const Held& held : held_) result += std::to_string(held.fd.get()) + ";";
    return result;
}

std::vector<int> ListenSockets::descriptors() const {
    std::vector<int> result;
    for (const Held& held : held_) result.push_back(held.fd.get());
    return result;
}

void ListenSockets::close_all() {
    for (Held& held : held_) held.fd.reset();
}

void ListenSockets::remove_files() {
    for (const Held& held : held_) {
        if (held.address.family() != AF_UNIX || !held.address.local.sun_path[0]) continue;
        if (::unlink(held.address.local.sun_path) != 0 && errno != ENOENT) {
            LOG(core::process_log(), emerg, errno, "unlink() %s failed",
                held.address.local.sun_path);
        }
    }
}

}  // namespace server
