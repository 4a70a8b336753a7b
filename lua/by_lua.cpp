// Every *_by_lua phase of a request: one table, one runner. A handler that does not wait gives its
// verdict at once; one that waits gives it to Request::resume() later. What a handler's end means
// for each phase follows OpenResty. set_by_lua is in set_by_lua.cpp, the worker's own phases in
// module.cpp.
#include "lua/by_lua.h"

#include <unistd.h>

#include <algorithm>

#include "lua/api.h"
#include "lua/code_cache.h"
#include "lua/handler_run.h"
#include "lua/memory_limit.h"
#include "lua/output.h"
#include "lua/vm.h"

namespace lua {
namespace {

using server::Request;
using server::Verdict;

// One row per directive of a request's way. (balancer, ssl_* and proxy_ssl_* are run by the files
// that are called for them.)
struct Row {
    HandlerSlot slot;
    LuaPhase phase;
    Verdict when_done;        // the handler returned and has sent nothing
};

constexpr Row rows[] = {
    {HandlerSlot::server_rewrite, LuaPhase::server_rewrite, Verdict::decline()},
    {HandlerSlot::rewrite, LuaPhase::rewrite, Verdict::decline()},
    {HandlerSlot::access, LuaPhase::access, Verdict::pass()},
    {HandlerSlot::precontent, LuaPhase::precontent, Verdict::decline()},
    {HandlerSlot::content, LuaPhase::content, Verdict::finish()},
    {HandlerSlot::header_filter, LuaPhase::header_filter, Verdict::pass()},
    {HandlerSlot::body_filter, LuaPhase::body_filter, Verdict::pass()},
    {HandlerSlot::log, LuaPhase::log, Verdict::decline()},
};

constexpr const Row& row_of(HandlerSlot slot) { return rows[size_t(slot)]; }

constexpr int exit_error = -1;         // ngx.ERROR

// ---- the end of a handler that answers requests ----

bool ends_connection(int status) {
    return status == exit_error || status == 408 || status == server::status_client_closed ||
           status == server::status_close;
}

// The connection is closed without (more of) an answer; `status` appears in the access log.
Verdict terminate(Request& request, int status) {
    if (status > 0 && !request.header_sent()) request.response.status = uint16_t(status);
    request.cut();
    return Verdict::finish();
}

// The response was begun in a phase that others follow: it ends here.
Verdict finish_early(const LuaTask& task) {
    Verdict verdict = end_lua_output(*task.of_request, *task.conf);
    return verdict.is(Verdict::passed) ? Verdict::finish() : verdict;
}

bool has_answered(const LuaTask& task) {
    const Request& request = *task.request;
    const LuaRequest& state = *task.of_request;
    return request.header_sent() || state.filter_status ||
           (request.response.status && !state.held.empty());
}

Verdict returned(const LuaTask& task, const Row& row) {
    if (row.slot == HandlerSlot::content || has_answered(task)) return finish_early(task);
    return row.when_done;
}

Verdict exited(const LuaTask& task, const Row& row) {
    Request& request = *task.request;
    int status = task.exit_status;
    bool content = row.slot == HandlerSlot::content;
    if (ends_connection(status)) return terminate(request, status);
    if (!request.header_sent() && request.response.status == 0 && status >= 200)
        request.response.status = uint16_t(status);
    bool success = status >= 200 && status < 300 && status != 204;
    bool buffered = task.of_request->buffering && request.response.status;
    if (success || buffered || (status == 0 && content)) {
        Verdict verdict = end_lua_output(*task.of_request, *task.conf);
        if (!verdict.is(Verdict::passed)) return verdict;
        if (content || status >= 200) return Verdict::finish();
    }
    if (request.header_sent() && (status > 0 || content)) return Verdict::finish();
    if (status == 0 && has_answered(task)) return finish_early(task);
    if (status == 0) return row.when_done;
    if (status < 0) return content ? terminate(request, 0) : Verdict::decline();
    return Verdict::reject(status);
}

Verdict executed(LuaTask& task) {
    Request& request = *task.request;
    if (task.exec_uri.empty() || task.exec_uri[0] != '@')
        return request.internal_redirect(task.exec_uri, task.exec_args);
    if (!task.exec_args.empty()) {
        LOG(request.log, warn, 0, "query strings %.*s ignored when exec'ing named location %.*s",
            int(task.exec_args.size()), task.exec_args.data(), int(task.exec_uri.size()),
            task.exec_uri.data());
    }
    return request.named_location(task.exec_uri);
}

// The request begins anew in another location: ngx.ctx does not go along by default.
Verdict jumped(LuaTask& task) {
    if (task.conf->ctx_inherit) return Verdict::decline();
    int& ctx_ref = task.of_request->ctx_ref;
    if (ctx_ref >= 0) task.vm->release_context(ctx_ref);
    ctx_ref = LUA_NOREF;
    return Verdict::decline();
}

Verdict verdict_of(LuaTask& task, const Row& row) {
    switch (task.end) {
    case TaskEnd::running: return Verdict::suspend();
    case TaskEnd::returned: return returned(task, row);
    case TaskEnd::exited: return exited(task, row);
    case TaskEnd::executed: return executed(task);
    case TaskEnd::jumped: return jumped(task);
    case TaskEnd::failed: return Verdict::reject(500);
    }
    return Verdict::reject(500);
}

}  // namespace

Verdict verdict_of(LuaTask& task, HandlerSlot slot) { return verdict_of(task, row_of(slot)); }

// ---- running a handler ----

namespace {

void handler_done(LuaTask& task, void* argument) {
    Request& request = *task.request;
    request.on_abort = nullptr;
    Verdict verdict = verdict_of(task, *static_cast<const Row*>(argument));
    request.resume(verdict);
}

// The client left while a handler waits (lua_check_client_abort): ngx.on_abort's function runs as a
// light thread, or the request ends.
void client_left(Request& request, void* argument) {
    auto& task = *static_cast<LuaTask*>(argument);
    LOG(request.log, info, 0, "client prematurely closed connection");
    LuaThread* thread = std::exchange(task.on_abort, nullptr);
    if (!thread) return end_task(task, TaskEnd::exited, server::status_client_closed);
    ++task.light_threads;
    thread->starts = true;
    scheduler_queue(*thread);
}

}  // namespace

void watch_client(Request& request, LuaTask& task) {
    if (!task.conf->check_client_abort) return;
    request.on_abort = client_left;
    request.on_abort_argument = &task;
}

namespace {

// A task with the handler's function on its coroutine; null after `refusal` was set.
LuaTask* prepare(Request& request, const Row& row, Verdict& refusal) {
    const LuaConf& conf = request.conf<LuaConf>(lua_module);
    LuaVm* vm = vm_for(request, conf);
    if (!vm) {
        refusal = Verdict::reject(500);
        return nullptr;
    }
    LuaTask& task = create_task(*vm, row.phase, &request);
    task.argument = const_cast<Row*>(&row);
    int status = conf.chunk(row.slot)->push(*vm, task.entry->L, &request, request.log);
    if (status == 0) return &task;
    task.end = TaskEnd::failed;
    destroy_task(task);
    refusal = Verdict::reject(status);
    return nullptr;
}

Verdict run_handler(Request& request, const Row& row) {
    LimitedMemory unlimited(false);
    Verdict refusal = Verdict::pass();
    LuaTask* task = prepare(request, row, refusal);
    if (!task) return refusal;
    if (run_task(*task) == TaskEnd::running) {
        task->done = handler_done;
        watch_client(request, *task);
        return Verdict::suspend();
    }
    Verdict verdict = verdict_of(*task, row);
    destroy_task(*task);
    return verdict;
}

void body_read(Request& request, void* argument, Verdict verdict) {
    if (verdict.is(Verdict::passed))
        verdict = run_handler(request, *static_cast<const Row*>(argument));
    if (!verdict.is(Verdict::suspended)) request.resume(verdict);
}

// lua_need_request_body: the body is there before the handler runs.
Verdict run_with_body(Request& request, const Row& row) {
    Verdict verdict = request.main->body.read(request, read_options(request), body_read,
                                              const_cast<Row*>(&row));
    return verdict.is(Verdict::passed) ? run_handler(request, row) : verdict;
}

template <HandlerSlot slot>
Verdict run_slot(Request& request) {
    constexpr const Row& row = row_of(slot);
    // A rewrite rule has sent it elsewhere.
    if (slot == HandlerSlot::rewrite && request.uri_changed) return Verdict::decline();
    const LuaConf& conf = request.conf<LuaConf>(lua_module);
    if (conf.need_request_body && &request == request.main) [[unlikely]]
        return run_with_body(request, row);
    return run_handler(request, row);
}

template <HandlerSlot slot>
bool has_handler(const void* conf) {
    return static_cast<const LuaConf*>(conf)->chunk(slot) != nullptr;
}

// ---- log ----

void log_done(LuaTask& task, void*) { task.request->resume_log(); }

Verdict run_log(Request& request) {
    LimitedMemory unlimited(false);
    constexpr const Row& row = row_of(HandlerSlot::log);
    Verdict refusal = Verdict::pass();
    LuaTask* task = prepare(request, row, refusal);
    if (!task) return Verdict::decline();
    if (run_task(*task) == TaskEnd::running) {
        task->done = log_done;
        return Verdict::suspend();
    }
    destroy_task(*task);
    return Verdict::decline();
}

// ---- header filter ----

// OpenResty answers with this status here, and no body.
Verdict answer_with_close_status(Request& request) {
    request.response.status = server::status_close;
    request.response.content_length = 0;
    request.response.content_type = {};
    request.header_only = true;
    return Verdict::pass();
}

}  // namespace

// A status given by ngx.exit in a header filter replaces the response; the filter sees that one as
// well, where the same ngx.exit changes nothing more.
Verdict header_filter_verdict(const LuaTask& task) {
    uint16_t& before = task.of_request->filter_status;
    if (task.end == TaskEnd::failed) return Verdict::reject(server::status_close);
    if (task.end != TaskEnd::exited || task.exit_status == before) return Verdict::pass();
    if (task.exit_status == 0) return Verdict::pass();
    if (task.exit_status < 0) return Verdict::reject(server::status_close);
    before = uint16_t(task.exit_status);
    if (task.exit_status == server::status_close && compat_openresty()) {
        return answer_with_close_status(*task.request);
    }
    return Verdict::reject(task.exit_status);
}

namespace {

void header_filter_done(LuaTask& task, void*) {
    Verdict verdict = header_filter_verdict(task);
    task.request->resume_header_filter(server::FilterSlot::lua, verdict);
}

Verdict run_header_filter(Request& request) {
    LimitedMemory unlimited(false);
    const LuaConf& conf = request.conf<LuaConf>(lua_module);
    if (conf.chunk(HandlerSlot::body_filter)) {
        request.filter_need_in_memory = true;
        request.want_body(server::FilterSlot::lua);
    }
    if (!conf.chunk(HandlerSlot::header_filter)) return Verdict::pass();
    Verdict refusal = Verdict::pass();
    LuaTask* task = prepare(request, row_of(HandlerSlot::header_filter), refusal);
    if (!task) return Verdict::reject(server::status_close);
    if (run_task(*task) == TaskEnd::running) {
        task->done = header_filter_done;
        return Verdict::suspend();
    }
    Verdict verdict = header_filter_verdict(*task);
    destroy_task(*task);
    return verdict;
}

bool filters_headers(const void* conf) {
    return has_handler<HandlerSlot::header_filter>(conf) ||
           has_handler<HandlerSlot::body_filter>(conf);
}

// ---- body filter ----

}  // namespace

bool body_filter_refused(const LuaTask& task) {
    if (task.end == TaskEnd::failed) return true;
    if (task.end == TaskEnd::exited) return task.exit_status < 0 || task.exit_status >= 300;
    lua_State* L = task.entry->L;
    int status = lua_gettop(L) ? int(lua_tointeger(L, 1)) : 0;
    return status == exit_error || status >= 300;
}

// Scripts see bytes: ranges of files are read in. What cannot be read is missing.
void read_files(core::Chain& chain) {
    bool any = false;
    for (const core::Buffer* at = chain.head(); at && !any; at = at->next) any = at->is_file();
    if (!any) return;
    core::Chain read;
    while (core::Buffer* buffer = chain.pop()) {
        int64_t from = buffer->file_begin;
        while (buffer->is_file() && from < buffer->file_end) {
            core::Chunk* chunk = core::Chunk::take();
            size_t wanted = size_t(std::min<int64_t>(chunk->room(), buffer->file_end - from));
            ssize_t got = pread(buffer->fd(), chunk->data(), wanted, from);
            chunk->used = got > 0 ? uint32_t(got) : 0;
            read.add({chunk->data(), chunk->used}, chunk);
            if (got <= 0) break;
            from += got;
        }
        uint8_t marks = buffer->flags & (core::Buffer::last | core::Buffer::flush);
        if (!buffer->is_file() && buffer->size() > 0) {
            if (buffer->owner) buffer->owner->hold();
            read.add(buffer->text(), buffer->owner, buffer->flags);
        } else if (marks) {
            read.add_mark(marks);
        }
        core::Chain::release(buffer);
    }
    chain = std::move(read);
}

namespace {

// A filter that kept the end of the response back leaves it unfinished.
void note_end(Request& request, bool ended_before, const core::Chain& chain) {
    if (ended_before && !chain.ends()) request.end_withheld = true;
}

// A piece whose filter waits; lives in the request's arena until the filter is done with it.
struct WaitingPiece {
    core::Chain chain;
    bool ends = false;
    BodyPiece piece{&chain};
};

void body_filter_done(LuaTask& task, void* argument) {
    auto& waiting = *static_cast<WaitingPiece*>(argument);
    Verdict verdict =
        body_filter_refused(task) ? Verdict::reject(server::status_close) : Verdict::pass();
    note_end(*task.request, waiting.ends, waiting.chain);
    if (verdict.is(Verdict::passed))
        verdict = run_handler_body_filters(*task.request, waiting.chain);
    if (verdict.is(Verdict::suspended)) return;
    task.request->resume_body_filter(server::FilterSlot::lua, std::move(waiting.chain), verdict);
}

Verdict run_own_body_filter(Request& request, core::Chain& chain) {
    LimitedMemory unlimited(false);
    if (request.header_only) return Verdict::pass();
    LuaRequest& state = LuaRequest::of(request);
    if (state.seen_last_in_filter) {
        chain.clear();
        return Verdict::pass();
    }
    if (chain.empty()) return Verdict::pass();
    Verdict refusal = Verdict::pass();
    LuaTask* task = prepare(request, row_of(HandlerSlot::body_filter), refusal);
    if (!task) return Verdict::reject(server::status_close);
    read_files(chain);
    bool ends = chain.ends();
    BodyPiece piece{&chain};
    task->phase_data = &piece;
    if (run_task(*task) == TaskEnd::running) {
        auto* waiting = request.arena.make<WaitingPiece>();
        waiting->chain = std::move(chain);
        waiting->ends = ends;
        task->phase_data = &waiting->piece;
        task->argument = waiting;
        task->done = body_filter_done;
        return Verdict::suspend();
    }
    Verdict verdict =
        body_filter_refused(*task) ? Verdict::reject(server::status_close) : Verdict::pass();
    note_end(request, ends, chain);
    destroy_task(*task);
    return verdict;
}

Verdict run_body_filter(Request& request, core::Chain& chain) {
    bool own = request.conf<LuaConf>(lua_module).chunk(HandlerSlot::body_filter);
    Verdict verdict = own ? run_own_body_filter(request, chain) : Verdict::pass();
    return verdict.is(Verdict::passed) ? run_handler_body_filters(request, chain) : verdict;
}

// *_by_lua_no_postpone: before the other modules of the phase rather than behind them.
template <HandlerSlot slot, auto no_postpone, bool early>
bool runs_when(const void* conf) {
    return has_handler<slot>(conf) && (main_conf().*no_postpone).value == early;
}

template <server::Phase phase, HandlerSlot slot, auto no_postpone, bool early>
constexpr server::PhaseHandler postponable{
    phase, early ? server::rank::first : server::rank::script, run_slot<slot>,
    runs_when<slot, no_postpone, early>};

using Main = LuaMainConf;
constexpr server::PhaseHandler phase_handlers[] = {
    // Upstream runs it before the rewrite rules of the server.
    {server::Phase::server_rewrite, server::rank::first, run_slot<HandlerSlot::server_rewrite>,
     has_handler<HandlerSlot::server_rewrite>},
    postponable<server::Phase::rewrite, HandlerSlot::rewrite, &Main::rewrite_no_postpone, true>,
    postponable<server::Phase::rewrite, HandlerSlot::rewrite, &Main::rewrite_no_postpone, false>,
    postponable<server::Phase::access, HandlerSlot::access, &Main::access_no_postpone, true>,
    postponable<server::Phase::access, HandlerSlot::access, &Main::access_no_postpone, false>,
    postponable<server::Phase::precontent, HandlerSlot::precontent, &Main::precontent_no_postpone,
                true>,
    postponable<server::Phase::precontent, HandlerSlot::precontent, &Main::precontent_no_postpone,
                false>,
    {server::Phase::log, server::rank::script, run_log, has_handler<HandlerSlot::log>},
};

constexpr server::Filter filters[] = {
    {server::FilterSlot::lua, run_header_filter, run_body_filter, filters_headers},
};

}  // namespace

constinit const std::span<const server::PhaseHandler> lua_phase_handlers{phase_handlers};
constinit const std::span<const server::Filter> lua_filters{filters};

Verdict run_content(Request& request) { return run_slot<HandlerSlot::content>(request); }

LuaVm* vm_for(Request& request, const LuaConf& conf) {
    if (conf.code_cache.value != CodeCache::off) [[likely]] return LuaVm::current();
    LuaRequest& state = LuaRequest::of(request);
    if (state.vm) return state.vm;
    state.vm = make_vm(request.log).release();
    // Only the worker's own machine has the profiler, which ends loops in compiled code.
    if (state.vm && main_conf().cpu_time_least_ms)
        luaJIT_setmode(state.vm->L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    const auto& init = main_conf().init;
    if (state.vm && init) init->call_main(*state.vm, request.log, "init_by_lua");
    return state.vm;
}

}  // namespace lua
