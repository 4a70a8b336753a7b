// c-ares on our reactor: sends DNS queries and hands the raw replies back. For the resolver only.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/reactor.h"
#include "core/resolver.h"
#include "core/timer.h"

struct ares_channeldata;

namespace core {

class DnsChannel {
  public:
    // What a query's reply is given to. Called from the loop or from inside query() itself; must
    // not destroy the channel. Not called when the channel is destroyed first.
    struct Receiver {
        void (*receive)(void* subject, int type, ResolveStatus status, const uint8_t* bytes,
                        int size);
        void* subject;
        int type;
    };

    static Result<std::unique_ptr<DnsChannel>> open(const Resolver::Options& options);
    ~DnsChannel();

    // `receiver` must live until it was called. `search`: by resolv.conf's search domains.
    void query(const std::string& name, bool search, Receiver& receiver);
    int outstanding() const { return outstanding_; }

  private:
    struct Socket;
    friend struct DnsCallbacks;

    DnsChannel();
    void watch(int fd, bool wanted);
    void take_errors();
    void ask_another_first();
    void process(int read_fd, int write_fd);
    void arm();

    ares_channeldata* channel_ = nullptr;
    int outstanding_ = 0;
    bool first_is_silent_ = false;
    std::unordered_map<int, std::unique_ptr<Socket>> sockets_;
    std::vector<std::unique_ptr<Socket>> closed_;   // freed at the end of the turn
    Timer timer_;
    Deferred free_closed_;
};

}  // namespace core
