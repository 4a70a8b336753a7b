// The response of a handler on its way through the _filter.lua files around it, outermost first:
// their header functions once, their body functions piece by piece. Called as filters of the Lua
// slot, behind header_filter_by_lua and body_filter_by_lua.
#include <string>

#include "lua/api.h"
#include "lua/by_lua.h"
#include "lua/handler_run.h"
#include "lua/memory_limit.h"
#include "lua/vm.h"

namespace lua {

namespace {

using server::Request;
using server::Verdict;

struct HeaderWait {
    HandlerRun* run;
    int next;                  // the filter behind the one that waits
};

struct BodyWait {
    HandlerRun* run;
    int next;
    bool ends;
    core::Chain chain;
    BodyPiece piece{&chain};
};

HandlerRun::Step& filter_of(HandlerRun& run, int number) { return run.steps[run.guards + number]; }

// ---- headers ----

Verdict filter_header(HandlerRun& run, int from);

void header_done(LuaTask& task, void* argument) {
    HeaderWait wait = *static_cast<HeaderWait*>(argument);
    Request& request = *task.request;
    Verdict verdict = header_filter_verdict(task);
    if (verdict.is(Verdict::passed)) verdict = filter_header(*wait.run, wait.next);
    if (!verdict.is(Verdict::suspended))
        request.resume_header_filter(server::FilterSlot::lua, verdict);
}

Verdict filter_header(HandlerRun& run, int from) {
    Request& request = run.request;
    for (int i = from; i < run.filters; ++i) {
        HandlerRun::Step& step = filter_of(run, i);
        if (!step.functions || step.functions->header == LUA_NOREF) continue;
        LuaTask& task = create_task(*LuaVm::current(), LuaPhase::header_filter, &request);
        lua_rawgeti(task.entry->L, LUA_REGISTRYINDEX, step.functions->header);
        push_parameters(task.entry->L, run.parameters, run.parameter_count);
        if (run_task(task, 1) == TaskEnd::running) {
            task.done = header_done;
            task.argument = request.arena.make<HeaderWait>(HeaderWait{&run, i + 1});
            return Verdict::suspend();
        }
        Verdict verdict = header_filter_verdict(task);
        destroy_task(task);
        if (!verdict.is(Verdict::passed)) return verdict;
    }
    return Verdict::pass();
}

// ---- body ----

std::string text_of(const core::Chain& chain) {
    std::string text;
    for (const core::Buffer* at = chain.head(); at; at = at->next) text += at->text();
    return text;
}

// A text that the function returned takes the piece's place.
Verdict end_body_filter(LuaTask& task, core::Chain& chain, bool ended) {
    lua_State* L = task.entry->L;
    bool replaced = task.end == TaskEnd::returned && lua_gettop(L) > 0 && lua_isstring(L, 1);
    if (replaced) {
        bool ends = chain.ends();
        chain.clear();
        core::Slice text = check_slice(L, 1);
        if (!text.empty()) chain.add_copy(text);
        if (ends) chain.add_mark(core::Buffer::last);
        lua_settop(L, 0);
    }
    if (ended && !chain.ends()) task.request->end_withheld = true;
    return body_filter_refused(task) ? Verdict::reject(server::status_close) : Verdict::pass();
}

Verdict filter_body(HandlerRun& run, int from, core::Chain& chain);

void body_done(LuaTask& task, void* argument) {
    auto& wait = *static_cast<BodyWait*>(argument);
    Request& request = *task.request;
    Verdict verdict = end_body_filter(task, wait.chain, wait.ends);
    if (verdict.is(Verdict::passed)) verdict = filter_body(*wait.run, wait.next, wait.chain);
    if (!verdict.is(Verdict::suspended))
        request.resume_body_filter(server::FilterSlot::lua, std::move(wait.chain), verdict);
}

Verdict filter_body(HandlerRun& run, int from, core::Chain& chain) {
    Request& request = run.request;
    for (int i = from; i < run.filters && !chain.empty(); ++i) {
        HandlerRun::Step& step = filter_of(run, i);
        if (!step.functions || step.functions->body == LUA_NOREF) continue;
        read_files(chain);
        LuaTask& task = create_task(*LuaVm::current(), LuaPhase::body_filter, &request);
        lua_State* L = task.entry->L;
        bool ends = chain.ends();
        BodyPiece piece{&chain};
        task.phase_data = &piece;
        lua_rawgeti(L, LUA_REGISTRYINDEX, step.functions->body);
        push_slice(L, text_of(chain));
        lua_pushboolean(L, ends);
        push_parameters(L, run.parameters, run.parameter_count);
        if (run_task(task, 3) == TaskEnd::running) {
            auto* wait = request.arena.make<BodyWait>();
            wait->run = &run;
            wait->next = i + 1;
            wait->ends = ends;
            wait->chain = std::move(chain);
            task.phase_data = &wait->piece;
            task.argument = wait;
            task.done = body_done;
            return Verdict::suspend();
        }
        Verdict verdict = end_body_filter(task, chain, ends);
        destroy_task(task);
        if (!verdict.is(Verdict::passed)) return verdict;
    }
    return Verdict::pass();
}

}  // namespace

Verdict run_handler_header_filters(Request& request) {
    HandlerRun* run = handler_run(request);
    if (!run || run->filters == 0) return Verdict::pass();
    LimitedMemory unlimited(false);
    for (int i = 0; i < run->filters; ++i) {
        const auto& functions = filter_of(*run, i).functions;
        if (!functions || functions->body == LUA_NOREF) continue;
        request.filter_need_in_memory = true;
        request.want_body(server::FilterSlot::lua);
        request.response.content_length = -1;      // nobody knows what they make of it
        request.response.allow_ranges = false;
    }
    return filter_header(*run, 0);
}

Verdict run_handler_body_filters(Request& request, core::Chain& chain) {
    HandlerRun* run = handler_run(request);
    if (!run || run->filters == 0 || request.header_only) return Verdict::pass();
    LimitedMemory unlimited(false);
    return filter_body(*run, 0, chain);
}

}  // namespace lua
