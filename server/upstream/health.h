// Active health checks of a group: each of its servers is asked in turn whether it is well; one
// that fails gets no requests until it passes again. Runs in one worker for a group with a zone,
// in each worker otherwise. The directives are in upstream/modules/health_check.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/list.h"
#include "core/slice.h"
#include "core/timer.h"

namespace core {
class Regex;
}

namespace server {

class HealthProbe;
class HeaderList;
class UpstreamGroup;
class UpstreamTls;
struct Peer;

// match NAME { … }: what a good answer looks like.
struct HealthMatch {
    struct Statuses {
        int from = 200, to = 399;
    };
    struct Field {
        enum Test : uint8_t { present, absent, equal, not_equal, like, unlike };
        std::string name, value;
        Test test = present;
        std::shared_ptr<const core::Regex> pattern;
    };
    std::string name;
    std::vector<Statuses> statuses;      // none: any
    bool other_statuses = false;         // all but those
    std::vector<Field> fields;
    std::shared_ptr<const core::Regex> body;
    bool body_unlike = false;

    bool accepts(int status, const HeaderList& fields, core::Slice body) const;
};

struct HealthRule {
    int64_t interval_ms = 5000, jitter_ms = 0;
    int fails = 1, passes = 1;
    std::string uri = "/";
    int port = 0;                        // 0: the server's own
    bool mandatory = false;              // new servers wait for their first check
    bool tcp = false;                    // that it accepts connections is enough
    std::string match_name;
    HealthMatch match;
    // Of the location:
    int64_t connect_ms = 60000, read_ms = 60000;
    std::string host;
    std::shared_ptr<UpstreamTls> tls;    // null: plain
};

class HealthChecker {
  public:
    HealthChecker(UpstreamGroup& group, const HealthRule& rule);
    ~HealthChecker();
    void start();

    const HealthRule& rule() const { return rule_; }
    UpstreamGroup& group() { return group_; }
    // Called by a probe, from the loop; the probe is destroyed later.
    void passed(HealthProbe& probe);
    void failed(HealthProbe& probe, const char* why);

  private:
    void round();
    void set_mandatory();
    void end(HealthProbe& probe);

    UpstreamGroup& group_;
    const HealthRule& rule_;
    core::Timer timer_;
    core::List<HealthProbe> probes_;
    int running_ = 0;
};

}  // namespace server
