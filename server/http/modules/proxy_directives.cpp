// The directives of the proxy module.
#include <algorithm>

#include "core/regex.h"
#include "core/text.h"
#include "server/http/modules/proxy.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

bool is_prefix(const Location* location) {
    if (!location) return false;
    return location->kind == Location::prefix || location->kind == Location::prefix_no_regex ||
           location->kind == Location::exact;
}

Result<void> set_pass(ProxyConf& conf, const Line& line) {
    ProxyTarget& target = conf.target;
    if (target.is_set) return conf::detail::duplicate();
    Location* location = Configuration::current().binding_location;
    auto text = ComplexValue::compile(line.arg(0), line);
    if (!text) return text.take_error();
    target.is_set = true;
    target.text = std::move(*text);
    target.location = location ? location->name : std::string();
    if (target.text.is_constant()) {
        target.is_fixed = true;
        target.fixed_text = line.arg(0);
        auto url = parse_proxy_url(target.fixed_text);
        if (!url) return url.take_error();
        if (!url->path.empty() && !is_prefix(location)) {
            return Error{"\"proxy_pass\" cannot have URI part in location given by regular "
                         "expression, or inside named location, or inside \"if\" statement, or "
                         "inside \"limit_except\" block"};
        }
    }
    if (location && location->name.ends_with('/')) location->slash_redirect = true;
    return set_content_handler(line, handle_proxy);
}

Result<void> add_field(ProxyConf& conf, const Line& line) {
    auto value = ComplexValue::compile(line.arg(1), line);
    if (!value) return value.take_error();
    conf.set_fields.push_back(
        {std::string(line.arg(0)), header_id(line.arg(0)), std::move(*value)});
    return {};
}

Result<void> hide_field(ProxyConf& conf, const Line& line) {
    conf.hide_fields.emplace_back(line.arg(0));
    return {};
}

Result<void> pass_field(ProxyConf& conf, const Line& line) {
    conf.pass_fields.emplace_back(line.arg(0));
    return {};
}

// "~regex", "~*regex", or text with variables.
Result<void> read_pattern(Slice text, const Line& line, ComplexValue& plain,
                          std::shared_ptr<const core::Regex>& pattern) {
    if (!text.starts_with('~')) {
        auto value = ComplexValue::compile(text, line);
        if (!value) return value.take_error();
        plain = std::move(*value);
        return {};
    }
    text.remove_prefix(1);
    bool caseless = text.starts_with('*');
    if (caseless) text.remove_prefix(1);
    if (text.empty()) return Error{"empty regex"};
    auto regex = core::Regex::compile(text, caseless ? uint32_t(core::Regex::caseless) : 0u);
    if (!regex) return regex.take_error();
    pattern = std::move(*regex);
    return {};
}

Result<void> add_rewrite(Rules<ProxyRewrite>& rules, const Line& line) {
    ProxyRewrite rule;
    auto read = read_pattern(line.arg(0), line, rule.from, rule.pattern);
    if (!read) return read;
    if (rule.pattern) {
        auto captures = define_captures(*rule.pattern, Configuration::current().variables());
        if (!captures) return captures.take_error();
        rule.captures = std::move(*captures);
    }
    auto to = ComplexValue::compile(line.arg(1), line);
    if (!to) return to.take_error();
    rule.to = std::move(*to);
    rules.items.push_back(std::move(rule));
    return {};
}

Result<void> add_redirect(ProxyConf& conf, const Line& line) {
    auto& rules = conf.redirects;
    if (rules.off) return conf::detail::duplicate();
    rules.is_set = true;
    if (line.count() == 2) return add_rewrite(rules, line);
    if (line.arg(0) == "off" || line.arg(0) == "false") {
        if (!rules.items.empty() || rules.use_default) return conf::detail::duplicate();
        rules.off = true;
        return {};
    }
    if (line.arg(0) != "default") return conf::invalid_parameter(line.arg(0));
    if (!conf.target.is_set) {
        return Error{"\"proxy_redirect default\" should be placed after the \"proxy_pass\" "
                     "directive"};
    }
    if (!conf.target.is_fixed) {
        return Error{"\"proxy_redirect default\" cannot be used with \"proxy_pass\" directive "
                     "with variables"};
    }
    rules.use_default = true;
    return {};
}

template <Rules<ProxyRewrite> ProxyConf::*member>
Result<void> add_cookie_rule(ProxyConf& conf, const Line& line) {
    auto& rules = conf.*member;
    if (rules.off) return conf::detail::duplicate();
    rules.is_set = true;
    if (line.count() == 2) return add_rewrite(rules, line);
    if (line.arg(0) != "off") return conf::invalid_parameter(line.arg(0));
    if (!rules.items.empty()) return conf::detail::duplicate();
    rules.off = true;
    return {};
}

