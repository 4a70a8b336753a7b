// The shape that map, split_clients and geo share: `NAME SUBJECT $variable { entries }`. A text
// with variables is looked up in a table; what is found there is the value of a new variable.
#pragma once

#include <string>

#include "conf/binder.h"
#include "server/http/variables.h"

namespace server {

// Reads the block: its subject (all arguments but the last), then every entry. The answer is the
// variable's name, without '$'.
conf::Result<std::string> read_lookup(const conf::Line& line, ComplexValue& subject,
                                      const conf::Binder::EntryReader& entry);

// Defines the variable; `get` is handed `table`, which must live as long as the configuration.
conf::Result<void> define_lookup(const std::string& name, decltype(Variable::get) get,
                                 const void* table, uint8_t flags = 0);

}  // namespace server
