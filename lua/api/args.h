// Lua tables as query strings, for the other topics of the Lua API (exec, capture).
#pragma once

#include <string>

#include <lua.hpp>

#include "core/arena.h"
#include "core/slice.h"

namespace lua {

// {a = 1, b = true, c = {1, 2}} as "a=1&b&c=1&c=2"; raises for what cannot be a query argument.
// Valid until the next call.
core::Slice encoded_args(lua_State* L, int table);

// Two query strings as one (control.cpp).
core::Slice join_args(core::Arena& arena, core::Slice own, core::Slice more);

// Pushes the table for a query string and, when it has more than `max` arguments (0: no limit),
// "truncated". Returns the number of values pushed.
int push_decoded_args(lua_State* L, core::Slice text, int max);

}  // namespace lua