Result<void> add_cookie_flags(ProxyConf& conf, const Line& line) {
    auto& rules = conf.cookie_flags;
    if (rules.off) return conf::detail::duplicate();
    rules.is_set = true;
    if (line.count() == 1) {
        if (line.arg(0) != "off") return conf::invalid_parameter(line.arg(0));
        rules.off = true;
        return {};
    }
    ProxyCookieFlags rule;
    auto read = read_pattern(line.arg(0), line, rule.name, rule.pattern);
    if (!read) return read;
    for (size_t i = 1; i < line.count(); ++i) {
        auto flag = ComplexValue::compile(line.arg(i), line);
        if (!flag) return flag.take_error();
        constexpr Slice known[] = {"secure", "nosecure", "httponly", "nohttponly",
                                   "samesite=strict", "samesite=lax", "samesite=none",
                                   "nosamesite"};
        bool valid = !flag->is_constant() ||
                     std::any_of(std::begin(known), std::end(known),
                                 [&](Slice word) { return core::iequals(word, line.arg(i)); });
        if (!valid) return conf::invalid_parameter(line.arg(i));
        rule.flags.push_back(std::move(*flag));
    }
    rules.items.push_back(std::move(rule));
    return {};
}

Result<void> set_store(ProxyConf& conf, const Line& line) {
    if (conf.store.is_set) return conf::detail::duplicate();
    auto read = parse_setting(conf.store.value, line);
    if (read) conf.store.is_set = true;
    return read;
}

Result<void> refuse_caching(ProxyConf&, const Line& line) {
    return Error{"\"" + std::string(line.name()) +
                 "\" is not available yet: responses of upstream servers are not cached by this "
                 "version"};
}

using C = ProxyConf;
constexpr uint32_t any = conf::in_any_http;
constexpr uint32_t pass_here = conf::in_location | conf::in_location_if | conf::in_limit_except;
constexpr conf::Arity one = conf::takes(1);
constexpr conf::Arity many = conf::takes_at_least(1);

