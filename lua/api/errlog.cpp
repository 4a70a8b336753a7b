// ngx.errlog: messages of any level written as they are, and lua_capture_error_log: the latest
// messages of the error log kept in memory for Lua to fetch.
#include <deque>
#include <string>

#include "core/clock.h"
#include "core/log.h"
#include "lua/api/ffi.h"
#include "lua/conf.h"
#include "server/module.h"

namespace lua {
namespace {

struct Message {
    int level;
    double time;
    size_t offset;                   // where it would lie in upstream's ring of bytes
    std::string text;
};

// What was captured. Upstream keeps it in a ring of bytes in which no message is split: how many
// messages stay is reckoned as if these lay in such a ring.
struct Capture {
    size_t bytes_max = 0;
    size_t tail = 0;                 // behind the newest message
    int level_max = int(core::Level::debug);
    std::deque<Message> messages;
    std::string fetched;             // the one Lua is reading

    void drop_between(size_t from, size_t to) {
        while (!messages.empty() && messages.front().offset >= from &&
               messages.front().offset < to) {
            messages.pop_front();
        }
    }
};
Capture capture;

constexpr size_t overhead_bytes = 24;

void keep(core::Level level, core::Slice line) {
    if (int(level) > capture.level_max) return;
    if (line.ends_with('\n')) line.remove_suffix(1);
    size_t size = line.size() + overhead_bytes;
    if (size > capture.bytes_max) return;
    if (capture.messages.empty()) capture.tail = 0;
    if (capture.tail + size > capture.bytes_max) {
        capture.drop_between(capture.tail, capture.bytes_max);
        capture.tail = 0;
    }
    capture.drop_between(capture.tail, capture.tail + size);
    double now = double(core::Clock::wall_ms()) / 1000;
    capture.messages.push_back({int(level), now, capture.tail, std::string(line)});
    capture.tail += size;
}

bool valid_level(int level) { return level >= 0 && level <= int(core::Level::debug); }

const core::LogContext& log_of(const LuaTask* task) {
    return task ? task->log() : core::process_log();
}

constexpr core::Slice not_set = "directive \"lua_capture_error_log\" is not set";

conf::Result<void> init_worker(server::Worker&) {
    capture.bytes_max = size_t(main_conf().capture_error_log.value.count);
    core::set_log_observer(capture.bytes_max ? keep : nullptr);
    return {};
}

constinit const server::Module lua_errlog{.name = "lua_errlog", .init_worker = init_worker};
REGISTER_MODULE(lua_errlog);

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_errlog_set_filter_level(int level, unsigned char* err,
                                                     size_t* errlen) {
    if (!lua::capture.bytes_max) return lua::ffi_fail(lua::not_set, err, errlen);
    if (!lua::valid_level(level)) {
        return lua::ffi_fail("bad log level: " + std::to_string(level), err, errlen);
    }
    lua::capture.level_max = level;
    return lua::ffi_ok;
}

// The oldest message, which leaves the store; its length. ffi_done: there is none.
LUA_FFI int ngx_http_lua_ffi_errlog_get_msg(char** log, int* loglevel, unsigned char* err,
                                            size_t* errlen, double* log_time) {
    auto& capture = lua::capture;
    if (!capture.bytes_max) return lua::ffi_fail(lua::not_set, err, errlen);
    if (capture.messages.empty()) return lua::ffi_done;
    lua::Message& oldest = capture.messages.front();
    capture.fetched = std::move(oldest.text);
    *loglevel = oldest.level;
    *log_time = oldest.time;
    *log = capture.fetched.data();
    capture.messages.pop_front();
    return int(capture.fetched.size());
}

LUA_FFI int ngx_http_lua_ffi_errlog_get_sys_filter_level(ngx_http_request_t* r) {
    return int(lua::log_of(r).log->level);
}

LUA_FFI int ngx_http_lua_ffi_raw_log(ngx_http_request_t* r, int level, const unsigned char* s,
                                     size_t s_len) {
    if (!lua::valid_level(level)) return lua::ffi_error;
    const core::LogContext& log = lua::log_of(r);
    if (log.enabled(core::Level(level))) {
        core::log_text(log, core::Level(level), 0, lua::slice(s, s_len));
    }
    return lua::ffi_ok;
}
