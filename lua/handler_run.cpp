// Running a request through the files of lua_handlers; see handler_run.h. A file is loaded by a
// task of the request that first wants its new version; while that waits, others are served by the
// last good one.
#include "lua/handler_run.h"

#include "lua/api.h"
#include "lua/by_lua.h"
#include "lua/handler_load.h"
#include "lua/memory_limit.h"
#include "lua/vm.h"

namespace lua {

namespace {

using server::Method;
using server::Request;
using server::Verdict;

int function_of(const HandlerFunctions& functions, const Request& request) {
    if (functions.any != LUA_NOREF) return functions.any;
    int found = functions.by_method[size_t(request.method)];
    if (found == LUA_NOREF && request.method == Method::head)
        found = functions.by_method[size_t(Method::get)];
    if (found != LUA_NOREF || functions.others.empty()) return found;
    for (const auto& [name, function] : functions.others) {
        if (core::Slice(name) == request.head.method_name) return function;
    }
    return LUA_NOREF;
}

// The file has no function for the method.
Verdict refuse_method(Request& request, const HandlerFunctions& functions) {
    request.response.headers.add("Allow", request.arena.copy(functions.allow));
    if (request.method != Method::options) return Verdict::reject(405);
    request.response.status = 204;
    request.response.content_type_cleared = true;
    request.header_only = true;
    Verdict verdict = request.send_header();
    if (verdict.is(Verdict::rejected)) return verdict;
    request.send_last();
    return Verdict::finish();
}

// ---- functions of files ----

void handler_done(LuaTask& task, void*) {
    Request& request = *task.request;
    request.on_abort = nullptr;
    answer_with_results(task);
    request.resume(verdict_of(task, HandlerSlot::content));
}

Verdict run_handler(Request& request, int function, const HandlerMatch::Parameter* parameters,
                    int count) {
    LuaTask& task = create_task(*LuaVm::current(), LuaPhase::content, &request);
    lua_State* L = task.entry->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, function);
    push_parameters(L, parameters, count);
    if (run_task(task, 1) == TaskEnd::running) {
        task.done = handler_done;
        watch_client(request, task);
        return Verdict::suspend();
    }
    if (lua_gettop(L)) answer_with_results(task);
    Verdict verdict = verdict_of(task, HandlerSlot::content);
    destroy_task(task);
    return verdict;
}

Verdict go_on(HandlerRun& run);

void resume_run(HandlerRun& run) {
    Verdict verdict = go_on(run);
    if (!verdict.is(Verdict::suspended)) run.request.resume(verdict);
}

Verdict guard_verdict(LuaTask& task) {
    answer_with_results(task);
    return verdict_of(task, HandlerSlot::access);
}

void guard_done(LuaTask& task, void* argument) {
    auto& run = *static_cast<HandlerRun*>(argument);
    run.request.on_abort = nullptr;
    Verdict verdict = guard_verdict(task);
    if (!verdict.is(Verdict::passed)) return run.request.resume(verdict);
    ++run.at;
    resume_run(run);
}

Verdict run_guard(HandlerRun& run, int function) {
    Request& request = run.request;
    LuaTask& task = create_task(*LuaVm::current(), LuaPhase::access, &request);
    lua_rawgeti(task.entry->L, LUA_REGISTRYINDEX, function);
    push_parameters(task.entry->L, run.parameters, run.parameter_count);
    if (run_task(task, 1) == TaskEnd::running) {
        task.done = guard_done;
        task.argument = &run;
        watch_client(request, task);
        return Verdict::suspend();
    }
    Verdict verdict = guard_verdict(task);
    destroy_task(task);
    return verdict;
}

// ---- loading ----

// A loading task is over; how else than by returning is the request's own affair.
Verdict loading_verdict(HandlerRun& run, LuaTask& task) {
    settle_loading(*run.steps[run.at].file, task, run.file_changes);
    return task.end == TaskEnd::returned ? Verdict::pass() : verdict_of(task, HandlerSlot::content);
}

void loading_done(LuaTask& task, void* argument) {
    auto& run = *static_cast<HandlerRun*>(argument);
    run.request.on_abort = nullptr;
    run.loads = false;
    Verdict verdict = loading_verdict(run, task);
    if (!verdict.is(Verdict::passed)) return run.request.resume(verdict);
    resume_run(run);
}

// passed: what can be done was done (the file is ready, or has failed); else what comes of it.
Verdict load(HandlerRun& run) {
    HandlerFile& file = *run.steps[run.at].file;
    run.file_changes = file.changes;
    LuaTask* task = begin_loading(file, &run.request);
    if (!task) return Verdict::pass();
    if (run_task(*task, 2) == TaskEnd::running) {
        task->done = loading_done;
        task->argument = &run;
        run.loads = true;
        watch_client(run.request, *task);
        return Verdict::suspend();
    }
    Verdict verdict = loading_verdict(run, *task);
    destroy_task(*task);
    return verdict;
}

// ---- the run ----

Verdict dispatch(HandlerRun& run, const HandlerFunctions& functions) {
    int function = function_of(functions, run.request);
    if (function == LUA_NOREF) return refuse_method(run.request, functions);
    return run_handler(run.request, function, run.parameters, run.parameter_count);
}

// What becomes of a step whose file has no functions: nothing that was ever good is there.
Verdict without_functions(const HandlerFile& file) {
    if (!file.tree) return Verdict::reject(404);
    return Verdict::reject(file.state == HandlerFile::failed ? 500 : 503);
}

// In the access phase up to the last guard; in the content phase from there to the end.
Verdict go_on(HandlerRun& run) {
    bool guarding = run.at < run.guards;
    int end = guarding ? run.guards : run.guards + run.filters + 1;
    bool tried = false;
    while (run.at < end) {
        HandlerRun::Step& step = run.steps[run.at];
        if (!tried && wants_loading(*step.file)) {
            tried = true;
            Verdict verdict = load(run);
            if (!verdict.is(Verdict::passed)) return verdict;
        }
        tried = false;
        step.functions = step.file->functions;
        if (!step.functions) return without_functions(*step.file);
        if (run.at == run.guards + run.filters) return dispatch(run, *step.functions);
        if (guarding) {
            Verdict verdict = run_guard(run, step.functions->any);
            if (!verdict.is(Verdict::passed)) return verdict;
        }
        ++run.at;
    }
    return Verdict::pass();
}

// The files of a kind on the way to the match, outermost first, into `to`; how many.
int files_on_way(const HandlerFolder* folder, const std::shared_ptr<HandlerFile>* HandlerFolder::*
                 kind, const std::shared_ptr<HandlerFile>** to) {
    if (!folder) return 0;
    int count = files_on_way(folder->outer, kind, to);
    if (!folder->routes_known) const_cast<HandlerFolder*>(folder)->know_routes();
    if (folder->*kind) to[count++] = folder->*kind;
    return count;
}

HandlerRun& make_run(Request& request, const HandlerMatch& match) {
    const std::shared_ptr<HandlerFile>* guards[HandlerTree::depth_max + 1];
    const std::shared_ptr<HandlerFile>* filters[HandlerTree::depth_max + 1];
    auto* run = request.arena.make<HandlerRun>(request);
    run->guards = files_on_way(match.folder, &HandlerFolder::access, guards);
    run->filters = files_on_way(match.folder, &HandlerFolder::filter, filters);
    int count = run->guards + run->filters + 1;
    using Step = HandlerRun::Step;
    auto* memory = static_cast<Step*>(
        request.arena.allocate(sizeof(Step) * size_t(count), alignof(Step)));
    for (int i = 0; i < count; ++i) {
        auto* from = i < run->guards ? guards[i]
                     : i < count - 1 ? filters[i - run->guards] : match.file;
        new (memory + i) Step{*from, nullptr};
    }
    run->steps = memory;
    run->parameter_count = match.count;
    run->parameters = request.arena.make_array<HandlerMatch::Parameter>(size_t(match.count) + 1);
    for (int i = 0; i < match.count; ++i) {
        run->parameters[i] = match.parameters[i];
        run->parameters[i].name_text = request.arena.copy(match.parameters[i].name()).data();
    }
    request.set_state(lua_handlers_module, run);
    return *run;
}

}  // namespace

