// Taking a target apart and starting a session there.
#include "server/upstream/target.h"

#include <algorithm>
#include <iterator>

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

conf::Result<void> read_next_upstream(conf::Setting<conf::Choices<NextUpstream>>& to,
                                      const conf::Line& line) {
    if (to.is_set) return conf::Error{"is duplicate"};
    struct Word { core::Slice text; NextUpstream bit; };
    static constexpr Word words[] = {{"error", NextUpstream::error},
                                     {"timeout", NextUpstream::timeout},
                                     {"invalid_response", NextUpstream::invalid_header},
                                     {"not_found", NextUpstream::http_404},
                                     {"off", NextUpstream::off}};
    uint32_t bits = 0;
    for (const std::string& given : line.node.args) {
        const Word* word = std::find_if(std::begin(words), std::end(words),
                                        [&](const Word& known) { return known.text == given; });
        if (word == std::end(words)) return conf::invalid_value(given);
        bits |= uint32_t(word->bit);
    }
    to.set(conf::Choices<NextUpstream>(bits));
    return {};
}

}  // namespace server
