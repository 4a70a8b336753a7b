// Fields that live in members of Response are set there. Called by headers_more and scripts.
#include "server/http/response_fields.h"

#include "core/clock.h"
#include "core/text.h"
#include "server/http/request.h"

namespace server {

namespace {

// "text/html; charset=utf-8" is taken apart, so that filters know the charset.
void set_content_type(Response& response, core::Slice value) {
    response.content_type = value;
    response.content_type_cleared = value.empty();
    response.charset = {};
    size_t semicolon = value.find(';');
    if (semicolon == core::Slice::npos) return;
    core::Slice rest = core::trim(value.substr(semicolon + 1));
    constexpr core::Slice parameter = "charset=";
    if (!core::istarts_with(rest, parameter)) return;
    rest.remove_prefix(parameter.size());
    if (rest.starts_with('"')) rest.remove_prefix(1);
    if (rest.ends_with('"')) rest.remove_suffix(1);
    response.content_type = value.substr(0, semicolon);
    response.charset = rest;
}

void set_last_modified(Response& response, core::Slice value) {
    response.headers.remove(HeaderId::last_modified);
    response.last_modified = value.empty() ? -1 : core::parse_http_date(value);
    if (response.last_modified == -1 && !value.empty()) {
        response.headers.add("Last-Modified", value, HeaderId::last_modified);
    }
}

bool set_content_length(Response& response, core::Slice value) {
    if (value.empty()) {
        response.content_length = -1;
        return true;
    }
    auto length = core::parse_number(value);
    if (!length) return false;
    response.content_length = int64_t(*length);
    return true;
}

// The name of a field that is kept in a member.
constexpr HeaderId members[] = {
    HeaderId::content_type, HeaderId::content_length, HeaderId::last_modified, HeaderId::etag,
    HeaderId::location,     HeaderId::server,         HeaderId::date,
    HeaderId::accept_ranges,
};

}  // namespace

bool set_response_field(Response& response, core::Slice name, core::Slice value) {
    HeaderId id = header_id(name);
    switch (id) {
    case HeaderId::content_type: set_content_type(response, value); return true;
    case HeaderId::content_length: return set_content_length(response, value);
    case HeaderId::last_modified: set_last_modified(response, value); return true;
    case HeaderId::etag: response.etag = value; return true;
    case HeaderId::location: response.location = value; return true;
    case HeaderId::server: response.server_given = true; break;
    case HeaderId::date: response.date_given = true; break;
    case HeaderId::accept_ranges:
        if (value.empty()) response.allow_ranges = false;
        break;
    default: break;
    }
    if (value.empty()) {
        response.headers.remove(name);
    } else {
        response.headers.set(name, value);
    }
    return true;
}

void clear_response_fields(Response& response, core::Slice prefix) {
    for (HeaderId id : members) {
        if (core::istarts_with(header_name(id), prefix)) {
            set_response_field(response, header_name(id), {});
        }
    }
    for (Header& field : response.headers) {
        if (core::istarts_with(field.name, prefix)) field.removed = true;
    }
}

}  // namespace server
