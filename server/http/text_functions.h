// The functions of one text behind the set_* directives, for scripts that call them by the
// directive's name (Lua's ndk.set_var). The module that has them says so here; it is null without
// such a module.
#pragma once

#include "core/slice.h"

namespace core {
class Arena;
struct LogContext;
}

namespace server {

class Request;
struct Value;

struct TextFunctions {
    // What call() takes; null for an unknown name, or one that needs more than one argument.
    const void* (*find)(core::Slice name);
    // False: it failed, why has been logged. The value lives in the arena or is the argument. Null
    // instead of a request: what the location's settings could change is as by default.
    bool (*call)(core::Arena& arena, const core::LogContext& log, Request* request,
                 const void* function, core::Slice argument, Value& value);
};

inline const TextFunctions* text_functions = nullptr;

}  // namespace server
