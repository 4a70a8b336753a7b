// Running the ssl_*_by_lua scripts; see handshake_by_lua.h. A script that does not wait answers
// inside OpenSSL's callback; one that waits answers through Handshake::answer(), and goes with the
// connection when that closes first. session_store is not waited for: OpenSSL cannot, so a script
// that takes its time does so beside the connection, which may be closed before it is done.
#include "lua/handshake_by_lua.h"

#include <openssl/ssl.h>

#include <memory>

#include "core/tls.h"
#include "lua/api.h"
#include "lua/code_cache.h"
#include "lua/conf.h"
#include "lua/memory_limit.h"
#include "lua/vm.h"
#include "server/config.h"
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/handshake.h"
#include "server/http/request.h"
#include "server/worker.h"

namespace lua {
namespace {

using server::Handshake;
using server::HandshakeAnswer;
using server::HandshakeStep;
using server::VirtualServer;

struct Row {
    HandlerSlot slot;
    LuaPhase phase;
    const char* name;                  // in debug lines, which are upstream's
    const char* callback;
};
constexpr Row rows[] = {
    {HandlerSlot::ssl_client_hello, LuaPhase::ssl_client_hello, "ssl_client_hello_by_lua",
     "client hello"},
    {HandlerSlot::ssl_session_fetch, LuaPhase::ssl_session_fetch, "ssl_session_fetch_by_lua*",
     "sess get"},
    {HandlerSlot::ssl_certificate, LuaPhase::ssl_cert, "ssl_certificate_by_lua", "cert"},
    {HandlerSlot::ssl_session_store, LuaPhase::ssl_session_store, "ssl_session_store_by_lua*",
     "sess new"},
};
constexpr const Row& row_of(HandshakeStep step) { return rows[size_t(step)]; }

const LuaConf& conf_of(const VirtualServer& server) {
    return server.root.conf<LuaConf>(lua_module);
}

// One script at work. Its task's phase_data and argument.
struct HandshakeRun {
    Handshake& handshake;
    HandshakeStep step;
    core::LogContext log;
    core::CompactAddress peer;
    const char* listen;
    ssl_st* held = nullptr;            // session_store that waits: keeps the session

    HandshakeRun(Handshake& of, HandshakeStep now);
    ~HandshakeRun() { SSL_free(held); }        // may end the handshake, with all that is in it
};

// What the scripts of a connection have in common.
struct Kept final : Handshake::Data {
    int ctx_ref = LUA_NOREF;
    LuaTask* waiting = nullptr;
    std::unique_ptr<HandshakeRun> run;         // of that task

    ~Kept() override {
        LuaVm* vm = LuaVm::current();
        if (!vm) return;                       // it has ended the tasks
        if (waiting) destroy_task(*waiting);
        if (ctx_ref >= 0) vm->release_context(ctx_ref);
    }
};

Kept& kept(Handshake& handshake) {
    if (!handshake.data) handshake.data = std::make_unique<Kept>();
    return static_cast<Kept&>(*handshake.data);
}

void describe(const void* subject, core::LogLine& line) {
    const auto& run = *static_cast<const HandshakeRun*>(subject);
    char room[128];
    line.append(", context: ");
    line.append(context_name(row_of(run.step).phase));
    line.append(", client: ");
    line.append(run.peer.ip_into(room, sizeof room));
    line.append(", server: ");
    line.append(run.listen);
}

HandshakeRun::HandshakeRun(Handshake& of, HandshakeStep now)
    : handshake(of), step(now), log(core::process_log()) {
    const server::Connection& connection = *of.connection();
    peer = connection.peer;
    listen = connection.listen.text.c_str();
    log.connection = connection.serial;
    const auto& error_log = of.server().root.core->error_log;
    if (error_log) log.log = error_log.get();
    log.describe = describe;
    log.subject = this;
}

// A session that was not found is made anew.
HandshakeAnswer answer_of(const LuaTask& task, HandshakeStep step) {
    if (step == HandshakeStep::session_fetch) return HandshakeAnswer::go_on;
    return refuses_handshake(task) ? HandshakeAnswer::fail : HandshakeAnswer::go_on;
}

// 500 stands for an error, as in the phases of a request.
void tell_answer(const HandshakeRun& run, const LuaTask& task, HandshakeAnswer answer) {
    const Row& row = row_of(run.step);
    int value = task.end == TaskEnd::failed ? 500 : task.exit_status;
    LOG(run.log, debug, 0, "%s: handler return value: %d, %s cb exit code: %d", row.name, value,
        row.callback, answer != HandshakeAnswer::fail);
}

// What is left of the task speaks for the worker: the run goes first.
void part_from_run(LuaTask& task) {
    task.log_context = &core::process_log();
    task.phase_data = nullptr;
}

void script_done(LuaTask& task, void* argument) {
    Handshake& handshake = static_cast<HandshakeRun*>(argument)->handshake;
    Kept& state = kept(handshake);
    HandshakeStep step = state.run->step;
    HandshakeAnswer answer = answer_of(task, step);
    LOG(state.run->log, debug, 0, "%s: %s cb exit code: %d", row_of(step).name,
        row_of(step).callback, answer != HandshakeAnswer::fail);
    part_from_run(task);
    state.waiting = nullptr;
    state.run.reset();
    handshake.answer(step, answer);
}

void store_done(LuaTask& task, void* argument) {
    part_from_run(task);
    delete static_cast<HandshakeRun*>(argument);
    if (server::Worker* worker = server::Worker::current()) worker->release();
}

HandshakeAnswer suspend(LuaTask& task, std::unique_ptr<HandshakeRun> run) {
    task.argument = run.get();
    if (run->step == HandshakeStep::session_store) {
        // The session would put it aside when the connection is idle.
        run->held = core::TlsSession::pin(run->handshake.ssl());
        SSL_up_ref(run->held);
        task.done = store_done;
        if (server::Worker* worker = server::Worker::current()) worker->hold();
        run.release();
        return HandshakeAnswer::go_on;
    }
    task.done = script_done;
    Kept& state = kept(run->handshake);
    state.waiting = &task;
    state.run = std::move(run);
    return HandshakeAnswer::wait;
}

class Scripts final : public server::HandshakeScripts {
  public:
    Scripts() { server::set_handshake_scripts(*this); }

