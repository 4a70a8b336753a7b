// The rewrite script of a server or location: the steps of set, if, return, rewrite and break in
// the order in which they are written. Other modules' set_* directives (set_misc, set_by_lua) add
// steps of their own here, so that they run at their place among the others.
#pragma once

#include <cstdint>

#include "conf/binder.h"
#include "core/slice.h"
#include "server/module.h"

namespace server {

class Request;

// Computes the text that a step stores in its variable. `data` is what add_script_step() was
// given. False: the request ends with status 500 (the function has logged why). `value` must live
// as long as the request; it comes in empty, and left as not found the variable becomes not found.
using ScriptFunction = bool (*)(Request& request, const void* data, Value& value);

// While a directive is bound: appends a step to the script of the server, location or if block it
// stands in. `variable`: what the step stores to, as written ("$name"); defined when new; null data
// for a step without a variable. `data` must live as long as the configuration.
conf::Result<void> add_script_step(const conf::Line& line, core::Slice variable,
                                   ScriptFunction function, const void* data);

// For whoever makes a location: scripts are not inherited, so each level has its own.
void own_script(conf::Binder& binder, conf::Level& level);

// uninitialized_variable_warn, where the request is.
bool warns_uninitialized(const Request& request);

}  // namespace server
