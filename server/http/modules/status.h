// What the parts of the status module share: status.cpp answers, status_requests.cpp counts.
#pragma once

#include <optional>
#include <string>

#include "conf/values.h"
#include "core/histogram.h"
#include "server/http/request.h"
#include "server/metrics_page.h"

namespace server {

struct StatusConf {
    std::optional<MetricsPage::Format> format;       // of resty_status; nothing: by the request
    // status_zone
    conf::Setting<std::string> server_zone{""};      // empty: the server's name
    conf::Setting<std::string> location_zone{""};    // empty: none
    mutable core::Counter* location_row = nullptr;   // this worker's
};

extern const Module status_module;

// Begins to count requests in this worker, for every server and location with a zone.
void open_request_rows(Configuration& configuration);
// The handler of the log phase.
Verdict count_request(Request& request);

}  // namespace server
