// The c-ares channel: its sockets become watches, its timeouts one timer.
#include "core/dns_channel.h"

#include <ares.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "core/dns_reply.h"
#include "core/log.h"

namespace core {

namespace {

// Rounds of reading one socket in a turn: a flood of datagrams must not hold the loop.
constexpr int read_rounds_max = 32;
constexpr int class_in = 1;

ResolveStatus status_of(int status) {
    switch (status) {
    case ARES_SUCCESS: return ResolveStatus::ok;
    case ARES_EFORMERR: return ResolveStatus::format_error;
    case ARES_ENOTFOUND: case ARES_ENODATA: case ARES_EBADNAME: case ARES_ENONAME:
        return ResolveStatus::host_not_found;
    case ARES_ENOTIMP: return ResolveStatus::unimplemented;
    case ARES_EREFUSED: return ResolveStatus::refused;
    case ARES_ETIMEOUT: return ResolveStatus::timed_out;
    case ARES_EBADRESP: return ResolveStatus::format_error;
    default: return ResolveStatus::server_failure;
    }
}

// Nobody listens where a query was sent: the one error of a connected datagram socket.
void log_refusal(int fd) {
    Address server = peer_address(fd);
    LogContext log = process_log();
    log.action = "resolving";
    log.subject = &server;
    log.describe = [](const void* subject, LogLine& line) {
        line.append(", resolver: ");
        line.append(static_cast<const Address*>(subject)->text());
    };
    LOG(log, error, ECONNREFUSED, "recv() failed");
}

std::string join(const std::vector<std::string>& servers) {
    std::string list;
    for (const std::string& server : servers) {
        if (!list.empty()) list += ',';
        list += server;
    }
    return list;
}

}  // namespace

struct DnsChannel::Socket final : IoHandler {
    DnsChannel& channel;
    int fd;
    Watch watch;

    Socket(DnsChannel& owner, int descriptor) : channel(owner), fd(descriptor) {}

    // Edge-triggered, and c-ares takes one piece of a TCP stream at a time: until nothing is left.
    void on_io(uint8_t ready) override {
        int write_fd = ready & ready_write ? fd : ARES_SOCKET_BAD;
        // That nobody listens comes as an error alone, and is found by reading.
        if (ready & ready_hangup && !(ready & ready_read)) log_refusal(fd);
        int read_fd = ready & (ready_read | ready_hangup) ? fd : ARES_SOCKET_BAD;
        channel.process(read_fd, write_fd);
        for (int i = 0; i < read_rounds_max && watch.active() && bytes_waiting(); ++i) {
            channel.process(fd, ARES_SOCKET_BAD);
        }
        channel.arm();
    }

    bool bytes_waiting() const {
        int bytes = 0;
        return ::ioctl(fd, FIONREAD, &bytes) == 0 && bytes > 0;
    }
};

struct DnsCallbacks {
    static void socket_state(void* data, ares_socket_t fd, int readable, int writable) {
        static_cast<DnsChannel*>(data)->watch(fd, readable || writable);
    }

    static void reply(void* argument, int status, int timeouts, unsigned char* bytes, int size) {
        auto* query = static_cast<Query*>(argument);
        Query mine = *query;
        delete query;
        if (status == ARES_EDESTRUCTION) return;
        --mine.channel->outstanding_;
        if (timeouts > 0) mine.channel->first_is_silent_ = true;
        DnsChannel::Receiver& to = *mine.receiver;
        to.receive(to.subject, to.type, status_of(status), bytes, size);
    }

