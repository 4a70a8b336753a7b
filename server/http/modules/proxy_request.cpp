// Building upstream requests: the URI, the fields, the body.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/text.h"
#include "server/http/escape.h"
#include "server/http/modules/proxy.h"

namespace server {

using core::Error;
using core::Slice;

namespace {

// Fields of the client that say something about its own connection, or that we say ourselves.
constexpr Slice own_fields[] = {
    "Host", "Connection", "Proxy-Connection", "Content-Length", "Transfer-Encoding", "TE",
    "Keep-Alive", "Expect", "Upgrade",
};
constexpr Slice hidden_fields[] = {
    "Date", "Server", "X-Pad", "X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate",
    "X-Accel-Buffering", "X-Accel-Charset",
};

const ProxyField* find_field(const ProxyConf& conf, HeaderId id) {
    for (const ProxyField& field : conf.set_fields) {
        if (field.id == id) return &field;
    }
    return nullptr;
}

// Writes into the room of one chunk, or of the request's arena when that is too small.
class HeadText {
  public:
    HeadText(Request& request, core::Chain& to, size_t size) : chain_(to) {
        in_chunk_ = size <= core::Chunk::capacity;
        start_ = at_ = in_chunk_ ? to.reserve(size) : request.arena.bytes(size);
    }
    void put(Slice text) {
        std::memcpy(at_, text.data(), text.size());
        at_ += text.size();
    }
    void field(Slice name, Slice value) {
        put(name);
        put(": ");
        put(value);
        put("\r\n");
    }
    void done() {
        if (in_chunk_) chain_.commit(size_t(at_ - start_));
        else chain_.add_from_request({start_, size_t(at_ - start_)});
    }

