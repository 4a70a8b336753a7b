// The parts of the proxy module: its settings, what proxy_pass names, the request that goes
// upstream, and what of the response goes on to the client. None of them knows a connection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conf/values.h"
#include "core/buffer.h"
#include "server/http/request.h"
#include "server/http/variables.h"
#include "server/upstream/session.h"
#include "server/upstream/settings.h"

namespace core {
class Regex;
}

namespace server {

enum class ProxyVersion : uint8_t { http_1_0, http_1_1 };
inline constexpr conf::Choice<ProxyVersion> proxy_versions[] = {
    {"1.0", ProxyVersion::http_1_0}, {"1.1", ProxyVersion::http_1_1}};
constexpr const auto& choices(ProxyVersion) { return proxy_versions; }

// What the argument of proxy_pass says, with its variables' values.
struct ProxyUrl {
    core::Slice scheme = "http://";
    core::Slice host;                // or a path when is_unix
    core::Slice host_port;           // "example.com:8080", as $proxy_host: without the default port
    core::Slice path;                // the URI part as written; empty when there is none
    int port = 80;
    bool no_port = false;
    bool is_unix = false;
    bool tls = false;
};
core::Result<ProxyUrl> parse_proxy_url(core::Slice text);     // of slices of `text`

// The argument of proxy_pass.
struct ProxyTarget {
    ComplexValue text;
    std::string fixed_text;                    // what `fixed` shows
    ProxyUrl fixed;                            // when the text has no variables
    UpstreamGroup* group = nullptr;            // likewise; known once all is read
    std::string location;                      // the prefix that a URI part replaces
    bool is_set = false;
    bool is_fixed = false;
};

struct ProxyField {
    std::string name;
    HeaderId id = HeaderId::other;
    ComplexValue value;
};

// One proxy_redirect, proxy_cookie_domain or proxy_cookie_path: text or a regex, and what replaces.
struct ProxyRewrite {
    ComplexValue from;
    std::shared_ptr<const core::Regex> pattern;      // then `from` is not used
    std::vector<std::pair<int, int>> captures;
    ComplexValue to;
};

enum CookieFlag : uint32_t {
    cookie_secure = 1, cookie_no_secure = 2, cookie_http_only = 4, cookie_no_http_only = 8,
    cookie_strict = 16, cookie_lax = 32, cookie_none = 64, cookie_no_same_site = 128,
};
struct ProxyCookieFlags {
    ComplexValue name;
    std::shared_ptr<const core::Regex> pattern;
    std::vector<ComplexValue> flags;
};

// Names of fields: the known ones as bits.
struct FieldSet {
    uint64_t ids[2] = {};
    std::vector<std::string> others;

    void add(core::Slice name);
    void remove(core::Slice name);
    bool has(const Header& field) const;
};

template <class T>
struct Rules {
    std::vector<T> items;
    bool is_set = false;
    bool off = false;
    bool use_default = false;        // proxy_redirect default

    void inherit(const Rules& outer) {
        if (!is_set) *this = outer;
    }
};

struct ProxyConf : UpstreamSettings {
    ProxyTarget target;
    Setting<ComplexValue> method;
    Setting<ComplexValue> body;
    Setting<ProxyVersion> http_version{ProxyVersion::http_1_1};
    Setting<bool> pass_request_headers{true};
    Setting<bool> pass_request_body{true};
    Setting<int64_t> headers_hash_max_size{512};       // our tables size themselves
    Setting<int64_t> headers_hash_bucket_size{64};
    std::vector<ProxyField> set_fields;                // inherited when there is none here
    std::vector<std::string> hide_fields, pass_fields; // likewise
    Rules<ProxyRewrite> redirects, cookie_domains, cookie_paths;
    Rules<ProxyCookieFlags> cookie_flags;

    // Derived: what of the client's fields does not go upstream; what of the response stays behind.
    FieldSet not_passed, hidden;
    bool sets_host = false;
    void derive();
};

// ---- proxy_request.cpp ----

// What is asked for upstream. Lives as long as the request.
core::Slice proxy_uri(Request& request, const ProxyTarget& target, const ProxyUrl& url);

struct ProxyRequest {
    core::Slice method, uri;
    const ProxyUrl* url;
    bool streams_body = false;       // it follows piece by piece
    bool chunked = false;            // …without a known length
};
// Request line, fields and, unless it streams, the body.
bool make_proxy_request(Request& request, const ProxyConf& conf, const ProxyRequest& what,
                        core::Chain& to);
// Whether it says Upgrade: the client's own is not passed on by itself.
bool asks_upgrade(Request& request, const ProxyConf& conf);

// ---- proxy_response.cpp ----

// Makes the upstream's fields the response's: hidden ones stay behind, redirects and cookies are
// rewritten.
void take_response_fields(Request& request, const ProxyConf& conf, const HeaderList& fields,
                          const ProxyUrl& url);
bool has_error_page(const Request& request, int status);

// ---- proxy_directives.cpp ----

extern const std::span<const conf::Directive> proxy_directives;
conf::Result<void> merge_proxy(ProxyConf& conf, const ProxyConf* outer, conf::Binder& binder);
Verdict handle_proxy(Request& request);                // the content handler (proxy.cpp)

}  // namespace server
