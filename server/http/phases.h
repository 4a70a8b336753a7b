// The phase engine's load-time side: turns handlers into flat arrays of steps, one for each server
// (post_read … find_config) and one for each location (rewrite … content). See phases.md.
#pragma once

namespace server {

class Configuration;

// After binding and inheritance. Also builds each location's header filters and log steps.
void build_steps(Configuration& configuration);

}  // namespace server
