// set_by_lua: a step of the rewrite script that computes a variable. Its handler runs to its end at
// once: it cannot wait.
#include "lua/set_by_lua.h"

#include <memory>
#include <vector>

#include "lua/by_lua.h"
#include "lua/code_cache.h"
#include "lua/memory_limit.h"
#include "lua/vm.h"
#include "server/http/script.h"

namespace lua {
namespace {

using server::Request;

struct SetHandler {
    std::shared_ptr<LuaChunk> chunk;
    std::vector<server::ComplexValue> arguments;
};

server::Value result_of(LuaTask& task) {
    lua_State* L = task.entry->L;
    size_t size = 0;
    const char* text = lua_gettop(L) ? lua_tolstring(L, 1, &size) : nullptr;
    return text ? task.request->arena.copy({text, size}) : core::Slice("");
}

bool run_set(Request& request, const void* data, server::Value& value) {
    LimitedMemory unlimited(false);
    auto& handler = *static_cast<const SetHandler*>(data);
    const LuaConf& conf = request.conf<LuaConf>(lua_module);
    LuaVm* vm = vm_for(request, conf);
    if (!vm) return false;
    LuaTask& task = create_task(*vm, LuaPhase::set, &request);
    task.end = TaskEnd::failed;
    if (handler.chunk->push(*vm, task.entry->L, &request, request.log) != 0) {
        destroy_task(task);
        return false;
    }
    task.end = TaskEnd::running;
    size_t count = handler.arguments.size();
    auto* values = request.arena.make_array<core::Slice>(count + 1);
    luaL_checkstack(task.entry->L, int(count), "too many arguments");
    for (size_t i = 0; i < count; ++i) {
        values[i] = handler.arguments[i].evaluate(request);
        lua_pushlstring(task.entry->L, values[i].data(), values[i].size());
    }
    SetArguments arguments{values, int(count)};
    task.phase_data = &arguments;
    bool done = run_task(task, int(count)) == TaskEnd::returned;
    if (done) value = result_of(task);
    destroy_task(task);
    return done;
}

}  // namespace

conf::Result<void> add_set_by_lua(const conf::Line& line, LuaHandlers& handlers,
                                  LuaChunk::Form form) {
    auto handler = std::make_shared<SetHandler>();
    auto chunk = LuaChunk::from(line, 1, "set_by_lua", form);
    if (!chunk) return chunk.take_error();
    handler->chunk = *chunk;
    for (size_t i = 2; i < line.count(); ++i) {
        auto argument = server::ComplexValue::compile(line.arg(i), line);
        if (!argument) return argument.take_error();
        handler->arguments.push_back(std::move(*argument));
    }
    const SetHandler* data = handler.get();
    handlers.keep.push_back(handler);
    handlers.chunks.push_back(handler->chunk);
    return server::add_script_step(line, line.arg(0), run_set, data);
}

}  // namespace lua
