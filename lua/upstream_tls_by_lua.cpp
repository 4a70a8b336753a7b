// Running proxy_ssl_certificate_by_lua and proxy_ssl_verify_by_lua in TLS handshakes with upstream
// servers (server/upstream/tls_scripts.h), as tasks of the request that is proxied. A script that
// does not wait answers inside OpenSSL's callback; one that waits answers later, and is ended when
// the handshake is (a timeout, a client that left).
#include <iterator>

#include "lua/by_lua.h"
#include "lua/code_cache.h"
#include "lua/conf.h"
#include "lua/handshake_by_lua.h"
#include "lua/memory_limit.h"
#include "lua/thread.h"
#include "lua/vm.h"
#include "server/http/request.h"
#include "server/upstream/tls_scripts.h"

namespace lua {
namespace {

using server::Location;
using server::UpstreamHandshake;
using server::UpstreamTlsStep;
using Answer = UpstreamHandshake::Answer;

struct Row {
    HandlerSlot slot;
    LuaPhase phase;
    const char* name;                  // in debug lines, which are upstream's
    const char* callback;
};
constexpr Row rows[] = {
    {HandlerSlot::proxy_ssl_certificate, LuaPhase::proxy_ssl_cert, "proxy_ssl_certificate_by_lua",
     "cert cb"},
    {HandlerSlot::proxy_ssl_verify, LuaPhase::proxy_ssl_verify, "proxy_ssl_verify_by_lua",
     "cert verify callback"},
};
constexpr const Row& row_of(UpstreamTlsStep step) { return rows[size_t(step)]; }

const LuaConf& conf_of(const Location& location) { return location.conf<LuaConf>(lua_module); }

Answer answer_of(const LuaTask& task) {
    return refuses_handshake(task) ? Answer::fail : Answer::go_on;
}

// The script that is waited for.
struct Waiting final : UpstreamHandshake::Data {
    UpstreamHandshake& handshake;
    UpstreamTlsStep step;
    LuaTask* task;

    Waiting(UpstreamHandshake& of, UpstreamTlsStep at, LuaTask& running)
        : handshake(of), step(at), task(&running) {}
    ~Waiting() override {
        if (!task || !LuaVm::current()) return;
        LOG(task->log(), debug, 0, "%s: %s aborted", row_of(step).name, row_of(step).callback);
        destroy_task(*task);
    }
};

void script_done(LuaTask& task, void* argument) {
    auto& waiting = *static_cast<Waiting*>(argument);
    Answer answer = answer_of(task);
    LOG(task.log(), debug, 0, "%s: %s exit code: %d", row_of(waiting.step).name,
        row_of(waiting.step).callback, answer != Answer::fail);
    waiting.task = nullptr;
    waiting.handshake.answer(waiting.step, answer);    // may end it, and the request
}

// 500 stands for an error, as in the phases of a request.
void tell_answer(const LuaTask& task, const Row& row, Answer answer) {
    int value = task.end == TaskEnd::failed ? 500 : task.exit_status;
    LOG(task.log(), debug, 0, "%s: handler return value: %d, %s exit code: %d", row.name, value,
        row.callback, answer != Answer::fail);
}

class Scripts final : public server::UpstreamTlsScripts {
  public:
    Scripts() { server::set_upstream_tls_scripts(*this); }

    uint8_t steps_of(const Location& location) const override {
        uint8_t steps = 0;
        for (size_t i = 0; i < std::size(rows); ++i) {
            if (conf_of(location).chunk(rows[i].slot)) {
                steps |= server::upstream_tls_bit(UpstreamTlsStep(i));
            }
        }
        return steps;
    }

    bool skips_own_verification(const Location& location) const override {
        return conf_of(location).upstream_skip_default_verify;
    }

    Answer run(UpstreamHandshake& handshake, UpstreamTlsStep step) override {
        LimitedMemory unlimited(false);
        server::Request& request = handshake.request();
        const LuaConf& conf = conf_of(*request.location);
        const Row& row = row_of(step);
        LuaVm* vm = vm_for(request, conf);
        if (!vm) return Answer::fail;
        LuaTask& task = create_task(*vm, row.phase, &request);
        if (conf.chunk(row.slot)->push(*vm, task.entry->L, &request, request.log) != 0) {
            task.end = TaskEnd::failed;
        } else if (run_task(task) == TaskEnd::running) {
            auto waiting = std::make_unique<Waiting>(handshake, step, task);
            task.argument = waiting.get();
            task.done = script_done;
            handshake.data = std::move(waiting);
            return Answer::wait;
        }
        Answer answer = answer_of(task);
        tell_answer(task, row, answer);
        destroy_task(task);
        return answer;
    }
};

Scripts scripts;

}  // namespace
}  // namespace lua
