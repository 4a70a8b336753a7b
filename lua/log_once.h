// Saying a thing once although every worker finds it out: marks in memory that the processes of a
// configuration share. Used by lua/sources.cpp and lua/handler_run.cpp. Marks are few; an old one
// may be forgotten, and its thing said again.
#pragma once

#include "core/slice.h"

namespace lua {

// In the master, before the workers of a configuration are forked: nothing has been said to them.
// Until then every process is on its own.
void share_marks();
// True for the first who asks with this text.
bool first_to_say(core::Slice text);

}  // namespace lua
