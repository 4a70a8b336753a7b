// The registry of API topics, and upstream's refusals.
#include "lua/api.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace lua {
namespace {

std::vector<const LuaApi*>& registry() {
    static auto* const instance = new std::vector<const LuaApi*>;
    return *instance;
}

bool compat = false;

}  // namespace

LuaApiRegistration::LuaApiRegistration(const LuaApi& api) {
    std::vector<const LuaApi*>& apis = registry();
    auto by_name = [](const LuaApi* a, const LuaApi* b) {
        return core::Slice(a->name) < core::Slice(b->name);
    };
    apis.insert(std::upper_bound(apis.begin(), apis.end(), &api, by_name), &api);
}

std::span<const LuaApi* const> lua_apis() { return registry(); }

bool compat_openresty() { return compat; }
void set_compat_openresty(bool on) { compat = on; }

int ffi_refuse(const LuaTask& task, unsigned char* text, size_t* length) {
    int size = std::snprintf(reinterpret_cast<char*>(text), *length,
                             "API disabled in the context of %s", context_name(task.phase));
    *length = std::min(*length, size_t(size));
    return ffi_bad_context;
}

int refuse(lua_State* L, const LuaTask& task) {
    return luaL_error(L, "API disabled in the context of %s", context_name(task.phase));
}

}  // namespace lua