  private:
    core::Chain& chain_;
    bool in_chunk_;
    char* start_;
    char* at_;
};

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

// What is said of the body: its length, or that it comes in chunks.
struct BodyFraming {
    Slice body;                      // of proxy_set_body
    int64_t length = -1;             // -1: nothing is said
    bool chunked = false;
    bool passed = false;             // the client's
};

BodyFraming framing_of(Request& request, const ProxyConf& conf, const ProxyRequest& what) {
    BodyFraming framing;
    if (conf.body.is_set) {
        framing.body = conf.body->evaluate(request);
        framing.length = int64_t(framing.body.size());
    } else if (what.streams_body) {
        framing.chunked = what.chunked;
        if (!what.chunked) framing.length = request.body.content_length;
    } else if (conf.pass_request_body && request.body.complete()) {
        framing.passed = true;
        bool said = request.body.size() > 0 || request.headers.has(HeaderId::content_length);
        if (said) framing.length = request.body.size();
    }
    return framing;
}

}  // namespace

void FieldSet::add(Slice name) {
    HeaderId id = header_id(name);
    if (id == HeaderId::other) {
        others.emplace_back(name);
    } else {
        ids[size_t(id) / 64] |= 1ull << (size_t(id) % 64);
    }
}

void FieldSet::remove(Slice name) {
    HeaderId id = header_id(name);
    if (id != HeaderId::other) ids[size_t(id) / 64] &= ~(1ull << (size_t(id) % 64));
    std::erase_if(others, [&](const std::string& known) { return core::iequals(known, name); });
}

bool FieldSet::has(const Header& field) const {
    if (field.id != HeaderId::other) {
        return (ids[size_t(field.id) / 64] >> (size_t(field.id) % 64)) & 1;
    }
    for (const std::string& name : others) {
        if (core::iequals(name, field.name)) return true;
    }
    return false;
}

void ProxyConf::derive() {
    not_passed = hidden = {};
    for (Slice name : own_fields) not_passed.add(name);
    for (const ProxyField& field : set_fields) not_passed.add(field.name);
    for (Slice name : hidden_fields) hidden.add(name);
    for (const std::string& name : hide_fields) hidden.add(name);
    for (const std::string& name : pass_fields) hidden.remove(name);
    sets_host = find_field(*this, HeaderId::host) != nullptr;
}

bool asks_upgrade(Request& request, const ProxyConf& conf) {
    const ProxyField* field = find_field(conf, HeaderId::upgrade);
    return field && !field->value.evaluate(request).empty();
}

core::Result<ProxyUrl> parse_proxy_url(Slice text) {
    ProxyUrl url;
    if (core::istarts_with(text, "https://")) {
        url.tls = true;
        url.scheme = "https://";
        url.port = 443;
    } else if (!core::istarts_with(text, "http://")) {
        return Error{"invalid URL prefix"};
    }
    int default_port = url.port;
    text.remove_prefix(url.scheme.size());
    if (text.starts_with("unix:")) {
        size_t end = text.find(':', 5);
        url.is_unix = true;
        url.host = text.substr(5, end == Slice::npos ? Slice::npos : end - 5);
        url.host_port = "localhost";
        if (end != Slice::npos) url.path = text.substr(end + 1);
        if (url.host.empty()) return Error{"no path in the unix domain socket"};
        return url;
    }
    size_t end = std::min(text.find_first_of("/?"), text.size());
    Slice authority = text.substr(0, end);
    url.path = text.substr(end);
    auto named = core::parse_host_port(authority);
    if (!named) {
        return Error{named.error().what + " in upstream \"" + std::string(authority) + "\""};
    }
    url.no_port = named->port == 0;
    if (named->port) url.port = named->port;
    url.host = authority;
    if (size_t colon = authority.rfind(':'); !url.no_port) url.host = authority.substr(0, colon);
    if (url.host.empty()) return Error{"no host in upstream \"" + std::string(authority) + "\""};
    url.host_port = named->port == default_port ? url.host : authority;
    if (url.host.starts_with('[') && url.host.ends_with(']')) {
        url.host = url.host.substr(1, url.host.size() - 2);
    }
    return url;
}

// The client's own when nothing changed it, else the normalised path, escaped again; with the
// location's prefix replaced when proxy_pass has a URI part.
Slice proxy_uri(Request& request, const ProxyTarget& target, const ProxyUrl& url) {
    Slice part = url.path;
    if (!target.is_fixed && !part.empty()) {
        if (part[0] != '?') return part;
        core::Appender uri(request.arena, part.size() + 1);
        uri.append('/');
        uri.append(part);
        return uri.take();
    }
    if (part.empty() && request.plain_uri && !request.parent && !request.internal &&
        request.head.target.starts_with('/')) {
        return request.head.target;
    }
    Slice path = request.uri;
    if (!part.empty()) path.remove_prefix(std::min(target.location.size(), path.size()));
    Slice escaped = escape_uri(request.arena, path);
    core::Appender uri(request.arena, part.size() + escaped.size() + request.args.size() + 2);
    if (!part.starts_with('/') && !part.empty()) uri.append('/');
    uri.append(part);
    uri.append(escaped);
    if (uri.size() == 0) uri.append('/');
    if (!request.args.empty()) {
        uri.append('?');
        uri.append(request.args);
    }
    return uri.take();
}

bool make_proxy_request(Request& request, const ProxyConf& conf, const ProxyRequest& what,
                        core::Chain& to) {
    constexpr size_t few_max = 32;
    Slice few[few_max];
    size_t count = conf.set_fields.size();
    Slice* values = count <= few_max ? few : request.arena.make_array<Slice>(count);
    BodyFraming framing = framing_of(request, conf, what);
    Slice host = what.url->host_port;
    size_t size = what.method.size() + what.uri.size() + host.size() + framing.body.size() + 160;
    for (size_t i = 0; i < count; ++i) {
        values[i] = conf.set_fields[i].value.evaluate(request);
        size += conf.set_fields[i].name.size() + values[i].size() + 4;
    }
    if (conf.pass_request_headers) {
        for (const Header& field : request.headers) {
            size += field.name.size() + field.value.size() + 4;
        }
    }
    HeadText out(request, to, size);
    out.put(what.method);
    out.put(" ");
    out.put(what.uri);
    bool http_1_0 = *conf.http_version == ProxyVersion::http_1_0;
    out.put(http_1_0 ? Slice(" HTTP/1.0\r\n") : Slice(" HTTP/1.1\r\n"));
    bool host_said = false, length_said = false, coding_said = false;
    for (size_t i = 0; i < count; ++i) {
        const ProxyField& field = conf.set_fields[i];
        host_said |= field.id == HeaderId::host && (!values[i].empty() || http_1_0);
        length_said |= field.id == HeaderId::content_length;
        coding_said |= field.id == HeaderId::transfer_encoding;
    }
    if (!host_said) out.field("Host", host);
    if (framing.length >= 0 && !length_said) {
        char digits[24];
        out.field("Content-Length", core::format_number(framing.length, digits));
    }
    if (framing.chunked && !coding_said) out.field("Transfer-Encoding", "chunked");
    for (size_t i = 0; i < count; ++i) {
        if (!values[i].empty()) out.field(conf.set_fields[i].name, values[i]);
    }
    if (conf.pass_request_headers) {
        for (const Header& field : request.headers) {
            if (!field.removed && !conf.not_passed.has(field)) out.field(field.name, field.value);
        }
    }
    out.put("\r\n");
    out.put(framing.body);
    out.done();
    if (framing.passed) add_request_body(request, to);
    return true;
}

}  // namespace server
