// The functions behind ngx.balancer (lualib/ngx/balancer.lua), with upstream's names.
#include <cstring>

#include "lua/api.h"
#include "server/upstream/balancer.h"

using lua::ffi_error;
using lua::ffi_ok;

namespace {

// The state of the task's balancer phase; null with *err set.
server::PeerDecision* decision_of(ngx_http_request_t* r, const char** err,
                                  server::BalancerState& state) {
    *err = nullptr;
    if (!r || !r->request) {
        *err = "no request found";
        return nullptr;
    }
    state = server::balancer_state(*r->request);
    if (!state.group) {
        *err = "no upstream found";
    } else if (r->phase != lua::LuaPhase::balancer || !state.decision) {
        *err = "API disabled in the current context";
    }
    return *err ? nullptr : state.decision;
}

server::PeerDecision* decision_of(ngx_http_request_t* r, char** err,
                                  server::BalancerState& state) {
    const char* why = nullptr;
    server::PeerDecision* decision = decision_of(r, &why, state);
    *err = const_cast<char*>(why);
    return decision;
}

int refuse(char** err, const char* why) {
    *err = const_cast<char*>(why);
    return ffi_error;
}

}  // namespace

LUA_FFI int ngx_http_lua_ffi_balancer_set_current_peer(ngx_http_request_t* r,
                                                       const unsigned char* addr, size_t addr_len,
                                                       int port, const unsigned char* host,
                                                       ssize_t host_len, char** err) {
    server::BalancerState state;
    server::PeerDecision* decision = decision_of(r, err, state);
    if (!decision) return ffi_error;
    core::Arena& arena = r->request->arena;
    core::Slice text{reinterpret_cast<const char*>(addr), addr_len};
    auto named = core::parse_host_port(text);
    if (!named) return refuse(err, arena.copy_z(named.error().what).data());
    core::Address address;
    if (named->is_unix) {
        if (!address.set_local_path(named->host)) {
            return refuse(err, "too long path in the unix domain socket");
        }
    } else if (!core::Address::parse_ip(named->host, address)) {
        return refuse(err, "no host allowed");
    } else {
        address.set_port(named->port ? named->port : port);
    }
    decision->address = address;
    if (host && host_len > 0) {
        decision->host = arena.copy({reinterpret_cast<const char*>(host), size_t(host_len)});
    }
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_balancer_bind_to_local_addr(ngx_http_request_t* r,
                                                         const unsigned char* addr,
                                                         size_t addr_len, unsigned char* errbuf,
                                                         size_t* errbuf_size) {
    server::BalancerState state;
    const char* why = nullptr;
    std::string text(reinterpret_cast<const char*>(addr), addr_len);
    server::PeerDecision* decision = decision_of(r, &why, state);
    if (decision) {
        auto named = core::parse_host_port(text);
        core::Address address;
        if (named && core::Address::parse_ip(named->host, address)) {
            decision->local_address = r->request->arena.copy(text);
            return ffi_ok;
        }
        text.insert(0, "invalid addr ");
        why = text.c_str();
    }
    size_t size = std::min(std::strlen(why), *errbuf_size);
    std::memcpy(errbuf, why, size);
    *errbuf_size = size;
    return ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_balancer_enable_keepalive(ngx_http_request_t* r,
                                                       unsigned long timeout,
                                                       unsigned int max_requests, char** err) {
    server::BalancerState state;
    server::PeerDecision* decision = decision_of(r, err, state);
    if (!decision) return ffi_error;
    if (decision->address.family() == AF_UNSPEC) return refuse(err, "no current peer set");
    decision->keepalive = true;
    decision->keepalive_idle_ms = int64_t(timeout);
    decision->keepalive_requests = max_requests;
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_balancer_set_timeouts(ngx_http_request_t* r, long connect_timeout,
                                                   long send_timeout, long read_timeout,
                                                   char** err) {
    server::BalancerState state;
    server::PeerDecision* decision = decision_of(r, err, state);
    if (!decision) return ffi_error;
    if (connect_timeout > 0) decision->connect_ms = connect_timeout;
    if (send_timeout > 0) decision->send_ms = send_timeout;
    if (read_timeout > 0) decision->read_ms = read_timeout;
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_balancer_set_more_tries(ngx_http_request_t* r, int count,
                                                     char** err) {
    server::BalancerState state;
    server::PeerDecision* decision = decision_of(r, err, state);
    if (!decision) return ffi_error;
    int total = decision->tries_total + state.tries_left - 1;
    if (state.next_tries && total + count > state.next_tries) {
        count = state.next_tries - total;
        *err = const_cast<char*>("reduced tries due to limit");
    }
    decision->more_tries = count;
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_balancer_get_last_failure(ngx_http_request_t* r, int* status,
                                                       char** err) {
    constexpr int peer_next = 2, peer_failed = 4;
    server::BalancerState state;
    if (!decision_of(r, err, state)) return ffi_error;
    *status = state.last_status;
    switch (state.last_failure) {
        case server::LastFailure::next: return peer_next;
        case server::LastFailure::failed: return peer_failed;
        case server::LastFailure::none: break;
    }
    return 0;
}

LUA_FFI int ngx_http_lua_ffi_balancer_recreate_request(ngx_http_request_t* r, char** err) {
    server::BalancerState state;
    server::PeerDecision* decision = decision_of(r, err, state);
    if (!decision) return ffi_error;
    decision->recreate = true;
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_balancer_set_upstream_tls(ngx_http_request_t* r, int on, char** err) {
    server::BalancerState state;
    server::PeerDecision* decision = decision_of(r, err, state);
    if (!decision) return ffi_error;
    decision->tls = on ? 1 : 0;
    return ffi_ok;
}
