// Building upstream requests and taking over upstream responses.
#include "server/http/modules/proxy_parts.h"

#include <unistd.h>

#include <algorithm>

#include "core/clock.h"
#include "core/text.h"
#include "server/http/escape.h"

namespace server {

using core::Error;
using core::Slice;

namespace {

// Fields of the client that say something about its own connection, or that we say ourselves.
constexpr HeaderId not_passed[] = {
    HeaderId::host, HeaderId::connection, HeaderId::proxy_connection, HeaderId::content_length,
    HeaderId::transfer_encoding, HeaderId::te, HeaderId::keep_alive, HeaderId::expect,
    HeaderId::upgrade,
};

constexpr Slice hidden_fields[] = {
    "Date", "Server", "X-Pad", "X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate",
    "X-Accel-Buffering", "X-Accel-Charset",
};

bool contains(const std::vector<std::string>& names, Slice name) {
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& known) { return core::iequals(known, name); });
}

bool is_set_by_us(const ProxyConf& conf, const Header& field) {
    if (std::find(std::begin(not_passed), std::end(not_passed), field.id) != std::end(not_passed) &&
        field.id != HeaderId::other) {
        return true;
    }
    return std::any_of(conf.set_fields.begin(), conf.set_fields.end(), [&](const ProxyField& own) {
        return core::iequals(own.name, field.name);
    });
}

const ProxyField* find_field(const ProxyConf& conf, Slice name) {
    for (const ProxyField& field : conf.set_fields) {
        if (core::iequals(field.name, name)) return &field;
    }
    return nullptr;
}

void put_field(core::Chain& to, Slice name, Slice value) {
    if (value.empty()) return;
    to.add_copy(name);
    to.add_copy(": ");
    to.add_copy(value);
    to.add_copy("\r\n");
}

// The URI asked for upstream: the client's own when nothing changed it, else the normalised path,
// escaped again; with the location's prefix replaced when proxy_pass has a URI part.
Slice upstream_uri(Request& request, const ProxyTarget& target, Slice part) {
    bool variable = !target.fixed;
    if (variable && !part.empty()) return request.arena.copy(part);
    if (part.empty() && request.plain_uri && !request.parent && !request.internal) {
        return request.head.target;
    }
    Slice path = request.uri;
    if (!part.empty()) path.remove_prefix(std::min(target.location.size(), path.size()));
    Slice escaped = escape_uri(request.arena, path);
    core::Appender uri(request.arena, part.size() + escaped.size() + request.args.size() + 2);
    uri.append(part);
    uri.append(escaped);
    if (uri.size() == 0) uri.append('/');
    if (!request.args.empty()) {
        uri.append('?');
        uri.append(request.args);
    }
    return uri.take();
}

void add_request_body(Request& request, core::Chain& to) {
    if (int fd = request.body.file_fd(); fd >= 0) {
        if (request.body.size() > 0) {
            to.add_file(core::OpenFile::adopt(::dup(fd)), 0, request.body.size());
        }
        return;
    }
    for (core::Buffer* at = request.body.buffers().head(); at; at = at->next) {
        if (at->owner) at->owner->hold();
        to.add(at->text(), at->owner);
    }
}

Slice rewrite_redirect(Request& request, const ProxyConf& conf, const ProxyUrl& url, Slice value) {
    if (conf.redirect_off) return value;
    auto replace = [&](Slice from, Slice to) {
        if (from.empty() || value.substr(0, from.size()) != from) return false;
        core::Appender text(request.arena, to.size() + value.size());
        text.append(to);
        text.append(value.substr(from.size()));
        value = text.take();
        return true;
    };
    for (const ProxyRedirect& rule : conf.redirects) {
        if (replace(rule.from.evaluate(request), rule.to.evaluate(request))) return value;
    }
    if (conf.redirect_set || !conf.target.fixed) return value;
    std::string from = "http://" + url.host_port + url.path;
    Slice to = url.path.empty() ? Slice("/") : Slice(conf.target.location);
    if (url.path.empty()) from += "/";
    replace(from, to);
    return value;
}

}  // namespace

