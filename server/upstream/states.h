// What is remembered of a request's upstream exchanges, for the $upstream_* variables and for
// scripts: one entry for each try, over internal redirects. Written by upstream/session, shown by
// upstream/modules/upstream.cpp.
#pragma once

#include <cstdint>

#include "core/slice.h"

namespace core {
class LogLine;
}

namespace server {

class HeaderList;
class Request;
class UpstreamSession;

struct UpstreamState {
    core::Slice peer;                // "127.0.0.1:80"; null data: a mark between two exchanges
    int status = 0;
    int64_t connect_ms = -1, header_ms = -1, response_ms = -1;
    int64_t response_bytes = 0, bytes_received = 0, bytes_sent = 0;
    UpstreamState* next = nullptr;
};

struct UpstreamRecord {
    UpstreamState* first = nullptr;
    UpstreamState* last = nullptr;
    UpstreamSession* session = nullptr;          // of the latest exchange
    const HeaderList* fields = nullptr;          // of its response
    const HeaderList* trailers = nullptr;
    core::Slice scheme = "http://";              // what log lines show: scheme, peer, uri
    core::Slice peer, uri;
    core::Slice server_name;                     // $upstream_last_server_name
    core::Slice group;
    bool active = false;                         // log lines name the upstream
};

// The request's record, made on first use; null when there was no exchange.
UpstreamRecord& upstream_record(Request& request);
UpstreamRecord* find_upstream_record(const Request& request);
UpstreamState& add_upstream_state(Request& request);

// For the request's log lines: `, upstream: "http://127.0.0.1:80/uri"` while one is asked.
void describe_upstream(const Request& request, core::LogLine& line);

}  // namespace server