    uint8_t steps_of(const VirtualServer& server) const override {
        uint8_t steps = 0;
        for (size_t i = 0; i < std::size(rows); ++i) {
            if (conf_of(server).chunk(rows[i].slot)) {
                steps |= server::handshake_bit(HandshakeStep(i));
            }
        }
        return steps;
    }

    HandshakeAnswer run(Handshake& handshake, HandshakeStep step) override {
        LimitedMemory unlimited(false);
        const VirtualServer& server = server_for(handshake, step);
        LuaChunk* chunk = conf_of(server).chunk(row_of(step).slot);
        if (!chunk) return without_script(handshake, step);
        LuaVm* vm = LuaVm::current();
        if (!vm) return HandshakeAnswer::fail;
        auto run = std::make_unique<HandshakeRun>(handshake, step);
        LuaTask& task = create_task(*vm, row_of(step).phase, nullptr);
        task.conf = &conf_of(server);
        task.core_conf = server.root.core;
        task.log_context = &run->log;
        task.phase_data = run.get();
        if (chunk->push(*vm, task.entry->L, nullptr, run->log) != 0) {
            task.end = TaskEnd::failed;
        } else if (run_task(task) == TaskEnd::running) {
            return suspend(task, std::move(run));
        }
        HandshakeAnswer answer = answer_of(task, step);
        tell_answer(*run, task, answer);
        destroy_task(task);
        return answer;
    }

    bool end_with_client(const VirtualServer& server) const override {
        return conf_of(server).check_client_abort;
    }

  private:
    // A server without TLS settings of its own is served with those of the default one, whose
    // certificate is a script's to choose.
    static HandshakeAnswer without_script(Handshake& handshake, HandshakeStep step) {
        if (step != HandshakeStep::certificate) return HandshakeAnswer::go_on;
        core::Slice name = handshake.server().name();
        LOG(handshake.connection()->log, alert, 0,
            "no ssl_certificate_by_lua* defined in server %.*s", int(name.size()), name.data());
        return HandshakeAnswer::fail;
    }

    // Upstream knows only the default server's script of the hello; so do the others that have none
    // of their own.
    static const VirtualServer& server_for(const Handshake& handshake, HandshakeStep step) {
        bool own = step != HandshakeStep::client_hello ||
                   (!compat_openresty() && conf_of(handshake.server()).chunk(row_of(step).slot));
        return own ? handshake.server() : handshake.default_server();
    }
};

Scripts scripts;

}  // namespace

Handshake* handshake_of(const LuaTask& task) {
    if (!(task.phase_bit() & in_handshake) || !task.phase_data) return nullptr;
    return &static_cast<const HandshakeRun*>(task.phase_data)->handshake;
}

server::Connection* client_connection(const LuaTask& task) {
    if (const Handshake* handshake = handshake_of(task)) return handshake->connection();
    return task.request ? &task.request->connection : nullptr;
}

ssl_st* client_tls(const LuaTask& task) {
    if (const Handshake* handshake = handshake_of(task)) return handshake->ssl();
    if (!task.request) return nullptr;
    const server::Connection& connection = task.request->connection;
    const core::TlsSession* session = connection.stream.tls();
    return session ? session->native()
                   : core::TlsHandle::awake(connection.detached_tls.get());
}

int* handshake_ctx_ref(LuaTask& task) {
    Handshake* handshake = handshake_of(task);
    return handshake ? &kept(*handshake).ctx_ref : nullptr;
}

bool refuses_handshake(const LuaTask& task) {
    if (task.end == TaskEnd::failed) return true;
    return task.end == TaskEnd::exited &&
           (task.exit_status == ffi_error || task.exit_status >= 300);
}

int inherited_ctx_ref(const LuaTask& task) {
    const ssl_st* ssl = client_tls(task);
    const Handshake* handshake = ssl ? Handshake::of(ssl) : nullptr;
    bool known = handshake && handshake->data && task.vm == LuaVm::current();
    return known ? static_cast<const Kept&>(*handshake->data).ctx_ref : LUA_NOREF;
}

}  // namespace lua