core::Result<ProxyUrl> parse_proxy_url(Slice text) {
    if (core::istarts_with(text, "https://")) {
        return Error{"https protocol requires SSL support"};
    }
    if (!core::istarts_with(text, "http://")) return Error{"invalid URL prefix"};
    text.remove_prefix(7);
    ProxyUrl url;
    if (text.substr(0, 5) == "unix:") {
        size_t end = text.find(':', 5);
        url.target.is_unix = true;
        url.target.host = text.substr(5, end == Slice::npos ? Slice::npos : end - 5);
        url.host_port = "localhost";
        if (end != Slice::npos) url.path = text.substr(end + 1);
        if (url.target.host.empty()) return Error{"no path in the unix domain socket"};
        return url;
    }
    size_t end = std::min(text.find_first_of("/?"), text.size());
    Slice authority = text.substr(0, end);
    url.path = text.substr(end);
    auto named = core::parse_host_port(authority);
    if (!named) {
        return Error{named.error().what + " in upstream \"" + std::string(authority) + "\""};
    }
    if (named->host.empty()) return Error{"no host in upstream \"" + std::string(authority) + "\""};
    url.target.host = named->host;
    url.target.port = named->port ? named->port : 80;
    url.host_port = authority;
    if (named->port == 80) url.host_port.resize(url.host_port.rfind(':'));
    return url;
}

core::Result<ProxyUrl> ProxyTarget::resolve(Request& request) const {
    if (fixed) {
        ProxyUrl url = *fixed;
        url.uri = upstream_uri(request, *this, url.path);
        return url;
    }
    auto url = parse_proxy_url(text.evaluate(request));
    if (url) url->uri = upstream_uri(request, *this, url->path);
    return url;
}

core::Chain make_proxy_request(Request& request, const ProxyConf& conf, const ProxyUrl& url) {
    core::Chain to;
    Slice method = conf.method.is_set ? conf.method->evaluate(request) : request.head.method_name;
    to.add_copy(method);
    to.add_copy(" ");
    to.add_copy(url.uri);
    to.add_copy(*conf.http_version == ProxyVersion::http_1_0 ? " HTTP/1.0\r\n" : " HTTP/1.1\r\n");
    if (!find_field(conf, "Host")) put_field(to, "Host", url.host_port);
    if (!find_field(conf, "Connection")) put_field(to, "Connection", "close");
    bool has_body = conf.pass_request_body && request.body.complete();
    Slice body = conf.body.is_set ? conf.body->evaluate(request) : Slice{};
    int64_t size = conf.body.is_set ? int64_t(body.size()) : has_body ? request.body.size() : 0;
    bool says_length = conf.body.is_set || size > 0 ||
                       (has_body && request.headers.has(HeaderId::content_length));
    if (says_length && !find_field(conf, "Content-Length")) {
        char digits[24];
        put_field(to, "Content-Length", core::format_number(size, digits));
    }
    for (const ProxyField& field : conf.set_fields) {
        put_field(to, field.name, field.value.evaluate(request));
    }
    if (conf.pass_request_headers) {
        for (const Header& field : request.headers) {
            if (field.removed || is_set_by_us(conf, field)) continue;
            put_field(to, field.name, field.value);
        }
    }
    to.add_copy("\r\n");
    if (conf.body.is_set) {
        to.add_copy(body);
    } else if (has_body) {
        add_request_body(request, to);
    }
    return to;
}

void take_response_fields(Request& request, const ProxyConf& conf, const HeaderList& fields,
                          const ProxyUrl& url) {
    Response& response = request.response;
    for (const Header& field : fields) {
        bool hidden = std::any_of(std::begin(hidden_fields), std::end(hidden_fields),
                                  [&](Slice name) { return core::iequals(name, field.name); });
        if (contains(conf.hide_fields, field.name)) hidden = true;
        if (contains(conf.pass_fields, field.name)) hidden = false;
        if (hidden) continue;
        switch (field.id) {
            case HeaderId::connection:
            case HeaderId::keep_alive:
            case HeaderId::proxy_connection:
            case HeaderId::transfer_encoding: break;
            case HeaderId::content_type: response.content_type = field.value; break;
            case HeaderId::content_length: {
                auto length = core::parse_number(field.value);
                response.content_length = length ? int64_t(*length) : -1;
                break;
            }
            case HeaderId::last_modified:
                response.last_modified = core::parse_http_date(field.value);
                break;
            case HeaderId::etag: response.etag = field.value; break;
            case HeaderId::location:
                response.location = rewrite_redirect(request, conf, url, field.value);
                break;
            case HeaderId::date: response.date_given = true; [[fallthrough]];
            case HeaderId::server:
                if (field.id == HeaderId::server) response.server_given = true;
                [[fallthrough]];
            default: response.headers.add(field.name, field.value, field.id);
        }
    }
    response.default_type = response.content_type;
    response.content_type_cleared = response.content_type.empty();
}

bool has_error_page(const Request& request, int status) {
    const auto& pages = request.core().error_pages;
    if (!pages) return false;
    return std::any_of(pages->begin(), pages->end(),
                       [&](const ErrorPage& page) { return page.status == status; });
}

}  // namespace server
