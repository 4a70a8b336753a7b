// The Lua modules of lualib/, carried inside the executable so that one binary is an installation.
// The definition is generated at build time by lua/embed.cmake; lua/vm installs the modules as a
// package loader that runs after lua_package_path. Knows nothing of the virtual machine.
#pragma once

#include <span>
#include <string_view>

namespace lua {

struct EmbeddedModule {
    std::string_view name;    // for require(): "resty.core.base"
    std::string_view path;    // below lualib/, for tracebacks: "resty/core/base.lua"
    std::string_view source;  // the whole file, valid for the life of the process
};

// Sorted by path.
std::span<const EmbeddedModule> embedded_modules();

}  // namespace lua
