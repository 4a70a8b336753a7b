// The phase engine: building the arrays of steps, and Request::resume(), the only function that
// advances a request through them. See phases.md for the chart.
#include "server/http/phases.h"

#include <algorithm>
#include <cstring>

#include "server/http/core_conf.h"
#include "server/http/endings.h"
#include "server/http/request.h"
#include "server/http/router.h"

namespace server {

namespace {

struct Candidate {
    const PhaseHandler* handler;
    const Module* module;
};

std::vector<Candidate> handlers_in_order() {
    std::vector<Candidate> all;
    for (const Module* module : modules()) {
        for (const PhaseHandler& handler : module->handlers) all.push_back({&handler, module});
    }
    std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
        if (a.handler->phase != b.handler->phase) return a.handler->phase < b.handler->phase;
        return a.handler->rank < b.handler->rank;
    });
    return all;
}

bool is_active(const Candidate& candidate, void* const* confs) {
    auto active = candidate.handler->active;
    return !active || active(confs[candidate.module->index]);
}

void close_phases(std::vector<Step>& steps) {
    uint16_t end = uint16_t(steps.size());
    for (size_t i = steps.size(); i-- > 0;) {
        if (i + 1 < steps.size() && steps[i].phase != steps[i + 1].phase) end = uint16_t(i + 1);
        steps[i].phase_end = end;
    }
}

void add_phase(std::vector<Step>& steps, Phase phase, const std::vector<Candidate>& all,
               void* const* confs) {
    for (const Candidate& candidate : all) {
        if (candidate.handler->phase == phase && is_active(candidate, confs)) {
            steps.push_back({candidate.handler->run, phase, 0});
        }
    }
}

// --- steps of the engine's own ---

Verdict route(Request& request) {
    Verdict verdict = find_config(request);
    if (verdict.is(Verdict::rejected) || verdict.is(Verdict::redirected)) return verdict;
    request.use_location_log();
    request.steps = request.location->steps.data();
    request.cursor = 0;
    return Verdict::redirect();
}

Verdict post_rewrite(Request& request) {
    if (!request.uri_changed) return Verdict::decline();
    if (--request.uri_changes_left == 0) {
        LOG(request.log, error, 0,
            "rewrite or internal redirection cycle while processing \"%.*s\"",
            int(request.uri.size()), request.uri.data());
        return Verdict::reject(500);
    }
    request.uri_changed = false;
    request.location = &request.server->root;
    return route(request);
}

Verdict post_access(Request& request) {
    int status = std::exchange(request.access_status, uint16_t(0));
    if (status == 0) return Verdict::decline();
    if (status == 403) LOG(request.log, error, 0, "access forbidden by rule");
    return Verdict::reject(status);
}

// The content phase's last step: nobody had an answer.
Verdict no_content(Request& request) {
    if (!request.uri.empty() && request.uri.back() == '/') {
        core::Slice path = file_path(request, request.uri);
        if (path.data()) {
            LOG(request.log, error, 0, "directory index of \"%.*s\" is forbidden", int(path.size()),
                path.data());
        }
        return Verdict::reject(403);
    }
    LOG(request.log, error, 0, "no handler found");
    return Verdict::reject(404);
}

void build_location(Location& location, const std::vector<Candidate>& all) {
    void* const* confs = location.level->all();
    location.confs = confs;
    location.core = static_cast<const CoreConf*>(confs[http_core.index]);
    auto& steps = location.steps;
    steps.clear();
    add_phase(steps, Phase::rewrite, all, confs);
    steps.push_back({post_rewrite, Phase::post_rewrite, 0});
    add_phase(steps, Phase::preaccess, all, confs);
    size_t before = steps.size();
    add_phase(steps, Phase::access, all, confs);
    if (steps.size() > before) steps.push_back({post_access, Phase::post_access, 0});
    add_phase(steps, Phase::precontent, all, confs);
    if (location.content_handler) {
        steps.push_back({location.content_handler, Phase::content, 0});
    } else {
        add_phase(steps, Phase::content, all, confs);
        steps.push_back({no_content, Phase::content, 0});
    }
    close_phases(steps);
    location.log_steps.clear();
    add_phase(location.log_steps, Phase::log, all, confs);
}

void build_filters(Location& location) {
    location.header_filters.clear();
    for (int slot = 0; slot < int(FilterSlot::count); ++slot) {
        for (const Module* module : modules()) {
            for (const Filter& filter : module->filters) {
                if (int(filter.slot) != slot || !filter.header) continue;
                if (filter.active && !filter.active(location.confs[module->index])) continue;
                location.header_filters.push_back({filter.slot, filter.header});
            }
        }
    }
}

void build_server(VirtualServer& server, const std::vector<Candidate>& all) {
    build_location(server.root, all);
    build_filters(server.root);
    auto& steps = server.entry_steps;
    steps.clear();
    add_phase(steps, Phase::post_read, all, server.root.confs);
    add_phase(steps, Phase::server_rewrite, all, server.root.confs);
    steps.push_back({route, Phase::find_config, 0});
    close_phases(steps);
}

}  // namespace

