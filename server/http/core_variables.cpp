// Variables of the http core. Getters return text that lives as long as the request: of the request
// itself, static, or made in its arena.
#include "server/http/core_variables.h"

#include <netinet/tcp.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "conf/values.h"
#include "core/base64.h"
#include "core/clock.h"
#include "core/text.h"
#include "server/features.h"
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/proxy_header.h"
#include "server/http/request.h"

namespace server {

namespace {

using core::Slice;

Value number(Request& request, int64_t value) {
    char* room = request.arena.bytes(24);
    Slice digits = core::format_number(value, room);
    return request.arena.copy(digits);
}

// Empty, but there: what nginx calls a null value.
const Value empty_value = Slice("", 0);

Value if_any(Slice text) { return text.data() ? Value(text) : Value::none(); }

// "12.345" from milliseconds.
Value seconds_and_ms(Request& request, int64_t ms) {
    if (ms < 0) ms = 0;
    core::Appender text(request.arena, 32);
    text.append_number(ms / 1000);
    char fraction[4] = {'.', char('0' + ms / 100 % 10), char('0' + ms / 10 % 10),
                        char('0' + ms % 10)};
    text.append(Slice(fraction, 4));
    return text.take();
}

// ---- what was asked ----

Value get_uri(Request& request, Slice, uintptr_t) { return request.uri; }
Value get_args(Request& request, Slice, uintptr_t) {
    return request.args.data() ? Value(request.args) : Value::none();    // no '?' at all
}
void set_args(Request& request, Slice value, uintptr_t) { request.args = value; }
Value get_is_args(Request& request, Slice, uintptr_t) {
    return request.args.empty() ? Slice("", 0) : Slice("?");
}
Value get_request_uri(Request& request, Slice, uintptr_t) { return request.main->head.target; }
Value get_request(Request& request, Slice, uintptr_t) { return request.main->head.line; }
Value get_method(Request& request, Slice, uintptr_t) { return request.main->head.method_name; }

Value get_protocol(Request& request, Slice, uintptr_t) {
    switch (request.main->head.version) {
    case 9: return Slice("HTTP/0.9");
    case 10: return Slice("HTTP/1.0");
    case 20: return Slice("HTTP/2.0");
    case 30: return Slice("HTTP/3.0");
    default: return Slice("HTTP/1.1");
    }
}

Value get_scheme(Request& request, Slice, uintptr_t) {
    return request.connection.tls ? Slice("https") : Slice("http");
}
Value get_https(Request& request, Slice, uintptr_t) {
    return request.connection.tls ? Slice("on") : Slice("", 0);
}

Value get_host(Request& request, Slice, uintptr_t) {
    Slice host = request.main->head.host;
    return host.empty() ? request.server->name() : host;
}

Value get_request_port(Request& request, Slice, uintptr_t) {
    Slice port = request.main->head.host_port;
    return port.empty() ? Slice("", 0) : port;
}
Value get_is_request_port(Request& request, Slice, uintptr_t) {
    return request.main->head.host_port.empty() ? Slice("", 0) : Slice(":");
}

Value get_argument(Request& request, Slice name, uintptr_t) {
    return if_any(argument_value(request.args, name));
}
Value get_header(Request& request, Slice name, uintptr_t) {
    return header_value(request.arena, request.headers, name, ", ");
}
// The fields that log formats and maps ask for most: found by id.
Value get_known_header(Request& request, Slice, uintptr_t data) {
    HeaderId id = HeaderId(data);
    if (!request.headers.has(id)) return Value::none();
    Value first;
    const Header* at = request.headers.begin();
    for (; at != request.headers.end(); ++at) {
        if (at->removed || at->id != id) continue;
        if (first.found) break;
        first = at->value;
    }
    if (!first.found || at == request.headers.end()) return first;
    return request.headers.joined(header_name(id), id == HeaderId::cookie ? "; " : ", ");
}
Value get_cookie(Request& request, Slice name, uintptr_t) {
    return if_any(cookie_value(request.headers, name));
}
Value get_content_length(Request& request, Slice, uintptr_t) {
    if (const Header* field = request.headers.find(HeaderId::content_length)) return field->value;
    if (request.body.chunked && request.body.complete()) {
        return number(request, request.body.size());
    }
    return Value::none();
}
Value get_content_type(Request& request, Slice, uintptr_t) {
    const Header* field = request.headers.find(HeaderId::content_type);
    return field ? Value(field->value) : Value::none();
}

Value get_remote_user(Request& request, Slice, uintptr_t) {
    Credentials credentials;
    return basic_credentials(request, credentials) ? Value(credentials.user) : Value::none();
}

Value get_request_length(Request& request, Slice, uintptr_t) {
    return number(request, int64_t(request.head.raw.size()) + request.body.size());
}

Value get_request_body(Request& request, Slice, uintptr_t) {
    RequestBody& body = request.body;
    if (!body.complete() || body.file_fd() >= 0 || body.size() == 0) return Value::none();
    return body.text(request);
}
Value get_request_body_file(Request& request, Slice, uintptr_t) {
    RequestBody& body = request.body;
    return body.file_fd() >= 0 ? Value(body.file_path()) : Value::none();
}

Value get_request_id(Request& request, Slice, uintptr_t) {
    constexpr size_t id_bytes = 16;
    unsigned char id[id_bytes];
    if (RAND_bytes(id, sizeof(id)) != 1) return Value::none();
    char* room = request.arena.bytes(2 * id_bytes);
    core::hex_into(room, {reinterpret_cast<char*>(id), sizeof(id)});
    return Slice(room, 2 * id_bytes);
}

// ---- where it came from ----

Value address_text(Request& request, const core::Address& address) {
    constexpr size_t room_bytes = 128;
    char room[room_bytes];
    return request.arena.copy(address.ip_into(room, room_bytes));
}
Value port_of(Request& request, const core::Address& address) {
    int port = address.port();
    return port > 0 ? number(request, port) : empty_value;
}
Value binary_address(Request& request, const core::Address& address) {
    switch (address.family()) {
    case AF_INET:
        return request.arena.copy({reinterpret_cast<const char*>(&address.v4.sin_addr), 4});
    case AF_INET6:
        return request.arena.copy({reinterpret_cast<const char*>(&address.v6.sin6_addr), 16});
    default: return address_text(request, address);
    }
}

Value get_remote_addr(Request& request, Slice, uintptr_t) {
    return address_text(request, request.connection.peer);
}
Value get_remote_port(Request& request, Slice, uintptr_t) {
    return port_of(request, request.connection.peer);
}
Value get_binary_remote_addr(Request& request, Slice, uintptr_t) {
    return binary_address(request, request.connection.peer);
}
Value get_server_addr(Request& request, Slice, uintptr_t) {
    return address_text(request, request.connection.local());
}
Value get_server_port(Request& request, Slice, uintptr_t) {
    return port_of(request, request.connection.local());
}
Value get_server_name(Request& request, Slice, uintptr_t) { return request.server->name(); }
Value get_connection(Request& request, Slice, uintptr_t) {
    return number(request, int64_t(request.connection.serial));
}
Value get_connection_requests(Request& request, Slice, uintptr_t) {
    return number(request, request.connection.requests);
}
Value get_connection_time(Request& request, Slice, uintptr_t) {
    return seconds_and_ms(request, core::Clock::wall_ms() - request.connection.opened_ms);
}

// ---- what a PROXY protocol header said ----

enum class ProxyField : uintptr_t { source, source_port, destination, destination_port };

Value get_proxy_field(Request& request, Slice, uintptr_t field) {
    const ProxyHeader* proxy = request.connection.proxy.get();
    if (!proxy) return Value::none();
    switch (ProxyField(field)) {
    case ProxyField::source: return Slice(proxy->source);
    case ProxyField::destination: return Slice(proxy->destination);
    case ProxyField::source_port: return number(request, proxy->source_port);
    case ProxyField::destination_port: return number(request, proxy->destination_port);
    }
    return Value::none();
}

// "0x05" or a name of those that the specification gives.
Value get_proxy_tlv(Request& request, Slice name, uintptr_t) {
    struct Known { Slice name; uint8_t type; };
    constexpr Known names[] = {{"alpn", 1}, {"authority", 2}, {"unique_id", 5}, {"ssl", 0x20},
                               {"netns", 0x30}};
    const ProxyHeader* proxy = request.connection.proxy.get();
    if (!proxy) return Value::none();
    for (const Known& known : names) {
        if (known.name == name) return if_any(proxy->tlv(known.type));
    }
    if (!name.starts_with("0x")) return Value::none();
    auto type = core::parse_hex(name.substr(2), 255);
    return type ? if_any(proxy->tlv(uint8_t(*type))) : Value::none();
}

enum class TcpField : uintptr_t { rtt, rttvar, snd_cwnd, rcv_space };

Value get_tcpinfo(Request& request, Slice, uintptr_t field) {
    tcp_info info{};
    socklen_t size = sizeof(info);
    if (getsockopt(request.connection.stream.fd(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
        return Value::none();
    }
    switch (TcpField(field)) {
    case TcpField::rtt: return number(request, info.tcpi_rtt);
    case TcpField::rttvar: return number(request, info.tcpi_rttvar);
    case TcpField::snd_cwnd: return number(request, info.tcpi_snd_cwnd);
    case TcpField::rcv_space: return number(request, info.tcpi_rcv_space);
    }
    return Value::none();
}

// ---- files ----

Value get_document_root(Request& request, Slice, uintptr_t) {
    Slice root = request.core().root.evaluate(request);
    if (root.starts_with('/') || root.empty()) return root.data() ? root : Slice("", 0);
    core::Appender path(request.arena);
    path.append(Slice(Configuration::current().options().prefix));
    path.append(root);
    return path.take();
}
Value get_realpath_root(Request& request, Slice, uintptr_t) {
    Slice root = request.arena.copy_z(get_document_root(request, {}, 0).text);
    char real[PATH_MAX];
    if (!realpath(root.data(), real)) {
        LOG(request.log, crit, errno, "realpath() \"%s\" failed", root.data());
        return Value::none();
    }
    return request.arena.copy(real);
}
Value get_request_filename(Request& request, Slice, uintptr_t) {
    return if_any(file_path(request, request.uri));
}

// ---- what is answered ----

Value get_status(Request& request, Slice, uintptr_t) {
    int status = request.error_status ? request.error_status : request.response.status;
    if (status == 0 && request.head.version == 9) status = 9;
    char* digits = request.arena.bytes(3);
    digits[0] = char('0' + status / 100 % 10);
    digits[1] = char('0' + status / 10 % 10);
    digits[2] = char('0' + status % 10);
    return Slice(digits, 3);
}
Value get_bytes_sent(Request& request, Slice, uintptr_t) {
    return number(request, request.bytes_sent);
}
Value get_body_bytes_sent(Request& request, Slice, uintptr_t) {
    return number(request, request.body_bytes_sent);
}
Value get_request_completion(Request& request, Slice, uintptr_t) {
    return request.output == Request::Output::ended ? Slice("OK") : Slice("", 0);
}
Value get_request_time(Request& request, Slice, uintptr_t) {
    return seconds_and_ms(request, core::Clock::wall_ms() - request.start_ms);
}

Value get_limit_rate(Request& request, Slice, uintptr_t) {
    return number(request, request.limit_rate);
}
void set_limit_rate(Request& request, Slice value, uintptr_t) {
    auto rate = conf::parse_size(value);
    if (!rate) {
        LOG(request.log, error, 0, "invalid $limit_rate \"%.*s\"", int(value.size()), value.data());
        return;
    }
    request.limit_rate = *rate;
    request.limit_rate_set = true;
}

// Fields that the response holds as typed members rather than in its list.
Value typed_sent_header(Request& request, Slice name, bool& known) {
    const Response& response = request.response;
    known = true;
    if (name == "content_type") {
        if (response.content_type.empty()) return Value::none();
        if (response.charset.empty()) return response.content_type;
        core::Appender text(request.arena);
        text.append(response.content_type);
        text.append("; charset=");
        text.append(response.charset);
        return text.take();
    }
    if (name == "content_length") {
        if (response.content_length >= 0) return number(request, response.content_length);
    } else if (name == "last_modified") {
        if (response.last_modified >= 0) {
            char* date = request.arena.bytes(29);
            core::format_http_date(response.last_modified, date);
            return Slice(date, 29);
        }
    } else if (name == "location") {
        if (!response.location.empty()) return response.location;
    } else if (name == "etag") {
        if (!response.etag.empty()) return response.etag;
    } else if (name == "transfer_encoding") {
        if (response.chunked) return Slice("chunked");
    } else if (name == "connection") {
        if (response.status == 101) return Slice("upgrade");
        return request.keep_alive ? Slice("keep-alive") : Slice("close");
    } else if (name == "keep_alive") {
        if (request.keep_alive && request.core().keepalive_header_s > 0) {
            core::Appender text(request.arena);
            text.append("timeout=");
            text.append_number(request.core().keepalive_header_s);
            return text.take();
        }
    }
    known = false;
    return Value::none();
}

Value get_sent_header(Request& request, Slice name, uintptr_t) {
    bool known = false;
    Value value = typed_sent_header(request, name, known);
    return known ? value : header_value(request.arena, request.response.headers, name, ", ");
}
Value get_sent_trailer(Request& request, Slice name, uintptr_t) {
    return header_value(request.arena, request.response.trailers, name, ", ");
}

// ---- time and process ----

Value get_msec(Request& request, Slice, uintptr_t) {
    return seconds_and_ms(request, core::Clock::wall_ms());
}
Value get_time_local(Request& request, Slice, uintptr_t) {
    return request.arena.copy(core::Clock::access_date());
}
Value get_time_iso8601(Request& request, Slice, uintptr_t) {
    return request.arena.copy(core::Clock::iso_date());
}
Value get_hostname(Request& request, Slice, uintptr_t) {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    return request.arena.copy(name);
}
Value get_pid(Request& request, Slice, uintptr_t) { return number(request, getpid()); }
Value get_pipe(Request& request, Slice, uintptr_t) {
    return request.connection.requests > 1 && request.pipelined ? Slice("p") : Slice(".");
}
Value get_nginx_version(Request&, Slice, uintptr_t) { return Slice(nginx_version); }

constexpr uint8_t volatile_ = Variable::volatile_;
constexpr uint8_t prefix = Variable::prefix;

constexpr Variable table[] = {
    {"http_", get_header, prefix},
    {"http_host", get_known_header, 0, uintptr_t(HeaderId::host)},
    {"http_user_agent", get_known_header, 0, uintptr_t(HeaderId::user_agent)},
    {"http_referer", get_known_header, 0, uintptr_t(HeaderId::referer)},
    {"http_via", get_known_header, 0, uintptr_t(HeaderId::via)},
    {"http_x_forwarded_for", get_known_header, 0, uintptr_t(HeaderId::x_forwarded_for)},
    {"http_cookie", get_known_header, 0, uintptr_t(HeaderId::cookie)},
    {"sent_http_", get_sent_header, prefix | volatile_},
    {"sent_trailer_", get_sent_trailer, prefix | volatile_},
    {"cookie_", get_cookie, prefix},
    {"arg_", get_argument, prefix | volatile_},
    {"content_length", get_content_length},
    {"content_type", get_content_type},
    {"host", get_host},
    {"request_port", get_request_port},
    {"is_request_port", get_is_request_port},
    {"binary_remote_addr", get_binary_remote_addr, volatile_},
    {"remote_addr", get_remote_addr, volatile_},
    {"remote_port", get_remote_port, volatile_},
    {"proxy_protocol_addr", get_proxy_field, 0, uintptr_t(ProxyField::source)},
    {"proxy_protocol_port", get_proxy_field, 0, uintptr_t(ProxyField::source_port)},
    {"proxy_protocol_server_addr", get_proxy_field, 0, uintptr_t(ProxyField::destination)},
    {"proxy_protocol_server_port", get_proxy_field, 0, uintptr_t(ProxyField::destination_port)},
    {"proxy_protocol_tlv_", get_proxy_tlv, prefix},
    {"server_addr", get_server_addr},
    {"server_port", get_server_port},
    {"server_name", get_server_name},
    {"server_protocol", get_protocol},
    {"scheme", get_scheme},
    {"https", get_https},
    {"request_uri", get_request_uri},
    {"uri", get_uri, volatile_},
    {"document_uri", get_uri, volatile_},
    {"request", get_request},
    {"document_root", get_document_root, volatile_},
    {"realpath_root", get_realpath_root, volatile_},
    {"query_string", get_args, volatile_},
    {"args", get_args, uint8_t(volatile_ | Variable::changeable), 0, set_args},
    {"is_args", get_is_args, volatile_},
    {"request_filename", get_request_filename, volatile_},
    {"request_method", get_method, volatile_},
    {"remote_user", get_remote_user},
    {"bytes_sent", get_bytes_sent, volatile_},
    {"body_bytes_sent", get_body_bytes_sent, volatile_},
    {"pipe", get_pipe, volatile_},
    {"request_completion", get_request_completion, volatile_},
    {"request_body", get_request_body, volatile_},
    {"request_body_file", get_request_body_file, volatile_},
    {"request_length", get_request_length, volatile_},
    {"request_time", get_request_time, volatile_},
    {"request_id", get_request_id},
    {"status", get_status, volatile_},
    {"limit_rate", get_limit_rate, uint8_t(volatile_ | Variable::changeable), 0, set_limit_rate},
    {"connection", get_connection},
    {"connection_requests", get_connection_requests},
    {"connection_time", get_connection_time, volatile_},
    {"nginx_version", get_nginx_version},
    {"hostname", get_hostname},
    {"pid", get_pid},
    {"msec", get_msec, volatile_},
    {"time_iso8601", get_time_iso8601, volatile_},
    {"time_local", get_time_local, volatile_},
    {"tcpinfo_rtt", get_tcpinfo, volatile_, uintptr_t(TcpField::rtt)},
    {"tcpinfo_rttvar", get_tcpinfo, volatile_, uintptr_t(TcpField::rttvar)},
    {"tcpinfo_snd_cwnd", get_tcpinfo, volatile_, uintptr_t(TcpField::snd_cwnd)},
    {"tcpinfo_rcv_space", get_tcpinfo, volatile_, uintptr_t(TcpField::rcv_space)},
};

}  // namespace

constinit const std::span<const Variable> core_variables(table);

core::Slice argument_value(Slice args, Slice name) {
    while (!args.empty()) {
        size_t end = args.find('&');
        Slice pair = args.substr(0, end);
        if (pair.size() > name.size() && pair[name.size()] == '=' &&
            core::iequals(pair.substr(0, name.size()), name)) {
            return pair.substr(name.size() + 1);
        }
        if (end == Slice::npos) break;
        args.remove_prefix(end + 1);
    }
    return {};
}

namespace {

void skip_spaces(Slice& text) {
    while (text.starts_with(' ')) text.remove_prefix(1);
}

Slice cookie_in(Slice text, Slice name) {
    while (!text.empty()) {
        if (text.size() > name.size() && core::iequals(text.substr(0, name.size()), name)) {
            Slice behind = text.substr(name.size());
            skip_spaces(behind);
            if (behind.starts_with('=')) {
                behind.remove_prefix(1);
                skip_spaces(behind);
                return behind.substr(0, behind.find(';'));
            }
        }
        size_t end = text.find_first_of(";,");
        if (end == Slice::npos) break;
        text.remove_prefix(end + 1);
        skip_spaces(text);
    }
    return {};
}

// Is this field the one that a variable's name means: lower case, '_' for '-'?
bool is_named(Slice field, Slice variable) {
    if (field.size() != variable.size()) return false;
    for (size_t i = 0; i < field.size(); ++i) {
        char c = field[i] == '-' ? '_' : core::lower(field[i]);
        if (c != variable[i]) return false;
    }
    return true;
}

}  // namespace

core::Slice cookie_value(const HeaderList& headers, Slice name) {
    if (!headers.has(HeaderId::cookie)) return {};
    for (const Header& header : headers) {
        if (header.removed || header.id != HeaderId::cookie) continue;
        Slice value = cookie_in(header.value, name);
        if (value.data()) return value;
    }
    return {};
}

Value header_value(core::Arena& arena, const HeaderList& headers, Slice name, Slice separator) {
    Value first;
    const Header* at = headers.begin();
    for (; at != headers.end(); ++at) {
        if (at->removed || !is_named(at->name, name)) continue;
        if (first.found) break;
        first = at->value;
    }
    if (!first.found || at == headers.end()) return first;
    core::Appender joined(arena);
    joined.append(first.text);
    for (; at != headers.end(); ++at) {
        if (at->removed || !is_named(at->name, name)) continue;
        joined.append(separator);
        joined.append(at->value);
    }
    return joined.take();
}

bool basic_credentials(Request& request, Credentials& to) {
    const Header* field = request.headers.find(HeaderId::authorization);
    if (!field) return false;
    Slice text = field->value;
    if (!core::istarts_with(text, "basic ")) return false;
    text.remove_prefix(6);
    skip_spaces(text);
    if (text.empty()) return false;
    auto decoded = core::decode_base64(request.arena, text);
    if (!decoded.data()) return false;
    size_t colon = decoded.find(':');
    if (colon == Slice::npos) return false;
    to = {decoded.substr(0, colon), decoded.substr(colon + 1)};
    return true;
}

}  // namespace server
