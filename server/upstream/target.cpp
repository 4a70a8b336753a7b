// Taking a target apart and starting a session there.
#include "server/upstream/target.h"

#include "server/upstream/session.h"

namespace server {

Verdict start_at(UpstreamSession& session, core::Slice target) {
    Request& request = session.request();
    auto where = core::parse_host_port(target);
    if (!where) {
        LOG(request.log, error, 0, "%s in upstream \"%.*s\"", where.error().what.c_str(),
            int(target.size()), target.data());
        return Verdict::reject(500);
    }
    if (!where->is_unix) {
        UpstreamGroup* group = upstream_groups().find(where->host, where->port);
        if (group) return session.start(*group);
        if (where->port == 0) {
            LOG(request.log, error, 0, "no port in upstream \"%.*s\"", int(target.size()),
                target.data());
            return Verdict::reject(500);
        }
    }
    core::Slice host = request.arena.copy(where->host);
    return session.start(UpstreamHost{host, where->port, where->is_unix});
}

}  // namespace server