void build_steps(Configuration& configuration) {
    auto all = handlers_in_order();
    for (auto& server : configuration.servers) build_server(*server, all);
    for (Location* location : configuration.locations) {
        build_location(*location, all);
        build_filters(*location);
    }
}

void Request::restart(const Step* first, uint16_t at) {
    steps = first;
    cursor = at;
}

void Request::start() {
    location = &server->root;
    restart(server->entry_steps.data(), 0);
    resume(Verdict::redirect());
}

void Request::resume(Verdict verdict) {
    if (done || finishing_) return;
    resuming_ = true;
    while (!verdict.is(Verdict::suspended)) {
        if (verdict.is(Verdict::finished)) {
            resuming_ = false;
            return finish();
        }
        verdict = step(verdict);
    }
    resuming_ = false;
}

// Moves the cursor by the verdict of the step it stands on, and runs the step it then stands on.
// The answer is that step's verdict.
Verdict Request::step(Verdict verdict) {
    switch (verdict.kind) {
        case Verdict::declined: ++cursor; break;
        case Verdict::passed:
            if (phase == Phase::access && satisfied(verdict).is(Verdict::declined)) {
                ++cursor;
            } else {
                cursor = steps[cursor].phase_end;
            }
            break;
        case Verdict::rejected: {
            verdict = phase == Phase::access ? satisfied(verdict) : verdict;
            if (verdict.is(Verdict::declined)) {
                ++cursor;
                break;
            }
            if (verdict.status == 401 && core().auth_delay->count > 0 &&
                (phase == Phase::access || phase == Phase::post_access)) {
                return delay_unauthorized(*this);
            }
            return reject(verdict.status);
        }
        case Verdict::redirected: break;
        case Verdict::suspended:
        case Verdict::finished: return verdict;
    }
    const Step& next = steps[cursor];
    phase = next.phase;
    if (phase == Phase::access && parent) {     // a subrequest's access is its parent's
        cursor = next.phase_end;
        phase = steps[cursor].phase;
        if (phase == Phase::post_access) phase = steps[++cursor].phase;
    }
    TRACE(log, "phase %d step %d", int(phase), int(cursor));
    return steps[cursor].run(*this);
}

// The satisfy rule. declined: ask the next access handler; anything else is final.
Verdict Request::satisfied(Verdict verdict) {
    if (core().satisfy == Satisfy::all) {
        return verdict.is(Verdict::passed) ? Verdict::decline() : verdict;
    }
    if (verdict.is(Verdict::passed)) {
        access_status = 0;
        return verdict;
    }
    if (verdict.status != 401 && verdict.status != 403) return verdict;
    if (access_status != 401) access_status = verdict.status;
    return Verdict::decline();
}

namespace {

uint16_t first_after_post_read(const VirtualServer& server) {
    uint16_t at = 0;
    while (server.entry_steps[at].phase == Phase::post_read) ++at;
    return at;
}

}  // namespace

Verdict Request::internal_redirect(core::Slice new_uri, core::Slice new_args) {
    if (--uri_changes_left == 0) {
        LOG(log, error, 0,
            "rewrite or internal redirection cycle while internally redirecting to \"%.*s\"",
            int(new_uri.size()), new_uri.data());
        return Verdict::reject(500);
    }
    set_uri(new_uri);
    args = new_args;
    plain_uri = false;
    uri_changed = false;
    internal = true;
    clear_states();
    location = &server->root;
    restart(server->entry_steps.data(), first_after_post_read(*server));
    return Verdict::redirect();
}

Verdict Request::named_location(core::Slice name) {
    if (--uri_changes_left == 0) {
        LOG(log, error, 0,
            "rewrite or internal redirection cycle while redirect to named location \"%.*s\"",
            int(name.size()), name.data());
        return Verdict::reject(500);
    }
    if (uri.empty()) {
        LOG(log, error, 0, "empty URI in redirect to named location \"%.*s\"", int(name.size()),
            name.data());
        return Verdict::reject(500);
    }
    for (auto& candidate : server->named) {
        core::Slice own = candidate->name;
        if (own.substr(1) != name.substr(name.starts_with('@') ? 1 : 0)) continue;
        internal = true;
        uri_changed = false;
        clear_states();
        location = candidate.get();
        use_location_log();
        restart(candidate->steps.data(), 0);
        return Verdict::redirect();
    }
    LOG(log, error, 0, "could not find named location \"%.*s\"", int(name.size()), name.data());
    return Verdict::reject(500);
}

void Request::set_uri(core::Slice new_uri) {
    uri = new_uri;
    extension = {};
    for (size_t i = new_uri.size(); i-- > 0 && new_uri[i] != '/';) {
        if (new_uri[i] == '.') {
            extension = new_uri.substr(i + 1);
            break;
        }
    }
}

}  // namespace server
