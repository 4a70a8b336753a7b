// HandlerRun: a request on its way through the files of lua_handlers: those that guard the folder
// (_access.lua), those that see the response (_filter.lua), and the handler itself. Files are
// loaded on the way when there is a new version. Static routes whose file is ready need none of
// this: run_handler_content() runs them at once. Called by the phases (handlers.cpp) and filters.
#pragma once

#include <memory>

#include "core/slice.h"
#include "lua/handler_tree.h"
#include "lua/thread.h"
#include "server/module.h"
#include "server/verdict.h"

namespace lua {

struct HandlerRun {
    struct Step {
        std::shared_ptr<HandlerFile> file;
        // What it had when it was its turn: the request goes on with that.
        std::shared_ptr<HandlerFunctions> functions;
    };
    server::Request& request;
    Step* steps = nullptr;             // in the request's arena: guards, filters, the handler
    int guards = 0, filters = 0;
    int at = 0;                        // the step it is at
    HandlerMatch::Parameter* parameters = nullptr;
    int parameter_count = 0;
    uint32_t file_changes = 0;         // of the file being loaded, when it was read
    bool loads = false;                // a task of this request loads that file, and waits

    explicit HandlerRun(server::Request& of) : request(of) {}
    ~HandlerRun() {
        if (loads) --steps[at].file->loading;      // the task has gone with the request
        for (int i = 0; i <= guards + filters && steps; ++i) steps[i].~Step();
    }
};

// Phases of a location with handlers.
server::Verdict run_handler_access(server::Request& request);
server::Verdict run_handler_content(server::Request& request);
// Filters: those of the run, if there are any.
server::Verdict run_handler_header_filters(server::Request& request);
server::Verdict run_handler_body_filters(server::Request& request, core::Chain& chain);
HandlerRun* handler_run(const server::Request& request);

// Turns what a handler has returned (on its coroutine's stack) into the response
// (handler_results.cpp). Called when the task has returned; may change how it ended.
void answer_with_results(LuaTask& task);

// Pushes the parameters as a table: a new one, or the empty one that all share.
void push_parameters(lua_State* L, const HandlerMatch::Parameter* parameters, int count);

// The tree that a request belongs to; null: none (any more).
HandlerTree* handler_tree_of(server::Request& request);

extern const server::Module lua_handlers_module;   // request state: HandlerRun

}  // namespace lua