HandlerRun* handler_run(const Request& request) {
    return request.state<HandlerRun>(lua_handlers_module);
}

Verdict run_handler_access(Request& request) {
    HandlerTree* tree = handler_tree_of(request);
    if (!tree || !tree->has_access()) return Verdict::decline();
    LimitedMemory unlimited(false);
    HandlerMatch match;
    if (!tree->find(request.uri, match)) return Verdict::decline();
    HandlerRun& run = make_run(request, match);
    return run.guards ? go_on(run) : Verdict::decline();
}

Verdict run_handler_content(Request& request) {
    LimitedMemory unlimited(false);
    if (HandlerRun* run = handler_run(request)) {
        run->at = run->guards;
        return go_on(*run);
    }
    HandlerTree* tree = handler_tree_of(request);
    HandlerMatch match;
    if (!tree || !tree->find(request.uri, match)) return Verdict::reject(404);
    HandlerFile& file = **match.file;
    if (file.state != HandlerFile::ready || tree->has_filters()) {
        HandlerRun& run = make_run(request, match);
        run.at = run.guards;         // what guards there are had their turn, or none is wanted
        return go_on(run);
    }
    int function = function_of(*file.functions, request);
    if (function == LUA_NOREF) [[unlikely]] return refuse_method(request, *file.functions);
    return run_handler(request, function, match.parameters, match.count);
}

}  // namespace lua
