// The registry of modules. Filled by static initialisers, fixed on first use.
#include "server/module.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace server {

namespace {

struct Registry {
    std::vector<const Module*> modules;
    size_t request_states = 0;
    bool fixed = false;
};

// Made on first use: registrations run before main in no particular order.
Registry& registry() {
    static Registry& all = *new Registry;
    return all;
}

// A mistake in the build, found by whoever starts the program first.
[[noreturn]] void refuse(const char* name, const char* why) {
    std::fprintf(stderr, "module \"%s\" %s\n", name, why);
    std::abort();
}

void fix(Registry& all) {
    std::sort(all.modules.begin(), all.modules.end(), [](const Module* a, const Module* b) {
        return std::strcmp(a->name, b->name) < 0;
    });
    for (size_t i = 0; i < all.modules.size(); ++i) {
        const Module& module = *all.modules[i];
        if (i && !std::strcmp(all.modules[i - 1]->name, module.name)) {
            refuse(module.name, "is registered twice");
        }
        module.index = uint16_t(i);
        if (module.has_request_state) module.state_index = uint16_t(all.request_states++);
    }
    all.fixed = true;
}

Registry& fixed_registry() {
    Registry& all = registry();
    if (!all.fixed) fix(all);
    return all;
}

}  // namespace

ModuleRegistration::ModuleRegistration(const Module& module) {
    if (registry().fixed) refuse(module.name, "is registered too late");
    registry().modules.push_back(&module);
}

const std::vector<const Module*>& modules() { return fixed_registry().modules; }

size_t request_state_count() { return fixed_registry().request_states; }

}  // namespace server
