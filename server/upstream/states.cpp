// The record of a request's upstream exchanges. Its slot in the request is the upstream module's.
#include "server/upstream/states.h"

#include "core/log.h"
#include "server/http/request.h"

namespace server {

extern const Module upstream;

UpstreamRecord* find_upstream_record(const Request& request) {
    return request.state<UpstreamRecord>(upstream);
}

UpstreamRecord& upstream_record(Request& request) {
    return request.need_state<UpstreamRecord>(upstream);
}

UpstreamState& add_upstream_state(Request& request) {
    UpstreamRecord& record = upstream_record(request);
    auto* state = request.arena.make<UpstreamState>();
    if (record.last) record.last->next = state;
    else record.first = state;
    record.last = state;
    return *state;
}

void describe_upstream(const Request& request, core::LogLine& line) {
    const UpstreamRecord* record = find_upstream_record(request);
    if (!record || !record->active) return;
    line.append(", upstream: \"");
    line.append(record->scheme);
    line.append(record->peer.data() ? record->peer : record->group);
    if (record->peer.starts_with("unix:")) line.append(":");
    line.append_escaped(record->uri);
    line.append("\"");
}

}  // namespace server