constexpr conf::Directive directives[] = {
    {"proxy_pass", pass_here, one, conf::call<set_pass>},
    // the request
    {"proxy_method", any, one, conf::field<&C::method>},
    {"proxy_set_header", any, conf::takes(2), conf::call<add_field>},
    {"proxy_set_body", any, one, conf::field<&C::body>},
    {"proxy_http_version", any, one, conf::field<&C::http_version>},
    {"proxy_pass_request_headers", any, conf::takes_flag(), conf::field<&C::pass_request_headers>},
    {"proxy_pass_request_body", any, conf::takes_flag(), conf::field<&C::pass_request_body>},
    {"proxy_request_buffering", any, conf::takes_flag(), conf::field<&C::request_buffering>},
    {"proxy_headers_hash_max_size", any, one, conf::field<&C::headers_hash_max_size>},
    {"proxy_headers_hash_bucket_size", any, one, conf::field<&C::headers_hash_bucket_size>},
    // the connection
    {"proxy_bind", any, conf::takes(1, 2), conf::field<&C::bind>},
    {"proxy_connect_timeout", any, one, conf::field<&C::connect_timeout>},
    {"proxy_send_timeout", any, one, conf::field<&C::send_timeout>},
    {"proxy_read_timeout", any, one, conf::field<&C::read_timeout>},
    {"proxy_send_lowat", any, one, conf::field<&C::send_lowat>},
    {"proxy_socket_keepalive", any, conf::takes_flag(), conf::field<&C::socket_keepalive>},
    {"proxy_socket_rcvbuf", any, one, conf::field<&C::socket_receive_buffer>},
    {"proxy_socket_sndbuf", any, one, conf::field<&C::socket_send_buffer>},
    {"proxy_next_upstream", any, many, conf::field<&C::next_upstream>},
    {"proxy_next_upstream_tries", any, one, conf::field<&C::next_tries>},
    {"proxy_next_upstream_timeout", any, one, conf::field<&C::next_timeout>},
    {"proxy_ignore_client_abort", any, conf::takes_flag(), conf::field<&C::ignore_client_abort>},
    // the response
    {"proxy_buffering", any, conf::takes_flag(), conf::field<&C::buffering>},
    {"proxy_buffer_size", any, one, conf::field<&C::buffer_size>},
    {"proxy_buffers", any, conf::takes(2), conf::field<&C::buffers>},
    {"proxy_busy_buffers_size", any, one, conf::field<&C::busy_buffers_size>},
    {"proxy_max_temp_file_size", any, one, conf::field<&C::max_temp_file_size>},
    {"proxy_temp_file_write_size", any, one, conf::field<&C::temp_file_write_size>},
    {"proxy_temp_path", any, conf::takes(1, 4), conf::field<&C::temp_path>},
    {"proxy_limit_rate", any, one, conf::field<&C::limit_rate>},
    {"proxy_intercept_errors", any, conf::takes_flag(), conf::field<&C::intercept_errors>},
    {"proxy_force_ranges", any, conf::takes_flag(), conf::field<&C::force_ranges>},
    {"proxy_pass_trailers", any, conf::takes_flag(), conf::field<&C::pass_trailers>},
    {"proxy_store", any, one, conf::call<set_store>},
    {"proxy_store_access", any, conf::takes(1, 3), conf::field<&C::store_access>},
    {"proxy_ignore_headers", any, many, conf::field<&C::ignore_fields>},
    {"proxy_hide_header", any, one, conf::call<hide_field>},
    {"proxy_pass_header", any, one, conf::call<pass_field>},
    {"proxy_redirect", any, conf::takes(1, 2), conf::call<add_redirect>},
    {"proxy_cookie_domain", any, conf::takes(1, 2),
     conf::call<add_cookie_rule<&C::cookie_domains>>},
    {"proxy_cookie_path", any, conf::takes(1, 2), conf::call<add_cookie_rule<&C::cookie_paths>>},
    {"proxy_cookie_flags", any, conf::takes(1, 4), conf::call<add_cookie_flags>},
    // TLS
    {"proxy_ssl_session_reuse", any, conf::takes_flag(), conf::field<&C::tls_session_reuse>},
    {"proxy_ssl_protocols", any, many, conf::field<&C::tls_protocols>},
    {"proxy_ssl_ciphers", any, one, conf::field<&C::tls_ciphers>},
    {"proxy_ssl_name", any, one, conf::field<&C::tls_name>},
    {"proxy_ssl_server_name", any, conf::takes_flag(), conf::field<&C::tls_server_name>},
    {"proxy_ssl_verify", any, conf::takes_flag(), conf::field<&C::tls_verify>},
    {"proxy_ssl_verify_depth", any, one, conf::field<&C::tls_verify_depth>},
    {"proxy_ssl_trusted_certificate", any, one, conf::field<&C::tls_trusted_certificate>},
    {"proxy_ssl_crl", any, one, conf::field<&C::tls_crl>},
    {"proxy_ssl_certificate", any, one, conf::field<&C::tls_certificate>},
    {"proxy_ssl_certificate_key", any, one, conf::field<&C::tls_certificate_key>},
    {"proxy_ssl_certificate_cache", any, conf::takes(1, 3),
     conf::field<&C::tls_certificate_cache>},
    {"proxy_ssl_password_file", any, one, conf::field<&C::tls_password_file>},
    {"proxy_ssl_conf_command", any, conf::takes(2), conf::field<&C::tls_conf_command>},
    // caching comes later
    {"proxy_cache", any, one, conf::call<refuse_caching>},
    {"proxy_cache_background_update", any, conf::takes_flag(), conf::call<refuse_caching>},
    {"proxy_cache_bypass", any, many, conf::call<refuse_caching>},
    {"proxy_cache_convert_head", any, conf::takes_flag(), conf::call<refuse_caching>},
    {"proxy_cache_key", any, one, conf::call<refuse_caching>},
    {"proxy_cache_lock", any, conf::takes_flag(), conf::call<refuse_caching>},
    {"proxy_cache_lock_age", any, one, conf::call<refuse_caching>},
    {"proxy_cache_lock_timeout", any, one, conf::call<refuse_caching>},
    {"proxy_cache_max_range_offset", any, one, conf::call<refuse_caching>},
    {"proxy_cache_methods", any, many, conf::call<refuse_caching>},
    {"proxy_cache_min_uses", any, one, conf::call<refuse_caching>},
    {"proxy_cache_path", conf::in_http, conf::takes_at_least(2), conf::call<refuse_caching>},
    {"proxy_cache_revalidate", any, conf::takes_flag(), conf::call<refuse_caching>},
    {"proxy_cache_use_stale", any, many, conf::call<refuse_caching>},
    {"proxy_cache_valid", any, many, conf::call<refuse_caching>},
    {"proxy_no_cache", any, many, conf::call<refuse_caching>},
};

}  // namespace

constinit const std::span<const conf::Directive> proxy_directives{directives};

namespace {

// A context is made where somebody may ask by TLS.
Result<void> make_tls(ProxyConf& conf, conf::Binder& binder) {
    const ProxyTarget& target = conf.target;
    bool wanted = target.is_set && (!target.is_fixed ||
                                    core::istarts_with(target.fixed_text, "https://"));
    if (!wanted) return {};
    auto made = UpstreamTls::create(conf, "proxy", binder);
    if (!made) return made.take_error();
    conf.tls = std::move(*made);
    return {};
}

}  // namespace

Result<void> merge_proxy(ProxyConf& conf, const ProxyConf* outer, conf::Binder& binder) {
    if (outer) {
        if (!conf.target.is_set) conf.target = outer->target;
        if (conf.set_fields.empty()) conf.set_fields = outer->set_fields;
        if (conf.hide_fields.empty()) conf.hide_fields = outer->hide_fields;
        if (conf.pass_fields.empty()) conf.pass_fields = outer->pass_fields;
        conf.redirects.inherit(outer->redirects);
        conf.cookie_domains.inherit(outer->cookie_domains);
        conf.cookie_paths.inherit(outer->cookie_paths);
        conf.cookie_flags.inherit(outer->cookie_flags);
        conf.store.inherit(outer->store);
    }
    conf.derive();
    auto made = make_tls(conf, binder);
    return made ? conf.complete("proxy") : made;
}

}  // namespace server
