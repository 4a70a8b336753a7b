// Conditional requests (RFC 9110 13): 304 and 412. First header filter, for responses whose status
// is 200.
#include "core/clock.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/etag_match.h"
#include "server/http/request.h"

namespace server {

namespace {

bool modified_since(const Request& request, core::Slice value) {
    if (request.response.last_modified == -1) return true;
    IfModifiedSince rule = request.core().if_modified_since;
    if (rule == IfModifiedSince::off) return true;
    int64_t since = core::parse_http_date(value);
    if (since == request.response.last_modified) return false;
    return rule == IfModifiedSince::exact || since < request.response.last_modified;
}

bool unmodified_since(const Request& request, core::Slice value) {
    if (request.response.last_modified == -1) return false;
    return core::parse_http_date(value) >= request.response.last_modified;
}

bool precondition_fails(const Request& request) {
    if (const Header* field = request.headers.find(HeaderId::if_unmodified_since)) {
        if (!unmodified_since(request, field->value)) return true;
    }
    const Header* match = request.headers.find(HeaderId::if_match);
    return match && !etag_matches(match->value, request.response.etag, EtagStrength::strong);
}

void answer_not_modified(Request& request) {
    Response& response = request.response;
    response.status = 304;
    response.status_line = {};
    response.content_type = {};
    response.content_type_cleared = true;
    response.charset = {};
    response.content_length = -1;
    response.allow_ranges = false;
    response.headers.remove(HeaderId::content_encoding);
    request.header_only = true;
}

Verdict filter_header(Request& request) {
    if (request.response.status != 200 || request.parent ||
        request.response.disable_not_modified) {
        return Verdict::pass();
    }
    if (precondition_fails(request)) return Verdict::reject(412);
    const Header* since = request.headers.find(HeaderId::if_modified_since);
    const Header* none = request.headers.find(HeaderId::if_none_match);
    if (!since && !none) return Verdict::pass();
    if (since && modified_since(request, since->value)) return Verdict::pass();
    if (none && !etag_matches(none->value, request.response.etag, EtagStrength::weak)) {
        return Verdict::pass();
    }
    answer_not_modified(request);
    return Verdict::pass();
}

constexpr Filter filters[] = {{FilterSlot::not_modified, filter_header, nullptr}};

constinit const Module not_modified{.name = "not_modified", .filters = filters};
REGISTER_MODULE(not_modified);

}  // namespace

}  // namespace server
