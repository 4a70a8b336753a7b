// The binary's description. A module counts as present when a directive of its is declared by some
// registered module, so this never promises what is not there.
#include "server/features.h"

#include <ares.h>
#include <luajit.h>
#include <openssl/crypto.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <zlib.h>

#include <algorithm>

#include "server/module.h"

namespace server {

namespace {

struct Feature {
    core::Slice module;        // of load_module, without ngx_ and .so
    core::Slice directive;     // one of its directives
    core::Slice option;        // of configure; empty: needs none
};
constexpr Feature features[] = {
    {"http_ssl_module", "ssl_certificate", "--with-http_ssl_module"},
    {"http_v2_module", "http2", "--with-http_v2_module"},
    {"http_v3_module", "http3", "--with-http_v3_module"},
    {"http_realip_module", "set_real_ip_from", "--with-http_realip_module"},
    {"http_addition_module", "add_before_body", "--with-http_addition_module"},
    {"http_sub_module", "sub_filter", "--with-http_sub_module"},
    {"http_dav_module", "dav_methods", "--with-http_dav_module"},
    {"http_flv_module", "flv", "--with-http_flv_module"},
    {"http_mp4_module", "mp4", "--with-http_mp4_module"},
    {"http_gunzip_module", "gunzip", "--with-http_gunzip_module"},
    {"http_gzip_static_module", "gzip_static", "--with-http_gzip_static_module"},
    {"http_auth_request_module", "auth_request", "--with-http_auth_request_module"},
    {"http_random_index_module", "random_index", "--with-http_random_index_module"},
    {"http_secure_link_module", "secure_link", "--with-http_secure_link_module"},
    {"http_slice_module", "slice", "--with-http_slice_module"},
    {"http_stub_status_module", "stub_status", "--with-http_stub_status_module"},
    {"http_geoip_module", "geoip_country", "--with-http_geoip_module"},
    {"http_image_filter_module", "image_filter", "--with-http_image_filter_module"},
    {"http_xslt_filter_module", "xslt_stylesheet", "--with-http_xslt_module"},
    {"http_perl_module", "perl", "--with-http_perl_module"},
    {"mail_module", "mail", "--with-mail"},
    {"stream_module", "stream", "--with-stream"},
    {"stream_ssl_module", "stream", "--with-stream_ssl_module"},
    {"stream_ssl_preread_module", "ssl_preread", "--with-stream_ssl_preread_module"},
    {"stream_geoip_module", "geoip_country", "--with-stream_geoip_module"},
    {"ndk_http_module", "http", "--add-module=ngx_devel_kit"},
    {"http_lua_module", "content_by_lua_block", "--add-module=ngx_lua-0.10.30"},
    {"stream_lua_module", "preread_by_lua_block", "--add-module=ngx_stream_lua-0.0.18"},
    {"http_echo_module", "echo", "--add-module=echo-nginx-module"},
    {"http_set_misc_module", "set_unescape_uri", "--add-module=set-misc-nginx-module"},
    {"http_headers_more_filter_module", "more_set_headers",
     "--add-module=headers-more-nginx-module"},
    {"http_array_var_module", "array_split", "--add-module=array-var-nginx-module"},
    {"http_brotli_filter_module", "brotli", ""},
    {"http_brotli_static_module", "brotli_static", ""},
};

bool has_directive(core::Slice name) {
    for (const Module* module : modules()) {
        for (const conf::Directive& directive : module->directives) {
            if (name == directive.name) return true;
        }
    }
    return false;
}

}  // namespace

bool is_built_in(core::Slice path) {
    core::Slice name = path.substr(path.rfind('/') + 1);
    if (name.ends_with(".so")) name.remove_suffix(3);
    if (name.starts_with("ngx_")) name.remove_prefix(4);
    auto found = std::find_if(std::begin(features), std::end(features),
                              [&](const Feature& feature) { return feature.module == name; });
    return found != std::end(features) && has_directive(found->directive);
}

std::string version_line() {
    return std::string("nginx version: openresty/") + openresty_version + " (resty-server " +
           RESTY_VERSION + ")";
}

std::string configure_arguments() {
    std::string result = std::string("--prefix=") + RESTY_PREFIX + " --conf-path=" + RESTY_CONF +
                         " --with-threads --with-file-aio --with-pcre --with-pcre-jit";
    for (const Feature& feature : features) {
        if (feature.option.empty() || !has_directive(feature.directive)) continue;
        result += " " + std::string(feature.option);
    }
    return result;
}

std::string build_lines() {
    char pcre[64] = "";
    pcre2_config(PCRE2_CONFIG_VERSION, pcre);
    std::string result;
#ifdef __clang__
    result += "built by clang " __clang_version__ "\n";
#else
    result += "built by gcc " __VERSION__ "\n";
#endif
    result += std::string("built with ") + OpenSSL_version(OPENSSL_VERSION) + "\n";
    result += "TLS SNI support enabled\n";
    result += "built with " LUAJIT_VERSION ", PCRE2 " + std::string(pcre) + ", zlib " +
              zlibVersion() + ", c-ares " + ares_version(nullptr) + "\n";
    return result + "configure arguments: " + configure_arguments() + "\n";
}

}  // namespace server
