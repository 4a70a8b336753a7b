// ngx.sleep
#include "core/timer.h"
#include "lua/api.h"
#include "lua/op.h"

namespace lua {
namespace {

struct Sleep final : Op {
    core::Timer timer;
    Sleep(LuaThread& thread, int64_t delay_ms)
        : Op(thread), timer([](void* it) { static_cast<Sleep*>(it)->complete(); }, this) {
        timer.set(delay_ms);
    }
    int push_results(lua_State*) override { return 0; }
    const char* name() const override { return "sleep"; }
};

int sleep(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1) return luaL_error(L, "attempt to pass %d arguments, but accepted 1", count);
    double seconds = luaL_checknumber(L, 1);
    task_of(L);
    if (seconds < 0) return luaL_error(L, "invalid sleep duration \"%d\"", int(seconds * 1000));
    return await<Sleep>(L, int64_t(seconds * 1000));
}

constexpr LuaFunction functions[] = {{"ngx.sleep", sleep, in_yieldable}};
REGISTER_LUA_API(sleep, functions);

}  // namespace
}  // namespace lua
