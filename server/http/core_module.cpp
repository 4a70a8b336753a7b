// The http core module: the table of its directives, their inheritance, and where a URI leads in
// the file system. Its variables are in core_variables.cpp. Read by every request through CoreConf.
#include <array>
#include <climits>
#include <cstring>

#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/core_directives.h"
#include "server/http/core_variables.h"
#include "server/http/endings.h"
#include "server/http/file_reader.h"
#include "server/http/request.h"
#include "server/main_conf.h"

namespace server {

using conf::call;
using conf::Choice;
using conf::Directive;
using conf::field;
using conf::in_any_http;
using conf::in_http;
using conf::in_location;
using conf::in_location_if;
using conf::in_server;
using conf::takes;
using conf::takes_at_least;
using conf::takes_block;
using conf::takes_flag;
using core::Slice;

constexpr auto choices(Satisfy) {
    return std::to_array<Choice<Satisfy>>({{"all", Satisfy::all}, {"any", Satisfy::any}});
}
constexpr auto choices(IfModifiedSince) {
    using E = IfModifiedSince;
    return std::to_array<Choice<E>>(
        {{"off", E::off}, {"exact", E::exact}, {"before", E::before}});
}
constexpr auto choices(Tokens) {
    return std::to_array<Choice<Tokens>>(
        {{"off", Tokens::off}, {"on", Tokens::on}, {"build", Tokens::build}});
}
constexpr auto choices(LingeringClose) {
    using E = LingeringClose;
    return std::to_array<Choice<E>>({{"off", E::off}, {"on", E::on}, {"always", E::always}});
}
constexpr auto choices(BodyFile) {
    using E = BodyFile;
    return std::to_array<Choice<E>>({{"off", E::off}, {"on", E::on}, {"clean", E::clean}});
}
constexpr auto choices(KeepaliveDisable) {
    using E = KeepaliveDisable;
    return std::to_array<Choice<E>>({{"none", E::none}, {"msie6", E::msie6},
                                     {"safari", E::safari}});
}

namespace {

constexpr uint32_t http_server = in_http | in_server;
constexpr uint32_t with_if = in_any_http | in_location_if;
constexpr uint32_t in_stream_too = conf::in_stream | conf::in_stream_server;

constexpr Directive directives[] = {
    // blocks and addresses
    {"server", in_http, takes_block(), call<add_server>},
    {"location", in_server | in_location, takes_block(1, 2), call<add_location>},
    {"limit_except", in_location, takes_block(1, INT_MAX), call<add_limit_except>},
    {"listen", in_server, takes_at_least(1), call<add_listen>},
    {"server_name", in_server, takes_at_least(1), call<set_server_name>},
    // files
    {"root", with_if, takes(1), call<set_root>},
    {"alias", in_location, takes(1), call<set_root>},
    {"internal", in_location, takes(0), call<set_internal>},
    {"types", in_any_http, takes_block(), call<set_types>},
    {"default_type", in_any_http, takes(1), field<&CoreConf::default_type>},
    {"try_files", in_server | in_location, takes_at_least(2), call<set_try_files>},
    {"error_page", with_if, takes_at_least(2), call<set_error_page>},
    {"post_action", with_if, takes(1), field<&CoreConf::post_action>},
    {"early_hints", in_any_http, takes_at_least(1), call<set_early_hints>},
    {"log_not_found", in_any_http, takes_flag(), field<&CoreConf::log_not_found>},
    {"log_subrequest", in_any_http, takes_flag(), field<&CoreConf::log_subrequest>},
    {"recursive_error_pages", in_any_http, takes_flag(), field<&CoreConf::recursive_error_pages>},
    {"server_tokens", in_any_http, takes(1), field<&CoreConf::server_tokens>},
    {"server_name_in_redirect", in_any_http, takes_flag(),
     field<&CoreConf::server_name_in_redirect>},
    {"port_in_redirect", in_any_http, takes_flag(), field<&CoreConf::port_in_redirect>},
    {"absolute_redirect", in_any_http, takes_flag(), field<&CoreConf::absolute_redirect>},
    {"msie_padding", in_any_http, takes_flag(), field<&CoreConf::msie_padding>},
    {"msie_refresh", in_any_http, takes_flag(), field<&CoreConf::msie_refresh>},
    {"etag", in_any_http, takes_flag(), field<&CoreConf::etag>},
    {"if_modified_since", in_any_http, takes(1), field<&CoreConf::if_modified_since>},
    {"max_ranges", in_any_http, takes(1), field<&CoreConf::max_ranges>},
    {"satisfy", in_any_http, takes(1), field<&CoreConf::satisfy>},
    {"auth_delay", in_any_http, takes(1), field<&CoreConf::auth_delay>},
    {"open_file_cache", in_any_http, takes(1, 2), call<set_open_file_cache>},
    {"open_file_cache_valid", in_any_http, takes(1), field<&CoreConf::open_file_cache_valid>},
    {"open_file_cache_min_uses", in_any_http, takes(1),
     field<&CoreConf::open_file_cache_min_uses>},
    {"open_file_cache_errors", in_any_http, takes_flag(),
     field<&CoreConf::open_file_cache_errors>},
    {"open_file_cache_events", in_any_http, takes_flag(),
     field<&CoreConf::open_file_cache_events>},
    {"disable_symlinks", in_any_http, takes(1, 2), call<set_disable_symlinks>},
    {"resolver", in_any_http | in_stream_too, takes_at_least(1), call<set_resolver>},
    {"resolver_timeout", in_any_http, takes(1), field<&CoreConf::resolver_timeout>},
    {"error_log", in_any_http, takes_at_least(1), call<set_error_log>},
    // sending
    {"sendfile", with_if, takes_flag(), field<&CoreConf::sendfile>},
    {"sendfile_max_chunk", in_any_http, takes(1), field<&CoreConf::sendfile_max_chunk>},
    {"subrequest_output_buffer_size", in_any_http, takes(1),
     field<&CoreConf::subrequest_output_buffer_size>},
    {"tcp_nopush", in_any_http, takes_flag(), field<&CoreConf::tcp_nopush>},
    {"tcp_nodelay", in_any_http, takes_flag(), field<&CoreConf::tcp_nodelay>},
    {"aio", in_any_http, takes(1), call<set_aio>},
    {"aio_write", in_any_http, takes_flag(), field<&CoreConf::aio_write>},
    {"read_ahead", in_any_http, takes(1), field<&CoreConf::read_ahead>},
    {"directio", in_any_http, takes(1), call<set_directio>},
    {"directio_alignment", in_any_http, takes(1), call<set_directio_alignment>},
    {"limit_rate", with_if, takes(1), call<set_rate>},
    {"limit_rate_after", with_if, takes(1), call<set_rate>},
    {"send_timeout", in_any_http, takes(1), field<&CoreConf::send_timeout>},
    {"send_lowat", in_any_http, takes(1), call<set_send_lowat>},
    {"postpone_output", in_any_http, takes(1), field<&CoreConf::postpone_output>},
    {"output_buffers", in_any_http, takes(2), field<&CoreConf::output_buffers>},
    {"chunked_transfer_encoding", in_any_http, takes_flag(),
     field<&CoreConf::chunked_transfer_encoding>},
    {"reset_timedout_connection", in_any_http, takes_flag(),
     field<&CoreConf::reset_timedout_connection>},
    // receiving
    {"client_max_body_size", in_any_http, takes(1), field<&CoreConf::client_max_body_size>},
    {"client_body_buffer_size", in_any_http, takes(1), field<&CoreConf::client_body_buffer_size>},
    {"client_body_timeout", in_any_http, takes(1), field<&CoreConf::client_body_timeout>},
    {"client_body_temp_path", in_any_http, takes(1, 4), field<&CoreConf::client_body_temp_path>},
    {"client_body_in_file_only", in_any_http, takes(1),
     field<&CoreConf::client_body_in_file_only>},
    {"client_body_in_single_buffer", in_any_http, takes_flag(),
     field<&CoreConf::client_body_in_single_buffer>},
    {"client_header_timeout", http_server, takes(1), field<&CoreConf::client_header_timeout>},
    {"client_header_buffer_size", http_server, takes(1),
     field<&CoreConf::client_header_buffer_size>},
    {"large_client_header_buffers", http_server, takes(2),
     field<&CoreConf::large_client_header_buffers>},
    {"max_headers", http_server, takes(1), field<&CoreConf::max_headers>},
    {"ignore_invalid_headers", http_server, takes_flag(),
     field<&CoreConf::ignore_invalid_headers>},
    {"underscores_in_headers", http_server, takes_flag(),
     field<&CoreConf::underscores_in_headers>},
    {"merge_slashes", http_server, takes_flag(), field<&CoreConf::merge_slashes>},
    // connections
    {"keepalive_timeout", in_any_http, takes(1, 2), call<set_keepalive_timeout>},
    {"keepalive_min_timeout", in_any_http, takes(1), field<&CoreConf::keepalive_min_timeout>},
    {"keepalive_time", in_any_http, takes(1), field<&CoreConf::keepalive_time>},
    {"keepalive_requests", in_any_http, takes(1), field<&CoreConf::keepalive_requests>},
    {"keepalive_disable", in_any_http, takes(1, 2), field<&CoreConf::keepalive_disable>},
    {"lingering_close", in_any_http, takes(1), field<&CoreConf::lingering_close>},
    {"lingering_time", in_any_http, takes(1), field<&CoreConf::lingering_time>},
    {"lingering_timeout", in_any_http, takes(1), field<&CoreConf::lingering_timeout>},
    // checked, and of no use to tables and pools that size themselves
    {"types_hash_max_size", in_any_http, takes(1), field<&CoreConf::types_hash_max_size>},
    {"types_hash_bucket_size", in_any_http, takes(1), field<&CoreConf::types_hash_bucket_size>},
    {"server_names_hash_max_size", in_http, takes(1),
     field<&CoreConf::server_names_hash_max_size>},
    {"server_names_hash_bucket_size", in_http, takes(1),
     field<&CoreConf::server_names_hash_bucket_size>},
    {"variables_hash_max_size", in_http, takes(1), field<&CoreConf::variables_hash_max_size>},
    {"variables_hash_bucket_size", in_http, takes(1),
     field<&CoreConf::variables_hash_bucket_size>},
    {"connection_pool_size", http_server, takes(1), call<set_pool_size>},
    {"request_pool_size", http_server, takes(1), call<set_pool_size>},
};

std::shared_ptr<MimeTypes> default_types() {
    static const auto types = [] {
        auto made = std::make_shared<MimeTypes>();
        made->by_extension = {{"html", "text/html"}, {"gif", "image/gif"}, {"jpg", "image/jpeg"}};
        return made;
    }();
    return types;
}

void merge_root(CoreConf& conf, const CoreConf* outer, conf::Binder& binder) {
    if (conf.root_set) return;
    if (outer && outer->root_set) {
        conf.root_set = true;
        conf.root = outer->root;
        conf.is_alias = outer->is_alias;
        conf.alias_replaces = outer->alias_replaces;
        conf.location_name = outer->location_name;
        return;
    }
    conf.root = ComplexValue(binder.full_path("html"));
}

void merge_files(CoreConf& conf, const CoreConf& outer) {
    if (!conf.types) conf.types = outer.types;
    if (!conf.error_pages) conf.error_pages = outer.error_pages;
    if (!conf.error_log) conf.error_log = outer.error_log;
    if (!conf.resolver) conf.resolver = outer.resolver;
    conf.internal.inherit(outer.internal);
    conf.early_hints.inherit(outer.early_hints);
    conf.connection_pool_size.inherit(outer.connection_pool_size);
    conf.request_pool_size.inherit(outer.request_pool_size);
    if (!conf.open_file_cache_set) {
        conf.open_file_cache_set = outer.open_file_cache_set;
        conf.open_file_cache_max = outer.open_file_cache_max;
        conf.open_file_cache_inactive = outer.open_file_cache_inactive;
    }
    if (!conf.disable_symlinks.is_set) {
        conf.disable_symlinks = outer.disable_symlinks;
        conf.disable_symlinks_from = outer.disable_symlinks_from;
    }
}

conf::Result<void> merge(CoreConf& conf, const CoreConf* outer, conf::Binder& binder) {
    merge_root(conf, outer, binder);
    if (outer) {
        merge_files(conf, *outer);
        conf.limit_rate.inherit(outer->limit_rate);
        conf.limit_rate_after.inherit(outer->limit_rate_after);
        if (!conf.aio.is_set) {
            conf.aio = outer->aio;
            conf.aio_pool = outer->aio_pool;
        }
        conf.directio.inherit(outer->directio);
        conf.directio_alignment.inherit(outer->directio_alignment);
        conf.send_lowat.inherit(outer->send_lowat);
        if (!conf.keepalive_timeout.is_set) {
            conf.keepalive_timeout = outer->keepalive_timeout;
            conf.keepalive_header_s = outer->keepalive_header_s;
        }
    }
    if (!conf.types) conf.types = default_types();
    if (conf.large_client_header_buffers->bytes < conf.connection_pool_size->count) {
        return core::Error{"the \"large_client_header_buffers\" size must be equal to or greater "
                           "than \"connection_pool_size\""};
    }
    return {};
}

bool has_try_files(const void* conf) {
    return static_cast<const CoreConf*>(conf)->try_files != nullptr;
}

constexpr PhaseHandler handlers[] = {
    {Phase::precontent, rank::early, try_files, has_try_files},
    {Phase::log, rank::first, run_post_action, has_post_action},
};

constexpr Filter filters[] = {
    {FilterSlot::file_read, want_file_reading, read_files, reads_files},
};

// Pools may be defined behind http{}.
conf::Result<void> check_thread_pools(Configuration& configuration) {
    const auto& known = configuration.main<MainConf>(main_module).thread_pools;
    for (const Location* location : configuration.locations) {
        const std::string& name = location->core->aio_pool;
        bool found = name.empty();
        for (const ThreadPoolConf& pool : known) found = found || pool.name == name;
        if (!found) return core::Error{"unknown thread pool \"" + name + "\""};
    }
    return {};
}

}  // namespace

const Module http_core{
    .name = "http_core",
    .conf = conf_with_merge<CoreConf, merge>,
    .directives = directives,
    .variables = core_variables,
    .handlers = handlers,
    .filters = filters,
    .prepare = check_thread_pools,
    .has_request_state = true,
};
REGISTER_MODULE(http_core);

core::Slice mime_type(const Request& request) {
    const CoreConf& conf = request.core();
    constexpr size_t extension_bytes_max = 64;
    char lower[extension_bytes_max];
    Slice extension = request.extension;
    if (extension.empty() || extension.size() > extension_bytes_max) return *conf.default_type;
    core::lower_into(lower, extension);
    const auto& types = conf.types->by_extension;
    auto found = types.find(Slice(lower, extension.size()));
    return found == types.end() ? Slice(*conf.default_type) : Slice(found->second);
}

namespace {

// Where alias and the rest of the URI meet, ".." may come about that neither of them had.
bool climbs(Slice path, size_t join) {
    size_t from = join == 0 ? 0 : path.rfind('/', join - 1);
    from = from == Slice::npos ? 0 : from;
    size_t to = path.find('/', join);
    if (to == Slice::npos) to = path.size();
    if (path[from] == '/') ++from;
    return from < to && path.substr(from, to - from) == ".." && join < to;
}

}  // namespace

core::Slice file_path(Request& request, Slice uri) {
    const CoreConf& conf = request.core();
    Slice root = conf.root.evaluate(request);
    Slice prefix;
    if (!root.empty() && root[0] != '/') prefix = Configuration::current().options().prefix;
    if (conf.is_alias) {
        if (conf.alias_replaces == Slice::npos) {
            if (!request.uri_behind_alias) uri = {};
        } else if (uri.size() < conf.alias_replaces) {
            LOG(request.log, alert, 0,
                "\"alias\" cannot be used in location \"%s\" where URI was rewritten",
                conf.location_name.c_str());
            return {};
        } else {
            uri.remove_prefix(conf.alias_replaces);
        }
    }
    size_t size = prefix.size() + root.size() + uri.size();
    char* room = request.arena.bytes(size + 1);
    char* at = room;
    for (Slice part : {prefix, root, uri}) {
        if (!part.empty()) std::memcpy(at, part.data(), part.size());
        at += part.size();
    }
    *at = '\0';
    Slice path(room, size);
    if (std::memchr(room, '\0', size)) {
        LOG(request.log, error, 0, "zero byte in the file name of \"%.*s\"",
            int(request.uri.size()), request.uri.data());
        return {};
    }
    if (conf.is_alias && !uri.empty() && climbs(path, size - uri.size())) {
        LOG(request.log, error, 0, "\"%s\" is outside of its alias", room);
        return {};
    }
    return path;
}

}  // namespace server
