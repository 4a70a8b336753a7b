// What may come between a handler's answer and the end of the request: the pause before a 401
// (auth_delay) and the request made after the response (post_action). Called by the phase engine.
#pragma once

#include "server/verdict.h"

namespace server {

class Request;

// Suspends the request; 401 is answered when auth_delay has passed.
Verdict delay_unauthorized(Request& request);

// A log handler: runs post_action's location, unseen by the client, before the request is logged.
Verdict run_post_action(Request& request);
bool has_post_action(const void* core_conf);

}  // namespace server
