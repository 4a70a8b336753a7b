// Lua values as bytes, the way ngx.say, ngx.log and their like print them. Used by API files.
#pragma once

#include <string>

#include <lua.hpp>

#include "core/slice.h"

namespace lua {

// The text of a number, as Lua prints it ("%.14g"); `room` holds at least 40 bytes.
core::Slice number_text(lua_State* L, int index, char* room);

// Appends a string, number, boolean, nil or ngx.null. False for another type (a light userdata that
// is not null appends nothing).
bool append_scalar(std::string& text, lua_State* L, int index);

}  // namespace lua