    struct Query {
        DnsChannel* channel;
        DnsChannel::Receiver* receiver;
    };
};

DnsChannel::DnsChannel()
    : timer_([](void* self) {
          auto* channel = static_cast<DnsChannel*>(self);
          channel->process(ARES_SOCKET_BAD, ARES_SOCKET_BAD);
          channel->arm();
      }, this),
      free_closed_([](void* self) { static_cast<DnsChannel*>(self)->closed_.clear(); }, this) {}

Result<std::unique_ptr<DnsChannel>> DnsChannel::open(const Resolver::Options& options) {
    static const int library = ares_library_init(ARES_LIB_INIT_ALL);
    std::unique_ptr<DnsChannel> made(new DnsChannel);
    ares_options settings{};
    settings.flags = ARES_FLAG_NOALIASES;
    settings.timeout = int(options.try_timeout_ms);
    settings.tries = options.tries;
    settings.sock_state_cb = DnsCallbacks::socket_state;
    settings.sock_state_cb_data = made.get();
    settings.resolvconf_path = const_cast<char*>(options.resolv_conf_path.c_str());
    int mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB |
               ARES_OPT_RESOLVCONF;
    int status = library ? library : ares_init_options(&made->channel_, &settings, mask);
    if (status == ARES_SUCCESS && !options.servers.empty()) {
        status = ares_set_servers_ports_csv(made->channel_, join(options.servers).c_str());
    }
    if (status == ARES_SUCCESS) return made;
    return Error{std::string("ares_init_options() failed: ") + ares_strerror(status)};
}

DnsChannel::~DnsChannel() {
    if (channel_) ares_destroy(channel_);
}

void DnsChannel::query(const std::string& name, bool search, Receiver& receiver) {
    take_errors();
    if (first_is_silent_ && outstanding_ == 0) ask_another_first();
    ++outstanding_;
    auto* query = new DnsCallbacks::Query{this, &receiver};
    auto send = search ? ares_search : ares_query;
    send(channel_, name.c_str(), class_in, receiver.type, DnsCallbacks::reply, query);
    arm();
}

// That nobody listens at a server is told once, to whoever uses its socket next: before a new query
// does, the queries already under way there must hear of it.
void DnsChannel::take_errors() {
    std::vector<pollfd> sockets;
    for (const auto& [fd, socket] : sockets_) sockets.push_back({fd, 0, 0});
    if (sockets.empty() || ::poll(sockets.data(), sockets.size(), 0) <= 0) return;
    for (const pollfd& socket : sockets) {
        if (!(socket.revents & POLLERR)) continue;
        log_refusal(socket.fd);
        process(socket.fd, ARES_SOCKET_BAD);
    }
}

// The first server let a query run into its timeout: it becomes the last, so that not every name
// waits for it.
void DnsChannel::ask_another_first() {
    first_is_silent_ = false;
    ares_addr_port_node* first = nullptr;
    if (ares_get_servers_ports(channel_, &first) != ARES_SUCCESS || !first) return;
    ares_addr_port_node* second = first->next;
    if (second) {
        ares_addr_port_node* last = second;
        while (last->next) last = last->next;
        last->next = first;
        first->next = nullptr;
        ares_set_servers_ports(channel_, second);
    }
    ares_free_data(second ? second : first);
}

void DnsChannel::watch(int fd, bool wanted) {
    auto known = sockets_.find(fd);
    if (!wanted) {
        if (known == sockets_.end()) return;
        known->second->watch.stop();
        closed_.push_back(std::move(known->second));
        sockets_.erase(known);
        Reactor::current().at_end(Reactor::destroy, free_closed_);
        return;
    }
    if (known != sockets_.end()) return;
    auto socket = std::make_unique<Socket>(*this, fd);
    auto started = socket->watch.start(fd, *socket);
    if (!started) {
        LOG(process_log(), alert, 0, "resolver: %s", started.error().what.c_str());
        return;   // the query times out
    }
    sockets_.emplace(fd, std::move(socket));
}

void DnsChannel::process(int read_fd, int write_fd) {
    ares_process_fd(channel_, read_fd, write_fd);
}

void DnsChannel::arm() {
    timeval wait;
    if (!outstanding_ || !ares_timeout(channel_, nullptr, &wait)) {
        timer_.cancel();
        return;
    }
    timer_.set(int64_t(wait.tv_sec) * 1000 + wait.tv_usec / 1000 + 1);
}

}  // namespace core
