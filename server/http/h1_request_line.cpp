// The request line and the Host field of HTTP/1.
#include "server/http/h1_request_line.h"

#include <algorithm>
#include <array>

#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"
#include "server/http/uri.h"

namespace server {

namespace {

constexpr HeadError bad_line{400, "client sent invalid request"};
constexpr HeadError bad_version{505, "client sent invalid version"};
constexpr HeadError bad_host{400, "client sent invalid host header"};

// "HTTP/1.1" → 11. Minor versions above 1 are treated as 1.1 (RFC 9110 2.5).
HeadError parse_version(core::Slice text, int& version) {
    if (text == "HTTP/1.1") {
        version = 11;
        return {};
    }
    core::Slice protocol = text.substr(0, text.find('/'));
    if (protocol.size() == text.size()) return bad_line;
    core::Slice number = text.substr(protocol.size() + 1);
    bool shaped = number.size() == 3 && core::is_digit(number[0]) && number[1] == '.' &&
                  core::is_digit(number[2]);
    if (!shaped) return bad_line;
    if (protocol != "HTTP") return core::iequals(protocol, "HTTP") ? bad_line : bad_version;
    if (number[0] != '1') return bad_version;
    version = number[2] == '0' ? 10 : 11;
    return {};
}

enum HostByte : uint8_t { host_bad, host_plain, host_upper, host_dot };

// What a byte is in a registered name or an IPv4 address (RFC 3986 3.2.2).
constexpr std::array<uint8_t, 256> host_bytes = [] {
    std::array<uint8_t, 256> table{};
    for (int c = 'a'; c <= 'z'; ++c) table[size_t(c)] = host_plain;
    for (int c = '0'; c <= '9'; ++c) table[size_t(c)] = host_plain;
    for (int c = 'A'; c <= 'Z'; ++c) table[size_t(c)] = host_upper;
    for (char c : core::Slice("-_~%!$&'()*+;=")) table[uint8_t(c)] = host_plain;
    table['.'] = host_dot;
    return table;
}();

bool is_bracketed_address(core::Slice text) {
    if (text.size() < 4 || text.back() != ']') return false;
    for (char c : text.substr(1, text.size() - 2)) {
        if (core::hex_value(c) < 0 && c != ':' && c != '.') return false;
    }
    return true;
}

bool is_port(core::Slice text) {
    int value = 0;
    for (char c : text) {
        if (!core::is_digit(c)) return false;
        value = value * 10 + (c - '0');
        if (value > 65535) return false;
    }
    return true;
}

// "Example.com:80" into the lower-cased host without a final dot, and its port.
bool split_host(core::Arena& arena, core::Slice text, core::Slice& host, core::Slice& port) {
    size_t end = 0;
    bool upper = false;
    uint8_t before = host_plain;
    if (!text.empty() && text[0] == '[') {
        end = text.find(']') + 1;          // 0 when there is none
        if (!is_bracketed_address(text.substr(0, end))) return false;
        upper = true;
    } else {
        for (; end < text.size() && text[end] != ':'; ++end) {
            uint8_t kind = host_bytes[uint8_t(text[end])];
            if (kind == host_bad || (kind == host_dot && before == host_dot)) return false;
            upper |= kind == host_upper;
            before = kind;
        }
    }
    host = text.substr(0, end);
    port = {};
    if (end < text.size()) {
        if (text[end] != ':') return false;
        port = text.substr(end + 1);
        if (!is_port(port)) return false;
    }
    if (!host.empty() && host.back() == '.') host.remove_suffix(1);
    if (host.empty()) return false;
    if (upper) {
        char* lowered = arena.bytes(host.size());
        core::lower_into(lowered, host);
        host = {lowered, host.size()};
    }
    return true;
}

// "http://host:port/path": the host replaces the Host field, the rest is the target.
HeadError take_absolute(Request& request, core::Slice& target) {
    size_t scheme = core::istarts_with(target, "http://")    ? 7
                    : core::istarts_with(target, "https://") ? 8
                                                             : 0;
    if (scheme == 0) return bad_line;
    size_t end = target.find_first_of("/?#", scheme);
    if (end == core::Slice::npos) end = target.size();
    core::Slice authority = target.substr(scheme, end - scheme);
    if (!split_host(request.arena, authority, request.head.host, request.head.host_port)) {
        return {400, "client sent invalid host in request line"};
    }
    target = target.substr(end);
    if (target.empty()) target = "/";
    if (target[0] != '/') {
        core::Appender text(request.arena, target.size() + 1);
        text.append('/');
        text.append(target);
        target = text.take();
    }
    return {};
}

HeadError take_target(Request& request, core::Slice target) {
    bool clean = true;
    for (char c : target) clean &= uint8_t(c) > 0x20 && c != 0x7f;
    if (!clean) return bad_line;
    if (target.empty()) return bad_line;
    if (target[0] != '/') {
        if (HeadError error = take_absolute(request, target); error.status) return error;
    }
    request.head.target = target;
    NormalizedUri uri;
    if (!normalize_uri(target, request.server->root.core->merge_slashes, request.arena, uri)) {
        return bad_line;
    }
    request.set_uri(uri.path);
    request.args = uri.args;
    request.plain_uri = uri.plain;
    return {};
}

}  // namespace

HeadError parse_request_line(Request& request, core::Slice line) {
    RequestHead& head = request.head;
    head.line = line;
    size_t method_end = 0;
    while (method_end < line.size() && line[method_end] != ' ') ++method_end;
    if (method_end == 0 || method_end == line.size()) return bad_line;
    head.method_name = line.substr(0, method_end);
    if (head.method_name == "PRI") return {400, "client sent an HTTP/2 preface"};
    constexpr core::Slice usual_end = " HTTP/1.1";
    size_t version_start = line.size() - std::min(line.size(), usual_end.size());
    if (line.ends_with(usual_end)) {
        head.version = 11;
    } else {
        version_start = line.rfind(' ');
        HeadError error = parse_version(line.substr(version_start + 1), head.version);
        if (version_start != method_end && error.status) return error;
    }
    if (version_start == method_end) return bad_line;     // HTTP/0.9
    core::Slice target = line.substr(method_end + 1, version_start - method_end - 1);
    request.method = parse_method(head.method_name);
    if (request.method == Method::connect) return {405, "client sent CONNECT method"};
    if (request.method == Method::trace) return {405, "client sent TRACE method"};
    return take_target(request, target);
}

HeadError check_host(Request& request) {
    const Header* field = request.headers.find(HeaderId::host);
    if (!field) {
        if (request.head.version < 11) return {};
        return {400, "client sent HTTP/1.1 request without \"Host\" header"};
    }
    core::Slice host, port;
    if (!split_host(request.arena, field->value, host, port)) return bad_host;
    if (request.head.host.empty()) {
        request.head.host = host;
        request.head.host_port = port;
    }
    return {};
}

}  // namespace server
